"""Components of one case and its reference in; which components are true, and what changing each would do, out."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoseg.metrics.detection import LesionMatches, match_components
from autoseg.postprocessing.component_list import Classes, ComponentList
from autoseg.postprocessing.group_statistics import owners, sums
from autoseg.postprocessing.position_features import centres_mm
from autoseg.postprocessing.rows import UNKNOWN, Floats, Ints, Rows, atoms_of
from autoseg.records.dataset import Case
from autoseg.records.detection import LesionRule
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.postprocessing import LearningSettings, TruthRule
from autoseg.records.results import Box, PreprocessedCase
from autoseg.spatial.components import components
from autoseg.spatial.cropping import box_slices, mask_box


def match_reference(
    case: Case,
    meta: PreprocessedCase,
    found: ComponentList,
    features: Floats,
    names: Sequence[str],
    classes: Classes,
    reference: Classes,
    labels: LabelScheme,
    settings: LearningSettings,
) -> Rows:
    """Match the components of one case with its reference: which are true, and what each decides on.

    Args:
        case: its id and patient.
        meta: its crop box and geometry.
        found: the `n` components and candidates of `classes`.
        features: `n f`, as `features.measure` gives them.
        names: the `f` names of the features.
        classes: segmentation `z y x` on the crop box.
        reference: internal class numbers `z y x` on the whole turned grid; voxels with the ignore label count nowhere.
        labels: scheme of segmentation and reference.
        settings: when a component is true, and when a lesion is found.

    Returns:
        The table of this case; `rows.joined` puts the tables of several cases together.
    """
    inside = np.ascontiguousarray(reference[box_slices(meta.crop)])
    ignored = np.zeros(len(found.targets), dtype=np.int64)
    if labels.ignore_index is not None:
        ignored = sums(inside.reshape(-1)[found.voxels] == labels.ignore_index, found.offsets).astype(np.int64)
    truth = np.zeros(len(found.targets), dtype=np.int64)
    overlap, false = truth.copy(), truth.astype(bool)
    hit_rows: list[int] = []
    hit_lesions: list[int] = []
    lesions: list[int] = []
    for number, target in enumerate(labels.targets):
        low, high = np.searchsorted(found.targets, [number, number + 1])
        volumes = _numbered(found, int(low), int(high), target, reference, meta.crop, labels)
        matches = match_components(*volumes, settings.lesions)
        overlap[low:high], false[low:high] = matches.overlap, matches.false
        truth[low:high] = _truth(matches, volumes, settings.truth)
        for row, hits in enumerate(matches.hits, start=int(low)):
            hit_rows += [row] * len(hits)
            hit_lesions += [len(lesions) + lesion for lesion in hits]
        lesions += [number] * len(matches.lesion_sizes)
    unknown = (2 * ignored > found.sizes) & (overlap == 0)
    truth[unknown] = UNKNOWN
    atom_class, atom_rows, atom_reference = atoms_of(found, classes, inside, labels)
    return Rows(
        cases=(case.id,),
        groups=(case.patient or case.id,),
        voxel_mm3=np.array([meta.geometry.voxel_volume_mm3]),
        reference=np.bincount(reference.reshape(-1), minlength=labels.num_classes + 1)[None, : labels.num_classes],
        names=tuple(names),
        features=features,
        case=np.zeros(len(truth), dtype=np.int64),
        target=found.targets,
        levels=found.levels,
        in_largest=found.in_largest,
        sizes=found.sizes,
        overlap=overlap,
        centres_mm=centres_mm(found, meta),
        truth=truth,
        is_false=false & ~unknown,
        hit_rows=np.array(hit_rows, dtype=np.int64),
        hit_lesions=np.array(hit_lesions, dtype=np.int64),
        lesion_case=np.zeros(len(lesions), dtype=np.int64),
        lesion_target=np.array(lesions, dtype=np.int64),
        atom_case=np.zeros(len(atom_class), dtype=np.int64),
        atom_class=atom_class,
        atom_rows=atom_rows,
        atom_reference=atom_reference,
    )


Numbered = tuple[npt.NDArray[np.int32], int, npt.NDArray[np.integer], int]


def _numbered(
    found: ComponentList, low: int, high: int, target: Target, reference: Classes, box: Box, labels: LabelScheme
) -> Numbered:
    """Rows and lesions of one target as numbered volumes in the box of both, voxels to ignore left out of the rows."""
    wanted = np.isin(reference, target.members)
    voxels = found.voxels[found.offsets[low] : found.offsets[high]]
    start = np.array([side[0] for side in box])
    at = np.stack(np.unravel_index(voxels, found.shape)) + start[:, None]
    corners = [at.min(axis=1), at.max(axis=1) + 1] if len(voxels) else []
    if wanted.any():
        corners += list(np.array(mask_box(wanted)).T)
    if not corners:
        nothing = np.zeros((1, 1, 1), dtype=np.int32)
        return nothing, 0, nothing, 0
    first, last = np.min(corners, axis=0), np.max(corners, axis=0)
    where = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    rows = np.zeros(tuple(last - first), dtype=np.int32)
    rows[tuple(at - first[:, None])] = owners(found.offsets[low : high + 1] - found.offsets[low]) + 1
    if labels.ignore_index is not None:
        rows[reference[where] == labels.ignore_index] = 0
    lesions, count = components(wanted[where])
    return rows, high - low, lesions, count


def _truth(matches: LesionMatches, volumes: Numbered, rule: TruthRule) -> Ints:
    """1 for each row that is true by the rule."""
    if rule.measure == "iou":
        hits = match_components(*volumes, LesionRule(measure="iou", minimum=rule.minimum)).hits
        return np.array([len(lesions) > 0 for lesions in hits], dtype=np.int64)
    least = rule.minimum if rule.measure == "voxels" else rule.minimum * matches.candidate_sizes
    return ((matches.overlap >= least) & (matches.overlap > 0)).astype(np.int64)

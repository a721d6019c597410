"""A case's stored probabilities, its segmentation and reference in; calibration and scored lesion candidates out.

Probabilities lie on the crop box of the turned grid; outside it every voxel is background without question, so those
voxels are not counted. They are read in slabs, so that memory does not grow with the number of classes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoseg.inference.export import slabs
from autoseg.inference.store import meta_path, probabilities_path, read_meta, read_probabilities
from autoseg.metrics.calibration import CalibrationBins, add_bins, calibration_bins
from autoseg.metrics.detection import LesionMatches, ScoredCandidate, match_components, scored_candidates
from autoseg.records.detection import LesionRule
from autoseg.records.labels import IntArray, LabelScheme, Target
from autoseg.spatial.components import components
from autoseg.spatial.cropping import crop
from autoseg.spatial.orientation import Turn, turn
from autoseg.storage.arrays import array_shape

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ProbabilityScores:
    """What a case's probabilities say, by target."""

    bins: dict[str, CalibrationBins]
    """Voxels by the probability of the target, each target as a yes-or-no question."""
    candidates: dict[str, list[ScoredCandidate]]
    """Components of the segmentation, scored by the mean probability of the target inside; only if a rule is given."""


def has_probabilities(folder: Path, case: str) -> bool:
    """Whether the probabilities of a case lie beside its segmentation, as they do after validation."""
    return probabilities_path(folder, case).is_file() and meta_path(folder, case).is_file()


def measure_probabilities(
    folder: Path, case: str, prediction: IntArray, reference: IntArray, labels: LabelScheme, rule: LesionRule | None
) -> ProbabilityScores:
    """Compare probabilities with the reference.

    Args:
        folder: where the probabilities lie.
        case: its id.
        prediction: `Z Y X` internal class numbers in the voxel order of the case's image.
        reference: likewise; voxels to ignore are left out.
        labels: scheme of the heads.
        rule: when a candidate finds a lesion; None: no candidates.

    Raises:
        DataError, ModelError: the probabilities cannot be read.
    """
    meta = read_meta(folder, case)
    found, wanted = (turn(array, Turn(meta.axes, meta.flips)) for array in (prediction, reference))
    if labels.ignore_index is not None:
        found = np.where(wanted == labels.ignore_index, 0, found)
    numbered = {} if rule is None else {t.name: _numbered(found, wanted, t, rule) for t in labels.targets}
    inside = crop(wanted, meta.crop)
    as_regions = labels.model_copy(
        update={"regions": labels.targets, "region_order": tuple(t.members[0] for t in labels.targets)}
    )
    parts: dict[str, list[CalibrationBins]] = {target.name: [] for target in labels.targets}
    sums = {name: np.zeros(len(matches.candidate_sizes) + 1) for name, (_, matches) in numbered.items()}
    for rows in slabs(array_shape(probabilities_path(folder, case))):
        p = _of_targets(read_probabilities(folder, case, rows).astype(np.float64), labels)
        for name, bins in calibration_bins(p, inside[rows], as_regions).items():
            parts[name].append(bins)
        for target, own in zip(labels.targets, p, strict=True):
            if target.name in numbered:
                numbers = crop(numbered[target.name][0], meta.crop)[rows].ravel()
                sums[target.name] += np.bincount(numbers, weights=own.ravel(), minlength=len(sums[target.name]))
    return ProbabilityScores(
        bins={name: add_bins(bins) for name, bins in parts.items()},
        candidates={
            name: scored_candidates(case, matches, (sums[name][1:] / matches.candidate_sizes).tolist())
            for name, (_, matches) in numbered.items()
        },
    )


def _of_targets(p: Floats, labels: LabelScheme) -> Floats:
    """Probability of each target, `t z y x`: a region's own head, or the sum over its classes."""
    return p if labels.has_regions else np.stack([p[list(target.members)].sum(axis=0) for target in labels.targets])


def _numbered(
    found: IntArray, wanted: IntArray, target: Target, rule: LesionRule
) -> tuple[npt.NDArray[np.integer], LesionMatches]:
    """The target's components in the segmentation, numbered, and which lesions they find."""
    candidates, num_candidates = components(np.isin(found, target.members))
    lesions, num_lesions = components(np.isin(wanted, target.members))
    return candidates, match_components(candidates, num_candidates, lesions, num_lesions, rule)

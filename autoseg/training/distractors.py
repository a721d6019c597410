"""Out-of-fold segmentations in, the false-positive components of each training case as a class of their own out.

A false positive is a 26-connected component of a predicted target that shares no voxel with the reference's
foreground (or at most an adjustable share of its voxels). Voxels to ignore count neither as the one nor as the other.
Only voxels whose reference is background become distractors, so that no label is ever overruled.

The stored labels are left as they are. Each case gets a small map beside them, on the same grid, and the class is put
in when voxels are read. The folder is named by what decides it, as that of a cascade's previous stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg import console
from autoseg.errors import ModelError
from autoseg.preprocessing import store
from autoseg.preprocessing.locations import FlatIndices, draw_voxels
from autoseg.records.base import read_record, write_record
from autoseg.records.distractors import DistractorCensus, DistractorCount, Distractors
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Manifest
from autoseg.spatial.components import components
from autoseg.spatial.cropping import crop, mask_box
from autoseg.storage.arrays import read_array, write_array
from autoseg.storage.hashing import sha256_json
from autoseg.training.out_of_fold import find_out_of_fold, held_out_segmentation

CENSUS = "distractors.json"
"""Record `DistractorCensus` in the folder of a fold."""

LEARNER = "A training with distractors"
"""For messages."""

IntArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MarkedCases:
    """Training cases whose distractors are known."""

    paths: Mapping[str, Path]
    """Case id -> `.b2nd` map `Z Y X`, uint8, 1 where a distractor is."""
    labels: LabelScheme
    """The dataset's, in whose numbers labels are stored."""
    census: DistractorCensus


def mark_distractors(
    rule: Distractors,
    folds: Sequence[Path],
    store_folder: Path,
    manifest: Manifest,
    labels: LabelScheme,
    patch_zyx: Sequence[int],
    folder: Path,
    cases: Sequence[str],
) -> MarkedCases:
    """Find the false positives of training cases and keep them as maps on the network's grid.

    Args:
        rule: what a false positive is.
        folds: folders of all cross-validation folds of the base.
        store_folder: preprocessed cases.
        manifest: of that folder.
        labels: the dataset's scheme.
        patch_zyx: training patch, for chunks.
        folder: where the maps are kept.
        cases: to train on.

    Raises:
        UsageError: a fold of the base is not trained, or none of them holds out one of the cases.
    """
    out_of_fold = find_out_of_fold(folds, cases, LEARNER)
    decided_by = sha256_json([out_of_fold.digest, sha256_json(manifest.decided_by), rule.max_overlap])
    out = folder / decided_by[:16]
    paths, counts = {case: out / f"{case}.b2nd" for case in cases}, {case: out / f"{case}.json" for case in cases}
    waiting = [case for case in cases if not (paths[case].is_file() and counts[case].is_file())]
    for case in console.track(waiting, len(waiting), "finding distractors"):
        found = held_out_segmentation(out_of_fold, manifest.cases[case], labels)
        mask = false_positives(found, store.read_labels(store_folder, case), labels, rule.max_overlap)
        write_array(paths[case], mask.astype(np.uint8), (patch_zyx[0], patch_zyx[1], patch_zyx[2]))
        count = DistractorCount(components=components(mask)[1], voxels=int(mask.sum()))
        write_record(counts[case], count)
    found_in = {case: read_record(counts[case], DistractorCount, ModelError) for case in cases}
    return MarkedCases(paths, labels, DistractorCensus(decided_by=decided_by, cases=found_in))


def false_positives(found: IntArray, reference: IntArray, labels: LabelScheme, max_overlap: float) -> BoolArray:
    """Voxels of false-positive components whose reference is background.

    Args:
        found: `Z Y X` internal classes.
        reference: `Z Y X` internal classes; voxels to ignore belong to no component.
        labels: scheme of both; components are those of its targets (classes or regions), each by itself.
        max_overlap: largest share of a component's voxels that may lie on foreground of the reference.

    Returns:
        `Z Y X`.
    """
    scored = (found > 0) & (reference != labels.ignore_index)
    marked = np.zeros(found.shape, dtype=np.bool_)
    box = mask_box(scored)
    inside, wanted, counted = crop(found, box), crop(reference, box), crop(scored, box)
    result = crop(marked, box)  # a view: what is marked here is marked in the whole
    for target in labels.targets:
        mask = np.isin(inside, target.members) & counted
        numbers, count = components(mask)
        flat, hits = numbers[mask], wanted[mask] > 0
        sizes = np.bincount(flat, minlength=count + 1)
        overlaps = np.bincount(flat[hits], minlength=count + 1)
        is_false = overlaps <= max_overlap * sizes
        result[mask] |= is_false[flat] & ~hits
    return marked


def with_distractors(stored: IntArray, mask: IntArray, labels: LabelScheme) -> npt.NDArray[np.int16]:
    """Stored labels in the numbers of `labels.with_distractor()`, the voxels of `mask` as distractors."""
    learned = stored.astype(np.int16)
    learned[stored == labels.num_classes] += 1  # voxels to ignore, whose number the distractor takes
    learned[mask != 0] = labels.num_classes
    return learned


def read_with_distractors(
    marked: MarkedCases, case: str, stored: IntArray, box: tuple[slice, slice, slice] | None
) -> npt.NDArray[np.int16]:
    """The case's stored labels (or those of `box`) with its distractors in."""
    return with_distractors(stored, read_array(marked.paths[case], box), marked.labels)


def locations_with_distractors(
    marked: MarkedCases, case: str, locations: Sequence[FlatIndices]
) -> tuple[FlatIndices, ...]:
    """Stored locations with some voxels of the distractors as those of the target behind the dataset's."""
    number = len(marked.labels.targets)
    voxels = np.flatnonzero(read_array(marked.paths[case]))
    return (*locations[:number], draw_voxels(voxels, case, number), *locations[number:])

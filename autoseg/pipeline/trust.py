"""Stage: the selected candidate's held-out predictions and scores in, `trust.json` out.

What `predict` says about a new case is learned here: how good its segmentation may be, between what its volumes lie,
and whether the scan is unlike those it was trained with. Dice and volumes are those of `evaluation.json`, with
post-processing. Called again for the same selection and scores, the stage is skipped.
"""

from pathlib import Path

import torch

from autoseg import console
from autoseg.errors import UsageError
from autoseg.inference.export import slabs
from autoseg.inference.store import probabilities_path, read_disagreement, read_meta
from autoseg.metrics.build import case_mean
from autoseg.preprocessing import store
from autoseg.records.base import read_record, write_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Plan
from autoseg.records.results import Evaluation, Manifest, PreprocessedCase, Selection
from autoseg.records.trust import Trust, VolumeInterval
from autoseg.records.workspace import Paths
from autoseg.selection.conformal import LEVEL, fewest_cases, fit_interval
from autoseg.selection.features import FeatureSums
from autoseg.selection.held_out import HeldOut, calibrated_probabilities, common_cases, find_held_out
from autoseg.selection.out_of_distribution import known_ranges
from autoseg.selection.quality import FEWEST_CASES, fit_quality
from autoseg.storage.arrays import array_shape
from autoseg.storage.hashing import sha256_file, sha256_json


def learn_trust(paths: Paths, plan: Plan) -> Trust:
    """Learn what to say about single predictions of the selected candidate, and write `trust.json`.

    Raises:
        UsageError: nothing is selected yet.
        ModelError: files of a trained fold are missing.
    """
    selection = read_record(paths.selection, Selection, UsageError, "Run `autoseg select` first.")
    evaluation = read_record(paths.evaluation, Evaluation, UsageError, "Run `autoseg select` first.")
    inputs = sha256_json([selection.decided_by, sha256_file(paths.evaluation)])
    if paths.trust.is_file():
        earlier = read_record(paths.trust, Trust)
        if earlier.inputs == inputs:
            console.say("predicted quality and volumes: done already")
            return earlier
    held_out = {name: held for name, held in find_held_out(paths, plan).items() if name in selection.configurations}
    members = [held_out[name] for name in selection.configurations]
    cases = [case for case in common_cases(held_out) if case in evaluation.cases]
    features = {
        case: measure_features(case, members, plan.labels)
        for case in console.track(cases, len(cases), "learning what predictions are worth")
    }
    dice = {case: case_mean(evaluation.cases[case]) for case in cases}
    groups = {case: members[0].folders[case].parent.name for case in cases}
    quality = fit_quality(features, dice, groups)
    volumes = _volume_intervals(evaluation, plan.labels)
    training = _training_cases(paths, plan, selection.configurations[0], members[0])
    known = known_ranges(training)
    notes = _notes(quality is None, volumes, all(case.intensities for case in training))
    trust = Trust(
        decided_by=selection.decided_by, inputs=inputs, quality=quality, volumes=volumes, known=known, notes=notes
    )
    write_record(paths.trust, trust)
    return trust


def measure_features(case: str, members: list[HeldOut], labels: LabelScheme) -> dict[str, float]:
    """Features of a held-out case, slab by slab from what validation stored."""
    folders = [held.folders[case] for held in members]
    sums = FeatureSums(labels, read_meta(folders[0], case).geometry.voxel_volume_mm3)
    for rows in slabs(array_shape(probabilities_path(folders[0], case))):
        probabilities = [torch.from_numpy(calibrated_probabilities(held, case, labels, rows)) for held in members]
        stored = [read_disagreement(folder, case, rows) for folder in folders]
        sums.add(probabilities, [one for one in stored if one is not None])
    return sums.result()


def _volume_intervals(evaluation: Evaluation, labels: LabelScheme) -> dict[str, VolumeInterval]:
    intervals = {}
    for target in labels.targets:
        scores = [case[target.name] for case in evaluation.cases.values() if target.name in case]
        pairs = [score.volume_mm3 for score in scores], [score.reference_volume_mm3 for score in scores]
        intervals[target.name] = fit_interval(*pairs)
    return intervals


def _training_cases(paths: Paths, plan: Plan, configuration: str, held: HeldOut) -> list[PreprocessedCase]:
    """All preprocessed training cases; where they were deleted, those that were held out."""
    manifest = _manifest_path(paths, plan, configuration)
    if manifest is not None and manifest.is_file():
        return list(read_record(manifest, Manifest).cases.values())
    return [read_meta(folder, case) for case, folder in held.folders.items()]


def _manifest_path(paths: Paths, plan: Plan, configuration: str) -> Path | None:
    if not paths.fingerprint.is_file():
        return None
    digest = store.digest(plan, configuration, read_record(paths.fingerprint, Fingerprint))
    return paths.preprocessed(digest) / store.MANIFEST


def _notes(no_quality: bool, volumes: dict[str, VolumeInterval], has_intensities: bool) -> tuple[str, ...]:
    notes = []
    if no_quality:
        notes.append(f"No quality is predicted: that needs {FEWEST_CASES} held-out cases with a defined Dice.")
    without = [name for name, interval in volumes.items() if interval.log_ratio is None]
    if without:
        needed = fewest_cases(LEVEL)
        notes.append(
            f"No {LEVEL:.0%} interval of the volume of {', '.join(without)}: that needs {needed} held-out cases."
        )
    if not has_intensities:
        notes.append("Intensities are not compared: the training cases were preprocessed before they were measured.")
    return tuple(notes)

"""Stage: reference labels and what held-out predictions say of them in, `audit/` out: JSON, CSV and an HTML page.

Every training case is ranked by how probably its reference is wrong. A case that a trained fold held out is
held against that fold's probabilities, twice: first to learn how confident the model is where it should be, then to
measure. The other cases, and all cases before anything is trained, are compared by their labels alone. Nothing in
the dataset's folder is changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoseg import console
from autoseg.auditing.corrections import measure_corrections
from autoseg.auditing.disagreement import confidence_sums, confidence_thresholds, find_parts
from autoseg.auditing.evidence import Evidence, gather
from autoseg.auditing.labels_alone import LEAST_CASES, LabelFacts, label_facts
from autoseg.auditing.ranking import Prediction, rank_cases
from autoseg.auditing.rarity import THRESHOLD
from autoseg.errors import DataError, UsageError
from autoseg.images.formats import PICTURES, TIFF
from autoseg.images.reading import read_geometry, read_image
from autoseg.inference.store import read_meta
from autoseg.planning.symmetry import left_right_pairs
from autoseg.records.audit import Audit, AuditedCase
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Case, Dataset
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.geometry import Geometry
from autoseg.records.plan import Plan
from autoseg.records.results import Selection
from autoseg.records.workspace import Paths
from autoseg.reporting.examples import draw_slice
from autoseg.reporting.figures import class_colours
from autoseg.reporting.html import Picture, render_page
from autoseg.reporting.suspicions import audit_facts, audit_sections, suspicion_caption
from autoseg.selection.held_out import (
    HeldOut,
    calibrated_probabilities,
    common_cases,
    find_held_out,
    reference_of,
    segmentation_of,
)
from autoseg.spatial.orientation import Turn
from autoseg.storage.atomic import write_text
from autoseg.storage.tables import csv_text

TOLERANCE_MM = 2.0
"""Where no other is asked for: careful people differ by about this much where they draw an organ's border."""
NUM_PICTURES = 24
_PICTURES_OF_A_CASE = 3

Classes = npt.NDArray[np.int16]


@dataclass(frozen=True)
class _Asked:
    """Whose held-out predictions are asked, and about which cases."""

    members: dict[str, HeldOut]
    cases: frozenset[str]


def audit(
    paths: Paths, plan: Plan | None, tolerance_mm: float = TOLERANCE_MM, num_pictures: int = NUM_PICTURES
) -> Audit:
    """Rank the training cases by how probably their references are wrong.

    Args:
        paths: where the dataset's records lie.
        plan: whose held-out predictions are asked; None, or nothing trained: the labels alone are looked at.
        tolerance_mm: of borders.
        num_pictures: suspicions that are drawn at most.

    Returns:
        The ranking, also written to `audit/`; what could not be read is in `failed`.

    Raises:
        UsageError: the workspace knows no such dataset, or it has no training cases.
        ModelError: files of a trained fold are missing.
    """
    dataset = read_record(paths.dataset, Dataset, remedy="Next: autoseg fingerprint DATASET")
    if not dataset.training:
        raise UsageError(f"{dataset.name} has no training cases, so there is no reference to audit.")
    asked = _whom_to_ask(paths, plan)
    failed: dict[str, str] = {}
    facts, thresholds = _first_look(paths, dataset, asked, failed)
    pairs = left_right_pairs([target.name for target in dataset.labels.targets])
    has_sides = not dataset.file_ending.endswith((*TIFF, *PICTURES))  # other formats know the patient's sides
    predictions = _second_look(dataset, asked, thresholds, tolerance_mm, pairs, failed)
    cases = rank_cases(facts, predictions, [t.name for t in dataset.labels.targets], pairs if has_sides else ())
    found = Audit(
        dataset=dataset.name,
        plan=plan.name if plan is not None and asked.cases else None,
        configurations=tuple(asked.members) if asked.cases else (),
        tolerance_mm=tolerance_mm,
        threshold=THRESHOLD,
        cases=cases,
        notes=_notes(len(dataset.training), len(predictions), bool(pairs), has_sides),
        failed=failed,
    )
    write_record(paths.audit / "audit.json", found)
    write_text(paths.audit / "audit.csv", to_csv(found))
    _write_page(paths, dataset, asked, found, num_pictures)
    return found


def to_csv(found: Audit) -> str:
    """One row a suspicion, most suspicious case first; a case without any has one row with empty cells."""
    columns = ["rank", "case", "case_score", "has_prediction", "kind", "targets", "score", "gain", "volume_mm3"]
    rows: list[list[str | float | None]] = []
    for rank, case in enumerate(found.cases, 1):
        about: list[str | float | None] = [rank, case.case, round(case.score, 3), str(case.has_prediction).lower()]
        for s in case.suspicions:
            where = s.voxel or (None, None, None)
            gain = None if s.gain is None else round(s.gain, 4)
            rows.append([*about, s.kind, ", ".join(s.targets), round(s.score, 3), gain, s.volume_mm3, *where, s.why])
        if not case.suspicions:
            rows.append([*about, *([None] * 9)])
    return csv_text([*columns, "z", "y", "x", "why"], rows)


def _whom_to_ask(paths: Paths, plan: Plan | None) -> _Asked:
    """What `select` chose from the plan; before that, the configuration with most held-out cases."""
    held_out = find_held_out(paths, plan) if plan is not None else {}
    if plan is None or not held_out:
        return _Asked({}, frozenset())
    selection = read_record(paths.selection, Selection) if paths.selection.is_file() else None
    chosen = selection.configurations if selection is not None and selection.plan == plan.name else ()
    if not chosen or any(name not in held_out for name in chosen):
        chosen = (max(held_out, key=lambda name: len(held_out[name].folders)),)
    members = {name: held_out[name] for name in chosen}
    return _Asked(members, frozenset(common_cases(members)))


def _first_look(
    paths: Paths, dataset: Dataset, asked: _Asked, failed: dict[str, str]
) -> tuple[dict[str, LabelFacts], list[float]]:
    """Facts of every label, and the confidence thresholds from all held-out cases; fills `failed`."""
    fingerprint = read_record(paths.fingerprint, Fingerprint) if paths.fingerprint.is_file() else None
    facts: dict[str, LabelFacts] = {}
    sums = []
    what = f"{dataset.name}: reading labels"
    for case in console.track(dataset.training, len(dataset.training), what):
        try:
            geometry = _geometry(dataset, case, asked)
            reference = reference_of(dataset, case.id, geometry)
            if case.id in asked.cases:
                sums.append(confidence_sums(_evidence(dataset, case.id, reference, asked)))
        except DataError as error:
            failed[case.id] = str(error)
            continue
        measured = None if fingerprint is None else fingerprint.cases.get(case.id)
        relative_size = 1.0 if measured is None else measured.relative_size_after_crop
        facts[case.id] = label_facts(reference, geometry, dataset.labels, relative_size)
    thresholds = confidence_thresholds(sums) if sums else [1.0] * len(dataset.labels.targets)
    return facts, thresholds


def _second_look(
    dataset: Dataset,
    asked: _Asked,
    thresholds: Sequence[float],
    tolerance_mm: float,
    pairs: Sequence[tuple[int, int]],
    failed: Mapping[str, str],
) -> dict[str, Prediction]:
    """What the held-out predictions say of each reference that could be read."""
    predictions = {}
    cases = [case.id for case in dataset.training if case.id in asked.cases and case.id not in failed]
    for case in console.track(cases, len(cases), f"{dataset.name}: holding labels against predictions"):
        meta = read_meta(next(iter(asked.members.values())).folders[case], case)
        evidence = _evidence(dataset, case, reference_of(dataset, case, meta.geometry), asked)
        parts = find_parts(evidence, thresholds, tolerance_mm)
        predictions[case] = Prediction(
            corrections=tuple(measure_corrections(evidence, pairs)),
            parts=tuple((part, evidence.file_voxel(part.centre)) for part in parts),
            volumes_mm3=tuple(
                float((target.probability >= 0.5).sum()) * evidence.voxel_mm3 for target in evidence.targets
            ),
            dice=tuple(target.dice() if target.voxels else None for target in evidence.targets),
        )
    return predictions


def _geometry(dataset: Dataset, case: Case, asked: _Asked) -> Geometry:
    if case.id in asked.cases:
        return read_meta(next(iter(asked.members.values())).folders[case.id], case.id).geometry
    return read_geometry(Path(dataset.root) / case.images[0])


def _evidence(dataset: Dataset, case: str, reference: Classes, asked: _Asked) -> Evidence:
    first, *others = asked.members.values()
    meta = read_meta(first.folders[case], case)
    mean = calibrated_probabilities(first, case, dataset.labels).astype(np.float32)
    for other in others:
        mean += calibrated_probabilities(other, case, dataset.labels)
    mean /= len(asked.members)
    return gather(case, reference, mean, dataset.labels, meta.geometry, Turn(meta.axes, meta.flips), meta.crop)


def _notes(num_cases: int, num_predicted: int, has_pairs: bool, has_sides: bool) -> tuple[str, ...]:
    notes = []
    if num_predicted == 0:
        notes.append(
            "No fold is trained, so only volumes, missing classes and sides were compared: shifted labels, wrong "
            "borders and wrong parts are not seen. Train the folds and audit again."
        )
    elif num_predicted < num_cases:
        notes.append(
            f"{num_cases - num_predicted} of {num_cases} cases have no held-out prediction; of them the labels alone "
            "were looked at. Train the other folds and audit again."
        )
    if 0 < num_predicted < LEAST_CASES or num_cases < LEAST_CASES:
        notes.append("There are too few cases to say what is usual: read the scores with caution.")
    if not has_pairs:
        notes.append(
            "No two targets are a left and a right of the same thing by their names: exchanged sides are not seen."
        )
    elif not has_sides:
        notes.append(
            "Images of this format do not tell the patient's sides: those were compared with predictions only."
        )
    return tuple(notes)


def _write_page(paths: Paths, dataset: Dataset, asked: _Asked, found: Audit, num_pictures: int) -> None:
    colours = class_colours([target.name for target in dataset.labels.targets])
    pictures: dict[str, list[Picture]] = {}
    left = num_pictures
    for case in found.cases:
        if not case.suspicions or left <= 0:
            break
        try:
            pictures[case.case] = _draw(dataset, asked, case, min(left, _PICTURES_OF_A_CASE), colours)
        except DataError as error:
            console.warn(f"{case.case} is not drawn: {error}")
            continue
        left -= len(pictures[case.case])
    subtitle = f"Audit of the reference labels, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    page = render_page(dataset.name, subtitle, audit_facts(found), audit_sections(found, pictures, colours))
    write_text(paths.audit / "index.html", page)


def _draw(dataset: Dataset, asked: _Asked, case: AuditedCase, most: int, colours: Mapping[str, str]) -> list[Picture]:
    """Pictures of a case's first suspicions."""
    entry = next(entry for entry in dataset.training if entry.id == case.case)
    image = read_image([Path(dataset.root) / file for file in entry.images])
    reference = reference_of(dataset, case.case, image.geometry)
    predicted = np.zeros_like(reference)
    if case.has_prediction:
        predicted, _ = segmentation_of(case.case, list(asked.members.values()), dataset.labels)
    pictures = []
    for suspicion in case.suspicions[:most]:
        uri, where = draw_slice(image, reference, predicted, dataset.labels, colours, suspicion.voxel, True)
        pictures.append(Picture(uri, suspicion_caption(suspicion, where), f"Slice of {case.case} with contours"))
    return pictures

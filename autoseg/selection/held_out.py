"""Folders of trained folds in, each held-out case's probabilities, segmentation and counts out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoseg.datasets.pairs import on_grid_of
from autoseg.errors import DataError, ModelError
from autoseg.images.reading import read_label
from autoseg.inference.export import Probabilities
from autoseg.inference.model import weights_digest
from autoseg.inference.probability_reader import ProbabilityReader, labels_from_probabilities
from autoseg.inference.store import probabilities_path, read_meta, read_probabilities
from autoseg.inference.temperature import tempered, tempered_pieces
from autoseg.records.base import read_record
from autoseg.records.calibration import Calibration, ConfigurationCalibration
from autoseg.records.dataset import Case, Dataset
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Plan
from autoseg.records.results import PreprocessedCase, TrainedFold
from autoseg.records.workspace import Paths
from autoseg.selection.ensembles import ReadRows
from autoseg.spatial.cropping import crop
from autoseg.spatial.orientation import Turn, turn
from autoseg.storage.arrays import array_shape
from autoseg.storage.hashing import sha256_json

Classes = npt.NDArray[np.int16]


@dataclass(frozen=True)
class HeldOut:
    """The finished cross-validation folds of one configuration and what they predicted for their held-out cases."""

    folds: tuple[str, ...]
    folders: dict[str, Path]
    """Case id -> validation folder of the fold that did not train on it."""
    digest: str
    """Changes when a fold is trained anew."""
    temperatures: dict[str, float] = field(default_factory=dict)
    """Case id -> what divides its stored logits (see `records.calibration`); 1 for a case that is not in here."""


def find_held_out(paths: Paths, plan: Plan) -> dict[str, HeldOut]:
    """Configurations of the plan with at least one finished cross-validation fold, calibrated where they were.

    Raises:
        ModelError: a finished fold lacks the probabilities of a held-out case.
    """
    known = read_record(paths.calibration, Calibration) if paths.calibration.is_file() else None
    calibrated = known.configurations if known is not None and known.plan == plan.name else {}
    found: dict[str, HeldOut] = {}
    for name in plan.configurations:
        folders = sorted(paths.configuration(plan.name, name).glob("fold_*/fold.json"))
        records = {path.parent: read_record(path, TrainedFold, ModelError) for path in folders}
        numbered = {folder: trained for folder, trained in records.items() if trained.validation_cases}
        if numbered:
            found[name] = _held_out(numbered, calibrated.get(name))
    return found


def calibrated_probabilities(held: HeldOut, case: str, labels: LabelScheme, rows: slice | None = None) -> Probabilities:
    """Held-out probabilities `H z y x` of a case, or of `rows` along z, as prediction would give them."""
    return tempered(read_probabilities(held.folders[case], case, rows), held.temperatures.get(case, 1.0), labels)


def calibrated_pieces(held: HeldOut, case: str, labels: LabelScheme) -> ProbabilityReader:
    """The same, read when it is looked at."""
    return tempered_pieces(probabilities_path(held.folders[case], case), held.temperatures.get(case, 1.0), labels)


def common_cases(held_out: Mapping[str, HeldOut]) -> list[str]:
    """Cases that every configuration has held out, sorted."""
    return sorted(set.intersection(*(set(held.folders) for held in held_out.values()))) if held_out else []


def training_case(dataset: Dataset, case_id: str) -> Case:
    """The case with this id; raises DataError when it was removed from the dataset since it was held out."""
    for case in dataset.training:
        if case.id == case_id:
            return case
    raise DataError(
        f"case {case_id} was held out by a trained fold, but is no training case of {dataset.name} any more. "
        "Train this fold again on the cases of now."
    )


def reference_of(dataset: Dataset, case_id: str, geometry: Geometry) -> Classes:
    """Reference `Z Y X` in internal class numbers, in the voxel order of the image's grid; raises DataError."""
    case = training_case(dataset, case_id)
    path = Path(dataset.root) / str(case.label)
    label = on_grid_of(geometry, read_label(path), case)
    return dataset.labels.to_internal(label.array[0], str(path))


def stored_segmentation(file: Path, geometry: Geometry, labels: LabelScheme) -> Classes:
    """A held-out segmentation `Z Y X` in internal class numbers from the file that validation wrote.

    Args:
        file: in the folder `validation` of a fold.
        geometry: grid of its image.
        labels: scheme of its values.

    Raises:
        DataError: the file is missing or damaged, or has another shape than its image.
    """
    array = read_label(file).array[0]
    if array.shape != geometry.shape:
        raise DataError(f"{file} has shape {array.shape}, its image {geometry.shape}.")
    return labels.to_internal(array, str(file))


@dataclass(frozen=True)
class InBox:
    """One case inside its crop box on the turned grid, which all configurations of a plan share."""

    meta: PreprocessedCase
    reference: Classes
    """`z y x` internal class numbers."""
    outside: npt.NDArray[np.int64]
    """Voxels of each class of the reference outside the box, where every prediction is background."""
    shape: tuple[int, ...]
    """Of the probabilities, `H z y x`."""


def in_box(case: str, held_out: Mapping[str, HeldOut], reference: Classes, labels: LabelScheme) -> InBox:
    """A case's reference `Z Y X` brought to where its stored probabilities lie.

    Raises:
        ModelError: the configurations do not share one crop, so they cannot be averaged.
    """
    folders = {name: held.folders[case] for name, held in held_out.items()}
    meta = _shared_meta(case, folders)
    turned = turn(reference, Turn(meta.axes, meta.flips))
    inside = crop(turned, meta.crop)
    outside = _histogram(turned, labels) - _histogram(inside, labels)
    return InBox(meta, inside, outside, array_shape(probabilities_path(next(iter(folders.values())), case)))


def readers_of(case: str, held_out: Mapping[str, HeldOut], labels: LabelScheme) -> dict[str, ReadRows]:
    """Configuration -> function that gives its calibrated probabilities of a case for rows along z."""

    def reader(held: HeldOut) -> ReadRows:
        return lambda rows: calibrated_probabilities(held, case, labels, rows)

    return {name: reader(held) for name, held in held_out.items()}


def segmentation_of(case: str, members: Sequence[HeldOut], labels: LabelScheme) -> tuple[Classes, PreprocessedCase]:
    """Held-out segmentation of a case by one configuration or an ensemble.

    Returns:
        Internal class numbers `Z Y X` int16 on the image file's grid, and how the case was turned and cropped.

    Raises:
        DataError: the probabilities cannot be read.
        ModelError: validation of a fold did not finish.
    """
    meta = read_meta(members[0].folders[case], case)
    probabilities = [calibrated_pieces(held, case, labels) for held in members]
    return labels_from_probabilities(probabilities, meta, labels), meta


def _held_out(folds: Mapping[Path, TrainedFold], calibrated: ConfigurationCalibration | None) -> HeldOut:
    folders: dict[str, Path] = {}
    temperatures: dict[str, float] = {}
    for folder, trained in folds.items():
        validation = folder / "validation"
        missing = [case for case in trained.validation_cases if not probabilities_path(validation, case).is_file()]
        if missing:
            raise ModelError(f"{validation} lacks the probabilities of {', '.join(missing)}. Train this fold again.")
        folders.update(dict.fromkeys(trained.validation_cases, validation))
        fitted = calibrated.folds.get(trained.fold) if calibrated is not None else None
        if fitted is not None and fitted.weights_sha256 == weights_digest(folder):
            temperatures |= fitted.held_out
    digest = sha256_json([weights_digest(folder) for folder in folds])
    return HeldOut(tuple(trained.fold for trained in folds.values()), folders, digest, temperatures)


def _shared_meta(case: str, folders: Mapping[str, Path]) -> PreprocessedCase:
    metas = {name: read_meta(folder, case) for name, folder in folders.items()}
    first_name, first = next(iter(metas.items()))
    for name, meta in metas.items():
        if (meta.axes, meta.flips, meta.crop) != (first.axes, first.flips, first.crop):
            raise ModelError(f"case {case}: {first_name} and {name} crop it differently; train them with one plan.")
    return first


def _histogram(classes: Classes, labels: LabelScheme) -> npt.NDArray[np.int64]:
    """Voxels of each class, those to ignore left out."""
    return np.bincount(classes.reshape(-1), minlength=labels.num_classes + 1)[: labels.num_classes]

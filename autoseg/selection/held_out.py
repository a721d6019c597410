"""Folders of trained folds in, each held-out case's probabilities, segmentation and counts out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoseg.datasets.pairs import on_grid_of
from autoseg.errors import DataError, ModelError
from autoseg.images.reading import read_label
from autoseg.inference.export import labels_from_probabilities
from autoseg.inference.model import weights_digest
from autoseg.inference.store import probabilities_path, read_meta, read_probabilities
from autoseg.metrics.overlap import Matrix
from autoseg.records.base import read_record
from autoseg.records.dataset import Case, Dataset
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Plan
from autoseg.records.results import PreprocessedCase, TrainedFold
from autoseg.records.workspace import Paths
from autoseg.selection.ensembles import Members, count_ensembles
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


def find_held_out(paths: Paths, plan: Plan) -> dict[str, HeldOut]:
    """Configurations of the plan with at least one finished cross-validation fold.

    Raises:
        ModelError: a finished fold lacks the probabilities of a held-out case.
    """
    found: dict[str, HeldOut] = {}
    for name in plan.configurations:
        folders = sorted(paths.configuration(plan.name, name).glob("fold_*/fold.json"))
        records = {path.parent: read_record(path, TrainedFold, ModelError) for path in folders}
        numbered = {folder: trained for folder, trained in records.items() if trained.validation_cases}
        if numbered:
            found[name] = _held_out(numbered)
    return found


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


def count_case(
    case: str, held_out: Mapping[str, HeldOut], reference: Classes, labels: LabelScheme
) -> dict[Members, Matrix]:
    """Confusion counts of every ensemble of the configurations over one whole image.

    Args:
        case: its id.
        held_out: configuration -> where its probabilities lie.
        reference: `Z Y X` on the image's grid.
        labels: scheme of the heads.

    Raises:
        ModelError: the configurations do not share one crop, so they cannot be averaged.
    """
    folders = {name: held.folders[case] for name, held in held_out.items()}
    meta = _shared_meta(case, folders)
    turned = turn(reference, Turn(meta.axes, meta.flips))
    inside = crop(turned, meta.crop)
    readers = {
        name: (lambda rows, folder=folder: read_probabilities(folder, case, rows)) for name, folder in folders.items()
    }
    shape = array_shape(probabilities_path(next(iter(folders.values())), case))
    counts = count_ensembles(readers, shape, inside, labels)
    # Outside the crop every prediction is background; foreground of the reference there is missed by all.
    outside = _histogram(turned, labels) - _histogram(inside, labels)
    for matrix in counts.values():
        matrix[:, 0] += outside
    return counts


def segmentation_of(case: str, members: Sequence[HeldOut], labels: LabelScheme) -> tuple[Classes, PreprocessedCase]:
    """Held-out segmentation `Z Y X` of a case on its image's grid by one configuration or an ensemble."""
    folders = [held.folders[case] for held in members]
    meta = read_meta(folders[0], case)
    return labels_from_probabilities([read_probabilities(folder, case) for folder in folders], meta, labels), meta


def _held_out(folds: Mapping[Path, TrainedFold]) -> HeldOut:
    folders: dict[str, Path] = {}
    for folder, trained in folds.items():
        validation = folder / "validation"
        missing = [case for case in trained.validation_cases if not probabilities_path(validation, case).is_file()]
        if missing:
            raise ModelError(f"{validation} lacks the probabilities of {', '.join(missing)}. Train this fold again.")
        folders.update(dict.fromkeys(trained.validation_cases, validation))
    digest = sha256_json([weights_digest(folder) for folder in folds])
    return HeldOut(tuple(trained.fold for trained in folds.values()), folders, digest)


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

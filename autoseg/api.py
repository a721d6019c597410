"""From Python: a model in, then arrays in and segmentations out, without files.

The arrays take the same way as the files of `predict` (`selection.case_segmentation`), so the answers are the same.
Axes are `C Z Y X`, spacings `(z, y, x)` in mm. Where a scan lies in the patient is told by its affine or by three
letters; a model that was trained on turned images needs to know it.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.devices import choose_device
from autoseg.errors import ResourceError, UsageError
from autoseg.images.placing import ORIENTATION, volume_of_array
from autoseg.images.volume import Volume
from autoseg.inference.fold_predictions import FoldPredictions
from autoseg.inference.probability_reader import in_file
from autoseg.inference.store import disagreement_path, folds_path, meta_path, probabilities_path
from autoseg.postprocessing.case_grid import grid_of_image
from autoseg.records.base import read_record
from autoseg.records.labels import LabelScheme
from autoseg.records.postprocessing import ComponentChange
from autoseg.records.prediction_folder import read_finished
from autoseg.records.results import PreprocessedCase
from autoseg.records.trust import Judgement
from autoseg.selection.case_segmentation import case_logits, segment_case
from autoseg.selection.memory_check import memory_shortage
from autoseg.selection.predictor import Predictor, fast_predictor, load_predictor, prepare_volume
from autoseg.spatial.cropping import box_slices
from autoseg.spatial.orientation import Turn, turn
from autoseg.storage.arrays import read_array


@dataclass(frozen=True)
class Maps:
    """How sure a model is of each voxel of an image, on the image's own grid, before post-processing."""

    probabilities: npt.NDArray[np.float16]
    """`H Z Y X` (`H Y X` where the image was `Y X`): of each class, background first, or of each region."""
    mirrorings: npt.NDArray[np.uint8] | None
    """`Z Y X` (`Y X`): how far the answers about mirror images differ, 255: as far as can be; None: none are asked."""
    folds: npt.NDArray[np.uint8] | None
    """`Z Y X` (`Y X`): how far the folds differ from their mean, likewise; None: there is one."""


@dataclass(frozen=True)
class Segmentation:
    """The answer about one image."""

    labels: npt.NDArray[np.integer[Any]]
    """`Z Y X` (`Y X` where the image was), values as in the dataset's label files, after post-processing."""
    maps: Maps | None
    """How sure it is of them; None: not asked for."""
    judgement: Judgement | None
    """Predicted Dice, volumes and reasons to look at it; None: nothing of it was learned about the model."""
    changes: tuple[ComponentChange, ...]
    """Components that learned post-processing removed or restored."""

    @property
    def probabilities(self) -> npt.NDArray[np.float16] | None:
        """Those of the maps; None: not asked for."""
        return None if self.maps is None else self.maps.probabilities


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, ready for any number of images; ask it from one thread at a time."""

    predictor: Predictor

    @property
    def scheme(self) -> LabelScheme:
        """Names and values of what it segments."""
        return self.predictor.models[0].plan.labels

    @property
    def label_values(self) -> dict[str, int]:
        """Class name -> its value in `labels`, background included."""
        return dict(zip(self.scheme.class_names, self.scheme.class_values, strict=True))

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Images that it needs, in the order of the axis `C`."""
        return self.predictor.models[0].plan.channel_names

    def predict(
        self,
        image: npt.ArrayLike,
        spacing_mm: Sequence[float] | None = None,
        *,
        affine: npt.ArrayLike | None = None,
        orientation: str = ORIENTATION,
    ) -> npt.NDArray[np.integer[Any]]:
        """The labels of an image alone; arguments and errors as for `segment`."""
        return self.segment(image, spacing_mm, affine=affine, orientation=orientation).labels

    def segment(
        self,
        image: npt.ArrayLike,
        spacing_mm: Sequence[float] | None = None,
        *,
        affine: npt.ArrayLike | None = None,
        orientation: str = ORIENTATION,
        probabilities: bool = False,
    ) -> Segmentation:
        """Segment one image.

        Args:
            image: `C Z Y X`, or `Z Y X` for a model of one channel; with two spacings `C Y X` or `Y X`.
            spacing_mm: edges of a voxel along z, y, x in mm, or y, x of a 2-D image. May be left out with an `affine`.
            affine: 4 x 4, from array indices (z, y, x, 1) to the patient's x, y, z in mm (RAS+). For nibabel's
                images, whose arrays are `X Y Z`: `image.affine[:, [2, 1, 0, 3]]`.
            orientation: without an affine, towards where in the patient z, y and x run: letters of R L A P S I.
            probabilities: whether maps are wanted too. They are kept in the system's temporary folder meanwhile.

        Raises:
            UsageError: shape, spacing, affine or orientation make no sense.
            DataError: the channels are not those of the model, or a value is NaN or infinite.
            ModelError: the network's values are not finite.
            ResourceError: it does not fit into the memory, or the disk of the temporary folder is full.
        """
        volume, is_flat = volume_of_array(np.asarray(image), spacing_mm, affine, orientation)
        found = self.segment_volume(volume, probabilities)
        if not is_flat:
            return found
        return replace(found, labels=found.labels[0], maps=None if found.maps is None else _flattened(found.maps))

    def segment_volume(self, volume: Volume, probabilities: bool = False, scratch: Path | None = None) -> Segmentation:
        """Segment an image as readers give it; otherwise as `segment`.

        The folds' probabilities are kept inside the folder `scratch` meanwhile where post-processing or the caller
        wants them; by default in the system's temporary folder.
        """
        predictor = replace(self.predictor, saves_probabilities=probabilities)
        grids = prepare_volume(predictor, "image", volume)
        if (reason := memory_shortage(predictor, grids)) is not None:
            raise ResourceError(f"This image cannot be segmented: {reason}")
        first, maps = predictor.models[0], list[Maps]()
        meta = grids[first.configuration].meta

        def keep(predictions: FoldPredictions) -> None:
            predictions.keep(predictions.folder)
            maps.append(_read_maps(predictions.folder, meta.id, self.scheme))

        grid = partial(grid_of_image, volume.array, meta, first.plan, first.configuration)
        folder = Path(tempfile.gettempdir()) if scratch is None else scratch
        found = segment_case(predictor, meta, case_logits(predictor, grids), grid, folder, keep)
        labels = self.scheme.to_file(found.classes)
        return Segmentation(labels, maps[0] if maps else None, found.judgement, found.changes or ())


def load_model(model: str | Path, *, device: str = "auto", fast: bool = False) -> LoadedModel:
    """Load a model.

    Args:
        model: what `autoseg pack` wrote or the folder it was unpacked to, the folder of a dataset in the workspace, of
            a configuration, of one fold, or of several configurations, which are averaged.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        fast: without mirroring and with fewer tiles: several times faster, a little less accurate.

    Raises:
        ModelError: there is no trained model, or a file is damaged.
        UsageError: the device is not there.
    """
    predictor = load_predictor(Path(model), None, choose_device(device))
    return LoadedModel(fast_predictor(predictor) if fast else predictor)


def read_maps(folder: str | Path, case: str) -> Maps:
    """What `autoseg predict --save-probabilities` wrote into a folder about one of its cases.

    Raises:
        UsageError: nothing was written about this case.
        DataError: a file is damaged.
    """
    where = Path(folder)
    finished = read_finished(where)
    if finished.labels is None or case not in finished.cases or not probabilities_path(where, case).is_file():
        raise UsageError(f"{where} has no probabilities of {case!r}: predict it with --save-probabilities.")
    return _read_maps(where, case, finished.labels)


def _read_maps(folder: Path, case: str, labels: LabelScheme) -> Maps:
    meta, stored = read_record(meta_path(folder, case), PreprocessedCase), in_file(probabilities_path(folder, case))
    probabilities = np.zeros((stored.shape[0], *meta.geometry.shape), np.float16)
    if not labels.has_regions:
        probabilities[0] = 1  # around the box is background for certain
    inside = _crop_box(probabilities, meta)
    for rows, slab in stored.slabs():
        inside[:, rows] = slab
    return Maps(
        probabilities, _read_map(disagreement_path(folder, case), meta), _read_map(folds_path(folder, case), meta)
    )


def _read_map(path: Path, meta: PreprocessedCase) -> npt.NDArray[np.uint8] | None:
    if not path.is_file():
        return None
    whole = np.zeros(meta.geometry.shape, np.uint8)
    _crop_box(whole, meta)[...] = read_array(path)
    return whole


def _crop_box(whole: npt.NDArray[Any], meta: PreprocessedCase) -> npt.NDArray[Any]:
    """The view of an array `... Z Y X` on the image's own grid that is its crop box on the turned one."""
    return turn(whole, Turn(meta.axes, meta.flips))[(..., *box_slices(meta.crop))]


def _flattened(maps: Maps) -> Maps:
    """Those of a 2-D image without the axis z."""
    mirrorings = None if maps.mirrorings is None else maps.mirrorings[0]
    return Maps(maps.probabilities[:, 0], mirrorings, None if maps.folds is None else maps.folds[0])

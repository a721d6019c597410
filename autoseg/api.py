"""From Python: a model in, then arrays in and segmentations out, without files.

The arrays take the same way as the files of `predict` (`selection.answering`), so the answers are the same. Axes are
`C Z Y X`, spacings `(z, y, x)` in mm. Where a scan lies in the patient is told by its affine or by three letters;
a model that was trained on turned images needs to know it.
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
from autoseg.images.volume import Volume
from autoseg.inference.pieces import Pieces
from autoseg.inference.voices import Spoken
from autoseg.postprocessing.case_grid import grid_of_image
from autoseg.records.geometry import Geometry, affine_rows
from autoseg.records.labels import LabelScheme
from autoseg.records.postprocessing import ComponentChange
from autoseg.records.results import PreprocessedCase
from autoseg.records.trust import Judgement
from autoseg.selection.answering import answer, ask
from autoseg.selection.predictor import Predictor, fast_predictor, load_predictor, prepare_volume
from autoseg.selection.room import lack_of_room
from autoseg.spatial.cropping import box_slices
from autoseg.spatial.orientation import Turn, turn

ORIENTATION = "SPL"
"""Where z, y and x run if nothing else is said: superior, posterior, left, as the slices of an axial DICOM scan."""

_LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
_PLANAR_DEPTH = 999.0  # nnU-Net's spacing of the axis that a 2-D image lacks, in its coarsest voxel edges


@dataclass(frozen=True)
class Segmentation:
    """The answer about one image."""

    labels: npt.NDArray[np.integer[Any]]
    """`Z Y X` (`Y X` where the image was), values as in the dataset's label files, after post-processing."""
    probabilities: npt.NDArray[np.float16] | None
    """`H Z Y X` (`H Y X`): of each class, background first, or of each region; before post-processing. None: not asked
    for."""
    judgement: Judgement | None
    """Predicted Dice, volumes and reasons to look at it; None: nothing of it was learned about the model."""
    changes: tuple[ComponentChange, ...]
    """Components that learned post-processing removed or restored."""


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
            probabilities: whether they are wanted too. They are kept in the system's temporary folder meanwhile.

        Raises:
            UsageError: shape, spacing, affine or orientation make no sense.
            DataError: the channels are not those of the model, or a value is NaN or infinite.
            ModelError: the network's values are not finite.
            ResourceError: it does not fit into the memory, or the disk of the temporary folder is full.
        """
        volume, is_flat = _as_volume(np.asarray(image), spacing_mm, affine, orientation)
        found = self.segment_volume(volume, probabilities)
        if not is_flat:
            return found
        said = found.probabilities
        return replace(found, labels=found.labels[0], probabilities=None if said is None else said[:, 0])

    def segment_volume(self, volume: Volume, probabilities: bool = False, scratch: Path | None = None) -> Segmentation:
        """Segment an image as readers give it; otherwise as `segment`.

        What the folds say is kept inside the folder `scratch` meanwhile where post-processing or the caller wants it;
        by default in the system's temporary folder.
        """
        predictor = replace(self.predictor, saves_probabilities=probabilities)
        grids = prepare_volume(predictor, "image", volume)
        if (reason := lack_of_room(predictor, grids)) is not None:
            raise ResourceError(f"This image cannot be segmented: {reason}")
        first, spoken = predictor.models[0], list[npt.NDArray[np.float16]]()
        meta = grids[first.configuration].meta

        def keep(said: Spoken) -> None:
            spoken.append(_on_own_grid(said.probabilities, meta, self.scheme))

        grid = partial(grid_of_image, volume.array, meta, first.plan, first.configuration)
        folder = Path(tempfile.gettempdir()) if scratch is None else scratch
        found = answer(predictor, meta, ask(predictor, grids), grid, folder, keep)
        labels = self.scheme.to_file(found.classes)
        return Segmentation(labels, spoken[0] if spoken else None, found.judgement, found.changes or ())


def load_model(model: str | Path, *, device: str = "auto", fast: bool = False) -> LoadedModel:
    """Load a model.

    Args:
        model: what `autoseg pack` wrote or the folder it was unpacked to, the folder of a dataset in the workspace, of
            a configuration, of one fold, or of several configurations, which are averaged.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        fast: without mirroring and with fewer tiles: several times faster, a little less accurate.

    Raises:
        ModelError: there is no trained model, or a file is damaged.
        UsageError: the device is not there.
    """
    predictor = load_predictor(Path(model), None, choose_device(device))
    return LoadedModel(fast_predictor(predictor) if fast else predictor)


def _as_volume(
    array: npt.NDArray[Any], spacing_mm: Sequence[float] | None, affine: npt.ArrayLike | None, orientation: str
) -> tuple[Volume, bool]:
    """The image `C Z Y X` with its geometry, and whether it is a 2-D one."""
    if array.dtype.kind not in "uif":
        raise UsageError(f"image has values of type {array.dtype}; expected integers or real numbers.")
    is_flat = spacing_mm is not None and len(spacing_mm) == 2
    num_axes = 2 if is_flat else 3
    if array.ndim not in (num_axes, num_axes + 1) or not array.size:
        axes = "Y X or C Y X" if is_flat else "Z Y X or C Z Y X"
        raise UsageError(f"image has shape {array.shape}; expected {axes} with a spacing for each axis of space.")
    whole = array[None] if array.ndim == num_axes else array
    if is_flat:
        whole = whole[:, None]
    return Volume(whole, _geometry(whole.shape[1:], spacing_mm, affine, orientation)), is_flat


def _is_flat(matrix: npt.NDArray[np.float64]) -> bool:
    """Whether the axes do not span space, whatever their lengths."""
    lengths = np.linalg.norm(matrix, axis=0)
    return bool(lengths.min() == 0 or abs(np.linalg.det(matrix / lengths)) < 1e-3)


def _geometry(
    shape: tuple[int, ...], spacing_mm: Sequence[float] | None, affine: npt.ArrayLike | None, orientation: str
) -> Geometry:
    if spacing_mm is None and affine is None:
        raise UsageError("spacing_mm or affine must be given: without them no length in the image is known.")
    planar = spacing_mm is not None and len(spacing_mm) == 2
    if affine is None:
        matrix = _directions(orientation) * _lengths(spacing_mm, planar)
    else:
        given = np.asarray(affine, dtype=np.float64)
        if given.shape != (4, 4) or not np.isfinite(given).all() or _is_flat(given[:3, :3]):
            raise UsageError("affine must be an invertible 4 x 4 matrix of finite numbers.")
        matrix = given[:3]
        edges = np.linalg.norm(given[:3, :3], axis=0)
        if spacing_mm is None:
            spacing_mm = [float(edge) for edge in edges]
        elif not planar and not np.allclose(_lengths(spacing_mm, planar)[:3], edges, rtol=1e-3):
            raise UsageError(f"affine has voxels of {edges.round(4).tolist()} mm (z y x), spacing_mm {spacing_mm}.")
    z, y, x = (float(length) for length in _lengths(spacing_mm, planar)[:3])
    num_z, num_y, num_x = shape
    return Geometry(shape=(num_z, num_y, num_x), spacing_mm=(z, y, x), affine=affine_rows(matrix), planar=planar)


def _lengths(spacing_mm: Sequence[float] | None, planar: bool) -> npt.NDArray[np.float64]:
    """Voxel edges along z, y, x, and 1 for the translation; raises UsageError where they make no sense."""
    lengths = np.array(spacing_mm, dtype=np.float64)
    if lengths.shape != ((2,) if planar else (3,)) or not (np.isfinite(lengths) & (lengths > 0)).all():
        raise UsageError(f"spacing_mm is {spacing_mm}; expected positive mm along z, y, x (y, x of a 2-D image).")
    depth = [_PLANAR_DEPTH * lengths.max()] if planar else []
    return np.array([*depth, *lengths, 1.0])


def _directions(orientation: str) -> npt.NDArray[np.float64]:
    """Unit steps along z, y, x as the columns of 3 x 4, no translation."""
    letters = [_LETTERS.get(letter) for letter in orientation.upper()]
    if len(letters) != 3 or {letter and letter[0] for letter in letters} != {0, 1, 2}:
        raise UsageError(f"orientation is {orientation!r}; expected one letter of R/L, A/P and S/I each, as in SPL.")
    steps = np.zeros((3, 4))
    for axis, letter in enumerate(letters):
        if letter is not None:
            steps[letter[0], axis] = letter[1]
    return steps


def _on_own_grid(cropped: Pieces, meta: PreprocessedCase, labels: LabelScheme) -> npt.NDArray[np.float16]:
    """Probabilities `H z y x` of the crop box on the image's own grid; around it is background for certain."""
    whole = np.zeros((cropped.shape[0], *meta.geometry.shape), np.float16)
    if not labels.has_regions:
        whole[0] = 1
    inside = turn(whole, Turn(meta.axes, meta.flips))[(slice(None), *box_slices(meta.crop))]
    for rows, slab in cropped.slabs():
        inside[:, rows] = slab
    return whole

"""One case's image and label in, both on the network's grid out.

The order is nnU-Net's: turn, crop to nonzero, normalise, resample, draw foreground locations. Turning and
cropping are the same for all configurations of a plan, so `crop_case` is done once and `onto_grid` for each. All
is computed in float32, and slab by slab from the file's own type: beside that only the result is whole.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from autoseg.devices import available_memory_bytes
from autoseg.errors import DataError
from autoseg.images.volume import Volume
from autoseg.preprocessing.locations import FlatIndices, draw_locations
from autoseg.preprocessing.normalize import Scale, masked_channels, scale_of, scaled
from autoseg.preprocessing.statistics import PIECE, BoolArray, Channel, measured, read
from autoseg.records.geometry import Geometry, Triple
from autoseg.records.plan import Configuration, Plan
from autoseg.records.results import Box, PreprocessedCase
from autoseg.spatial.cropping import crop, nonzero_box, nonzero_mask
from autoseg.spatial.labels import resample_labels
from autoseg.spatial.orientation import Turn, turn, turn_for, turned
from autoseg.spatial.resampling import Source, resample_into, resampled_shape, separate_axis
from autoseg.spatial.slabs import Region, slab_boxes
from autoseg.storage.large_arrays import large_array

_MEASURED_VOXELS = 1 << 18
"""Of each channel, for the percentiles of its intensities."""
_BYTES_A_VALUE = 4
_MOST_GROWTH = 8
"""Values of the resampled image for one of the file's, beyond which a case that does not fit into the memory is taken
for one with a wrong spacing."""
OUTSIDE = -1
"""nnU-Net's mark of background outside the nonzero mask; training sets such voxels to 0 after augmentation."""
_LONGEST_EDGE = 1 << 15
"""Voxels; a header whose spacing asks for more is wrong (33 m at 1 mm)."""


@dataclass(frozen=True)
class Cropped:
    """A case turned and cropped, before anything depends on a configuration."""

    id: str
    image: npt.NDArray[Any]
    """C Z Y X in the file's type; a view of what was read."""
    labels: npt.NDArray[np.int16] | None
    """Internal classes, Z Y X."""
    geometry: Geometry
    """Grid of the file."""
    turn: Turn
    box: Box
    """On the turned grid."""

    @property
    def spacing_mm(self) -> Triple:
        """Spacing of the turned grid."""
        return turned(self.geometry.spacing_mm, self.turn.axes)


@dataclass(frozen=True)
class Prepared:
    """A case as the network sees it."""

    image: npt.NDArray[np.float32]
    """C Z Y X."""
    labels: npt.NDArray[np.int16] | None
    """Internal classes, Z Y X; None for a case without label. Where a channel is normalised inside the nonzero mask
    only, background outside it is `OUTSIDE`."""
    locations: dict[int, FlatIndices]
    """As from `draw_locations`: flat indices into `labels`; empty for a case without label."""
    meta: PreprocessedCase


def crop_case(case_id: str, image: Volume, label: Volume | None, plan: Plan) -> Cropped:
    """Turn a case and crop it to everything nonzero.

    Args:
        case_id: name of the case.
        image: as read.
        label: in the image's voxel order and in file values, or None.
        plan: decides all of it.

    Raises:
        DataError: channels or labels are not what the plan expects; the case is named.
    """
    if len(image.array) != len(plan.channel_names):
        raise DataError(
            f"case {case_id}: {len(image.array)} channels, the plan {plan.name} expects "
            f"{len(plan.channel_names)} ({', '.join(plan.channel_names)})."
        )
    if label is not None and label.array.shape[1:] != image.array.shape[1:]:
        raise DataError(f"case {case_id}: label {label.array.shape[1:]} and image {image.array.shape[1:]} differ.")
    how = turn_for(image.geometry.matrix, plan.orientation, plan.transpose, image.geometry.planar)
    values = turn(image.array, how)
    box = nonzero_box(values)
    labels = None
    if label is not None:
        labels = plan.labels.to_internal(crop(turn(label.array[0], how), box), f"case {case_id}")
    return Cropped(case_id, crop(values, box), labels, image.geometry, how, box)


def _check_size(case: Cropped, shape: Sequence[int], spacing_mm: Triple) -> None:
    """Raise DataError where a case, by a wrong spacing most likely, would not fit into memory."""
    num_bytes = _BYTES_A_VALUE * len(case.image) * math.prod(shape)
    has_grown = math.prod(shape) > _MOST_GROWTH * math.prod(case.image.shape[1:])
    if max(shape) > _LONGEST_EDGE or (has_grown and num_bytes > available_memory_bytes()):
        wanted, found = (" x ".join(f"{edge:.3g}" for edge in of) for of in (spacing_mm, case.spacing_mm))
        raise DataError(
            f"case {case.id}: {' x '.join(map(str, shape))} voxels (z y x) at the plan's spacing of {wanted} mm would "
            f"need about {num_bytes / 2**30:.1f} GiB. Its file says {found} mm: if that is wrong, correct the file, "
            "else take a machine with more memory."
        )


def onto_grid(case: Cropped, plan: Plan, configuration: str) -> Prepared:
    """Normalise and resample a turned and cropped case for a configuration of the plan.

    Raises:
        DataError: a value is not finite, or the case would not fit into memory; the case is named.
    """
    settings = plan.configurations[configuration]  # type: ignore[index]  # any text may be asked for
    before, after = case.spacing_mm, target_spacing(settings, case.spacing_mm)
    shape = resampled_shape(case.image.shape[1:], before, after)
    separate = separate_axis(before, after)
    _check_size(case, shape, after)

    masked = masked_channels(settings.normalization, settings.use_mask_for_norm)
    mask = _mask(case.image) if masked else None
    sources = _sources(case, plan, settings, masked, mask)
    image = large_array((len(sources), *shape), np.float32)
    for target, source in zip(torch.from_numpy(image), sources, strict=True):
        resample_into(target, source, separate)
    labels: npt.NDArray[np.int16] | None = None
    locations: dict[int, FlatIndices] = {}
    counts: tuple[int, ...] = ()
    if case.labels is not None:
        marked = case.labels if mask is None else np.where(mask | (case.labels != 0), case.labels, np.int16(OUTSIDE))
        labels = resample_labels(torch.from_numpy(np.ascontiguousarray(marked)), shape, separate).numpy()
        locations, counts = draw_locations(case.id, labels, plan.labels)
    meta = PreprocessedCase(
        id=case.id,
        geometry=case.geometry,
        axes=case.turn.axes,
        flips=case.turn.flips,
        crop=case.box,
        shape_before_crop=turned(case.geometry.shape, case.turn.axes),
        spacing_before_mm=before,
        shape=shape,
        spacing_mm=after,
        foreground_voxels=counts,
        intensities=tuple(_percentiles(channel) for channel in image),
    )
    return Prepared(image, labels, locations, meta)


def _percentiles(channel: npt.NDArray[np.float32]) -> Triple:
    """5th, 50th and 95th percentile of a channel `Z Y X`, from a sample of its voxels that is always the same."""
    values = channel.reshape(-1)
    if values.size > _MEASURED_VOXELS:
        values = values[np.random.default_rng(0).integers(values.size, size=_MEASURED_VOXELS)]
    low, middle, high = (float(value) for value in np.percentile(values, (5, 50, 95)))
    return low, middle, high


def target_spacing(settings: Configuration, before_mm: Sequence[float]) -> Triple:
    """Spacing z y x of the network's grid; a 2d configuration keeps the case's own between slices."""
    z, y, x = (before_mm[0], *settings.spacing_mm)[-3:]
    return z, y, x


def _sources(
    case: Cropped, plan: Plan, settings: Configuration, masked: Sequence[int], mask: BoolArray | None
) -> list[Source]:
    """The channels of a case, normalised wherever they are read, those in `masked` inside `mask` only."""
    if len(settings.normalization) != len(case.image):
        raise DataError(
            f"case {case.id}: the image has {len(case.image)} channels, the plan normalises "
            f"{len(settings.normalization)}."
        )
    sources = []
    for number, (values, scheme) in enumerate(zip(case.image, settings.normalization, strict=True)):
        channel = measured(values, mask if number in masked else None)
        if not np.isfinite(channel.low) or not np.isfinite(channel.high):
            raise DataError(f"case {case.id}: channel {number} has NaN or infinite values; repair the image.")
        try:
            sources.append(_source(channel, scale_of(channel, scheme, plan.intensities.get(str(number)))))
        except DataError as error:
            raise DataError(f"case {case.id}: channel {number}: {error}") from error
    return sources


def _mask(image: npt.NDArray[Any]) -> BoolArray | None:
    """The nonzero mask of an image, in float32 as all is; None where nothing is in it."""
    mask = nonzero_mask(image.astype(np.float32) if image.dtype == np.float64 else image)
    return mask if mask.any() else None


def _source(channel: Channel, scale: Scale) -> Source:
    """A channel that is normalised where it is read."""

    def read_box(box: Region) -> torch.Tensor:
        values = read(channel, box)
        if channel.mask is None:
            return torch.from_numpy(scaled(values, scale))
        inside = channel.mask[box]
        values[inside] = scaled(values[inside], scale)
        return torch.from_numpy(values)

    def limits() -> tuple[float, float]:
        if channel.mask is None:
            low, high = scaled(np.array([channel.low, channel.high]), scale)
            return float(low), float(high)
        parts = (read_box(box) for box in slab_boxes(channel.values, PIECE))
        lows, highs = zip(*((float(part.min()), float(part.max())) for part in parts), strict=True)
        return min(lows), max(highs)

    z, y, x = channel.values.shape
    return Source((z, y, x), read_box, limits)

"""A piece of a volume and drawn parameters in, the training patch out: crop, rotation, scaling, deformation, mirroring.

Image and labels go through one set of coordinates and one resampling; where nothing but mirroring was drawn the patch
is an exact integer crop. Intensities are interpolated linearly. A label is the one whose one-hot map, interpolated
linearly, is largest: the (at most 8) labels at the corners of the cell vote with the corner's weight, so the cost does
not depend on the number of classes, where one resampling a class (nnU-Net) grows with it. A tie goes to the label with
the nearest corner, then to the lower corner. On a CPU only cells whose corners differ vote; elsewhere all do, because
listing them would make the host wait for the device.

Outside the volume the image is 0 and so is the label, unless `beyond` names another, which votes like any. (nnU-Net
always lets a label -1 vote there and turns it into 0 afterwards, which differs only where background, foreground and
border meet.)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from autoseg.augmentation.draw import SpatialParameters, patch_midpoint, source_box
from autoseg.augmentation.elastic import displacements

# Share of a corner's own weight that is added to its label's score: decides ties, and nothing but near ties.
TIE = 1e-4
# Voxels handled at once on a CPU: the temporaries of so many stay in its cache.
SLAB_VOXELS = 2**16
# Marks cells whose corners carry different labels; internal labels are never negative.
MIXED = -1


class _Points(NamedTuple):
    """Where the voxels of a patch lie in a piece of a volume."""

    matrix: npt.NDArray[np.float64]
    """Offset in the patch -> offset in the piece, z y x in voxels, flips included."""
    midpoint: npt.NDArray[np.float64]
    """Of the patch, in the piece."""
    patch: Sequence[int]
    moved: Tensor | None = None
    """What is added to the position in the piece, `3 Z Y X` or `3 1 Y X` in voxels; None: nothing."""


def sample_patch(
    image: Tensor,
    labels: Tensor,
    start: Sequence[int],
    centre: Sequence[int],
    patch_zyx: Sequence[int],
    parameters: SpatialParameters,
    num_classes: int,
    swap_pairs: Sequence[tuple[int, int]] = (),
    beyond: int = 0,
) -> tuple[Tensor, Tensor]:
    """Cut one training patch out of a piece of a volume.

    Args:
        image: `C Z Y X`, any real type; holds `source_box`, except for what lies outside the volume.
        labels: `Z Y X` internal labels of the same voxels, or `L Z Y X` for several maps (labels and the previous
            stage's segmentation), integers from 0 to `num_classes` (the ignore label) + 1 (`outside_label`).
        start: z y x of the piece's first voxel in the volume.
        centre: voxel z y x of the volume around which the patch lies.
        patch_zyx: size of the patch in voxels.
        parameters: what `draw_spatial` drew.
        num_classes: number of classes, background included.
        swap_pairs: classes that change places when left and right do.
        beyond: label of what lies outside the volume.

    Returns:
        Image `C Z Y X` float32 and labels `Z Y X` (or `L Z Y X`) in their own type, both of the patch's size, on
        the tensors' device. They may share memory with the inputs.
    """
    maps = labels if labels.ndim == 4 else labels[None]
    low, high = source_box(parameters, patch_zyx, centre)
    image, maps = _cut(image, start, low, high).float(), _cut(maps, start, low, high, beyond)
    if parameters.is_crop:
        if parameters.axes != (0, 1, 2):
            order = [0, *(axis + 1 for axis in parameters.axes)]
            image, maps = image.permute(order), maps.permute(order)
        if flipped := [axis + 1 for axis in parameters.flips]:
            image, maps = image.flip(flipped), maps.flip(flipped)
    else:
        # A small type makes the look-ups of labels faster.
        small = maps.to(torch.int8 if outside_label(num_classes) <= 127 else torch.int16)
        signs = np.array([-1.0 if axis in parameters.flips else 1.0 for axis in range(3)])
        turned = np.array(parameters.matrix)[:, list(parameters.axes)] * signs
        midpoint = patch_midpoint(centre, patch_zyx) - np.array(low)
        resample = _resample_slices if parameters.is_in_plane else _resample_volume
        moved = None if (one := parameters.elastic) is None else displacements(one, patch_zyx, image.device)
        image, small = resample(image, small, _Points(turned, midpoint, patch_zyx, moved))
        maps = small.to(labels.dtype)
    if parameters.swaps_classes and swap_pairs:
        maps = swap_classes(maps, num_classes, swap_pairs)
    return image, maps if labels.ndim == 4 else maps[0]


def outside_label(num_classes: int) -> int:
    """Label of background outside the nonzero mask; `num_classes` itself marks voxels to ignore."""
    return num_classes + 1


def swap_classes(labels: Tensor, num_classes: int, swap_pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Exchange the classes of each pair; all other labels, the ignore label among them, stay."""
    numbers = list(range(outside_label(num_classes) + 1))
    for left, right in swap_pairs:
        numbers[left], numbers[right] = right, left
    # Made on the host: each number put into a table on a GPU would be a copy of its own, and waited for.
    table = torch.tensor(numbers, dtype=labels.dtype).to(labels.device, non_blocking=True)
    return table[labels.long()]


def _cut(array: Tensor, start: Sequence[int], low: Sequence[int], high: Sequence[int], beyond: int = 0) -> Tensor:
    """Voxels `low` to `high` (of the volume) of a piece `... Z Y X` that begins at `start`; `beyond` is outside it."""
    pads: list[int] = []
    for axis in (-1, -2, -3):  # functional.pad takes the last axis first
        length = array.shape[axis]
        first, last = low[axis] - start[axis], high[axis] - start[axis]
        inside_first, inside_last = min(max(first, 0), length), min(max(last, 0), length)
        array = array.narrow(axis, inside_first, inside_last - inside_first)
        before = min(max(-first, 0), last - first)
        pads += [before, (last - first) - (inside_last - inside_first) - before]
    return functional.pad(array, pads, value=beyond) if any(pads) else array


def _offsets(size: int, device: torch.device) -> Tensor:
    """Distance of each voxel of a patch from its midpoint along one axis."""
    return torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2


def _resample_volume(image: Tensor, maps: Tensor, points: _Points) -> tuple[Tensor, Tensor]:
    """Image `C z y x` and label maps `L z y x` at the coordinates of a patch, in slabs of its slices."""
    matrix, midpoint, patch, moved = points
    strides = (image.shape[2] * image.shape[3], image.shape[3], 1)
    channels, label_maps = image.flatten(1), maps.flatten(1)
    cells = [_cell_labels(labels, strides) for labels in label_maps] if maps.device.type == "cpu" else label_maps
    sampled = image.new_empty((len(image), *patch))
    sampled_maps = maps.new_empty((len(maps), *patch))
    z, y, x = (_offsets(size, image.device) for size in patch)
    slab = max(1, SLAB_VOXELS // (patch[1] * patch[2])) if image.device.type == "cpu" else patch[0]
    for first in range(0, patch[0], slab):
        part = slice(first, first + slab)
        base, fractions = torch.zeros(1, dtype=torch.int32, device=image.device), []
        for axis, (row, middle, stride) in enumerate(zip(matrix, midpoint, strides, strict=True)):
            plane = (z[part] * row[0] + middle)[:, None] + y * row[1]
            position = (plane[..., None] + x * row[2]).flatten()
            if moved is not None:
                position += moved[axis, part].flatten()
            corner = position.to(torch.int32)  # positions are positive: truncation is the floor
            base = base + corner.mul_(stride)
            fractions.append(position.frac_())
        for channel, target in zip(channels, sampled, strict=True):
            target[part] = _interpolate(channel, base, fractions, strides).view(target[part].shape)
        for labels, cell, target in zip(label_maps, cells, sampled_maps, strict=True):
            target[part] = _label_at(labels, cell, base, fractions, strides).view(target[part].shape)
    return sampled, sampled_maps


def _interpolate(values: Tensor, base: Tensor, fractions: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Trilinear interpolation of flat `values` in the cells whose lowest corners are at `base`."""

    def along_x(offset: int) -> Tensor:
        lower, upper = values[offset:].index_select(0, base), values[offset + 1 :].index_select(0, base)
        return lower.lerp_(upper, fractions[2])

    def along_y(offset: int) -> Tensor:
        return along_x(offset).lerp_(along_x(offset + strides[1]), fractions[1])

    return along_y(0).lerp_(along_y(strides[0]), fractions[0])


def _resample_slices(image: Tensor, maps: Tensor, points: _Points) -> tuple[Tensor, Tensor]:
    """The same for parameters in the plane: one set of coordinates for all slices, four corners instead of eight."""
    matrix, midpoint, patch, moved = points
    if matrix[0, 0] < 0:
        image, maps = image.flip(1), maps.flip(1)
    depth, height, width = image.shape[1:]
    y, x = (_offsets(size, image.device) for size in patch[1:])
    rows, columns = (
        (y * matrix[axis, 1] + midpoint[axis])[:, None] + x * matrix[axis, 2] + (0 if moved is None else moved[axis, 0])
        for axis in (1, 2)
    )  # positions in the source's slices, each `Y X`
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    slices = image.reshape(1, -1, height, width)  # channels and slices alike share the coordinates
    sampled = functional.grid_sample(slices, grid[None], mode="bilinear", align_corners=False)
    base = (rows.to(torch.int32) * width + columns.to(torch.int32)).flatten()
    fractions = [rows.frac().flatten(), columns.frac().flatten()]
    all_slices = maps.reshape(-1, height * width)
    strides = (width, 1)
    cells = [_cell_labels(labels, strides) for labels in all_slices] if maps.device.type == "cpu" else all_slices
    voted = [_label_at(*both, base, fractions, strides) for both in zip(all_slices, cells, strict=True)]
    return sampled.view(len(image), depth, *patch[1:]), torch.stack(voted).view(len(maps), depth, *patch[1:])


def _cell_labels(labels: Tensor, strides: Sequence[int]) -> Tensor:
    """For each cell of flat `labels`, at its lowest corner: the label that all its corners carry, or MIXED.

    Neighbours are taken by stride across the ends of rows, which is fast and harmless: no cell begins there.
    """
    largest = smallest = labels
    for stride in strides:
        largest = torch.maximum(largest[:-stride], largest[stride:])
        smallest = torch.minimum(smallest[:-stride], smallest[stride:])
    differs = (largest != smallest).to(labels.dtype)
    return differs.neg_().bitwise_or_(smallest)  # MIXED has all bits set; a third of the time of torch.where


def _label_at(
    labels: Tensor, cells: Tensor, base: Tensor, fractions: Sequence[Tensor], strides: Sequence[int]
) -> Tensor:
    """Label at each point of the cells at `base`; `cells` are the `_cell_labels` (read on a CPU only)."""
    if labels.device.type != "cpu":
        return _vote(labels, base, fractions, strides)
    result = cells.index_select(0, base)
    mixed = torch.from_numpy(np.flatnonzero(result.numpy() == MIXED))  # three times as fast as torch's nonzero
    if len(mixed):
        some = [fraction.index_select(0, mixed) for fraction in fractions]
        result[mixed] = _vote(labels, base.index_select(0, mixed), some, strides)
    return result


def _vote(labels: Tensor, base: Tensor, fractions: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Each corner's label gets the linear weights of all corners that carry it; the largest sum wins."""
    offsets, shares = [0], [torch.ones_like(fractions[0])]
    for stride, fraction in zip(strides, fractions, strict=True):
        offsets = [offset + step for offset in offsets for step in (0, stride)]
        shares = [share * part for share in shares for part in (1 - fraction, fraction)]
    corners = torch.stack([labels[offset:].index_select(0, base) for offset in offsets])
    scores = torch.stack(shares).mul_(TIE)
    for corner, share in zip(corners, shares, strict=True):
        scores.addcmul_((corners == corner).float(), share.expand_as(scores))
    return corners.gather(0, scores.max(0, keepdim=True).indices)[0]

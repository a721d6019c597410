"""An image in, the box of everything nonzero and the mask inside it out.

Air around a head or body that was already set to zero carries nothing; nnU-Net's rule is the union of the
nonzero voxels of all channels, with holes filled in 3-D. Filling cannot change the bounding box, so
the box alone costs no fill; the mask is filled inside the box only, and by labelling the zeros instead of
repeated dilation. NaN counts as nonzero.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autoseg.records.results import Box
from autoseg.spatial.slabs import slab_boxes

BoolArray = npt.NDArray[np.bool_]

_SLAB_VOXELS = 1 << 22


def nonzero_box(image: npt.NDArray[Any]) -> Box:
    """Smallest box with every voxel of `image` (C Z Y X) that is nonzero in any channel; the whole image if none is."""
    filled = [np.zeros(size, dtype=bool) for size in image.shape[1:]]
    for channel in image:
        for region in slab_boxes(channel, _SLAB_VOXELS):
            mask = channel[region] != 0
            for axis, line in enumerate(filled):
                line[region[axis]] |= mask.any(axis=tuple(other for other in range(3) if other != axis))
    if not filled[0].any():
        filled = [~line for line in filled]
    z, y, x = ((int(line.argmax()), len(line) - int(line[::-1].argmax())) for line in filled)
    return z, y, x


def mask_box(mask: npt.NDArray[Any]) -> Box:
    """Smallest half-open box with every true voxel of `mask` (Z Y X); the whole array if none is true."""
    from acvl_utils.cropping_and_padding.bounding_boxes import get_bbox_from_mask

    z, y, x = ((int(start), int(stop)) for start, stop in get_bbox_from_mask(mask))
    return (z, y, x)


def box_slices(box: Box) -> tuple[slice, slice, slice]:
    """The box as an index of the last three axes: `array[(..., *box_slices(box))]`."""
    z, y, x = (slice(start, stop) for start, stop in box)
    return z, y, x


def crop(array: npt.NDArray[Any], box: Box) -> npt.NDArray[Any]:
    """View of the last three axes of `array` inside `box`."""
    return array[(..., *box_slices(box))]


def nonzero_mask(image: npt.NDArray[Any]) -> BoolArray:
    """Where `image` (C Z Y X) is nonzero in any channel, holes filled in 3-D; Z Y X.

    A hole is a set of zeros that no path over voxel faces joins to the array's border. The mask of an image
    cropped to `nonzero_box` equals the cropped mask of the whole image.
    """
    mask = _any_channel_nonzero(image)
    if mask.all():
        return mask
    zeros, count = ndimage.label(~mask)
    outside = np.zeros(count + 1, dtype=bool)
    for axis in range(3):
        for side in (0, -1):
            outside[np.unique(zeros.take(side, axis=axis))] = True
    outside[0] = False
    filled: BoolArray = ~outside[zeros]
    return filled


def _any_channel_nonzero(image: npt.NDArray[Any]) -> BoolArray:
    mask: BoolArray = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    return mask

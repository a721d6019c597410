"""An array in, boxes that cover it slab by slab out: what is done to a whole volume then needs the memory of a slab."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Region = tuple[slice, slice, slice]


def slab_boxes(values: npt.NDArray[Any], voxels: int) -> Iterator[Region]:
    """Boxes that cover an array `Z Y X`, each about `voxels` large.

    They are slices along the axis whose neighbours lie furthest apart in memory, so that each is read in one piece
    from a turned view of a file, too.
    """
    apart = [abs(step) if length > 1 else 0 for step, length in zip(values.strides, values.shape, strict=True)]
    axis, whole = int(np.argmax(apart)), slice(None)
    depth = max(1, voxels * values.shape[axis] // values.size)
    for start in range(0, values.shape[axis], depth):
        where = slice(start, start + depth)
        yield ((where, whole, whole), (whole, where, whole), (whole, whole, where))[axis]

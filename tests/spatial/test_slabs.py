"""Slabs cover every voxel once and are pieces of memory."""

import numpy as np

from autoseg.spatial.slabs import slab_boxes


def test_slabs_cover_every_voxel_once() -> None:
    values = np.zeros((7, 6, 5), np.int8).transpose(2, 0, 1)[:, ::-1]
    boxes = list(slab_boxes(values, 60))
    assert len(boxes) == 4
    for box in boxes:
        values[box] += 1
    assert (values == 1).all()
    assert boxes[0] == (slice(None), slice(0, 2), slice(None))
    assert len(list(slab_boxes(values, 1))) == 7
    assert len(list(slab_boxes(values, 1000))) == 1

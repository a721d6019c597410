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


def test_an_axis_of_one_voxel_is_not_cut() -> None:
    """Whatever its stride: a 2-D image is cut along y as it lies in memory."""
    for values in (np.zeros((1, 6, 5), np.int8), np.zeros((5, 6, 1), np.int8, order="F").T):
        assert [box[1] for box in slab_boxes(values, 10)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert list(slab_boxes(np.zeros((1, 1, 1)), 10)) == [(slice(0, 10), slice(None), slice(None))]

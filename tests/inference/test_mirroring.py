"""Flips of the axes to mirror, and the heads that answer across left and right."""

import pytest
import torch

from autoseg.errors import ModelError
from autoseg.inference.mirroring import head_permutation, mirror_flips
from autoseg.inference.sliding_window import SlidingWindow
from autoseg.records.labels import Target
from autoseg.records.recipe import Mirroring
from tests.inference.test_sliding_window import CPU, LABELS, Pointwise, volume
from tests.inference.whole import predict_logits


def test_head_permutation_of_regions() -> None:
    regions = (Target(name="both", members=(1, 2)), Target(name="r", members=(2,)), Target(name="l", members=(1,)))
    labels = LABELS.model_copy(update={"regions": regions, "region_order": (1, 2, 1)})
    assert head_permutation(labels, ((1, 2),)) == [0, 2, 1]
    incomplete = LABELS.model_copy(update={"regions": regions[:2], "region_order": (1, 2)})
    with pytest.raises(ModelError, match="region 'r'"):
        head_permutation(incomplete, ((1, 2),))


def test_pairs_of_classes_that_are_not_there_are_refused() -> None:
    with pytest.raises(ModelError, match="beyond 2"):
        head_permutation(LABELS, ((1, 3),))


def test_slices_are_not_flipped_along_z() -> None:
    assert mirror_flips(Mirroring(), (1, 8, 8)) == [(), (1,), (2,), (1, 2)]
    image = volume(1, 5, 8, 8)
    found = predict_logits([Pointwise()], image, SlidingWindow((1, 8, 8), LABELS, Mirroring()), CPU).logits
    torch.testing.assert_close(found, Pointwise()(image[None])[0][0], rtol=1e-5, atol=1e-5)

"""Distances against scipy's, and the losses made of them by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoseg.losses.build import LOSSES
from autoseg.losses.distance import distance_to
from tests.losses.tiny import REGIONS, context_of, logits_of, region_logits_of, row


@pytest.mark.parametrize("shape", [(9, 14, 11), (1, 23, 30), (1, 1, 40), (1, 1, 1), (40, 3, 2)])
@pytest.mark.parametrize("share", [0.001, 0.05, 0.9])
def test_distances_equal_scipys(shape: tuple[int, int, int], share: float) -> None:
    sites = np.random.default_rng(0).random((2, 3, *shape)) < share
    sites[:, :, 0, 0, 0] = True
    expected = np.stack([[ndimage.distance_transform_edt(~s) for s in sample] for sample in sites])
    found = distance_to(torch.from_numpy(sites))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_distances_without_a_site_are_infinite() -> None:
    sites = torch.zeros(2, 1, 3, 4, 5, dtype=torch.bool)
    sites[0, 0, 1, 1, 1] = True
    found = distance_to(sites)
    assert torch.isfinite(found[0]).all()
    assert torch.isinf(found[1]).all()


PROBABILITIES = [0.1, 0.3, 0.6, 0.8, 0.9]
"""Of class 1, at five voxels in a row of which the last two are class 1."""
TARGET = row(0, 0, 0, 1, 1)


def test_boundary() -> None:
    logits = logits_of([[1 - p, p] for p in PROBABILITIES])
    signed = [3, 2, 1, 0, -1]
    expected = sum(d * p for d, p in zip(signed, PROBABILITIES, strict=True)) / 5
    assert LOSSES["boundary"](logits, TARGET, context_of()).item() == pytest.approx(expected)
    assert LOSSES["boundary"](logits, row(0, 0, 0, 0, 0), context_of()).item() == 0
    assert LOSSES["boundary"](logits, row(1, 1, 1, 1, 1), context_of()).item() == 0


def test_boundary_of_regions_with_weights() -> None:
    logits = region_logits_of([[p, 0.5] for p in PROBABILITIES])
    context = context_of(3, regions=REGIONS, class_weights=(1.0, 3.0))
    first = (3 * 0.1 + 2 * 0.3 + 0.6 - 0.9) / 5
    assert LOSSES["boundary"](logits, TARGET, context).item() == pytest.approx(first / 4)  # the second is absent


def test_boundary_with_an_unknown_border() -> None:
    logits = logits_of([[1 - p, p] for p in PROBABILITIES])
    # The middle voxel is ignored: from 0 0 ? 1 1, distances 3 2 . -1 -2 (less 1 inside: -1 and -2).
    expected = (3 * 0.1 + 2 * 0.3 - 1 * 0.8 - 2 * 0.9) / 4
    found = LOSSES["boundary"](logits, row(0, 0, 2, 1, 1), context_of(ignore=True)).item()
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_hausdorff(alpha: float) -> None:
    logits = logits_of([[1 - p, p] for p in PROBABILITIES])
    true, predicted = [3, 2, 1, 1, 2], [2, 1, 1, 2, 3]  # the third voxel is predicted as well
    errors = [0.1, 0.3, 0.6, 0.2, 0.1]
    terms = zip(errors, true, predicted, strict=True)
    expected = sum(e**2 * (t**alpha + p**alpha) for e, t, p in terms) / 5
    assert LOSSES["hausdorff"](logits, TARGET, context_of(), alpha=alpha).item() == pytest.approx(expected)


def test_hausdorff_where_the_class_is_absent_counts_what_is_predicted() -> None:
    logits = logits_of([[1 - p, p] for p in PROBABILITIES])
    expected = sum((p * d) ** 2 for p, d in zip(PROBABILITIES, [2, 1, 1, 2, 3], strict=True)) / 5
    assert LOSSES["hausdorff"](logits, row(0, 0, 0, 0, 0), context_of()).item() == pytest.approx(expected)


def test_distance_penalised_cross_entropy() -> None:
    logits = logits_of([[1 - p, p] for p in PROBABILITIES])
    # Depths 2 1 0 | 0 1: closeness 0, 1/2, 1 | 1, 0.
    weights, truth = [1, 1.5, 2, 2, 1], [0.9, 0.7, 0.4, 0.8, 0.9]
    expected = -sum(w * math.log(p) for w, p in zip(weights, truth, strict=True)) / 5
    name = "distance_penalised_cross_entropy"
    assert LOSSES[name](logits, TARGET, context_of()).item() == pytest.approx(expected)
    regions = region_logits_of([[p] for p in PROBABILITIES])
    found = LOSSES[name](regions, TARGET, context_of(regions=((1,),))).item()
    assert found == pytest.approx(expected)  # one region: the same borders
    # No border at all: plain cross-entropy.
    nothing = row(0, 0, 0, 0, 0)
    plain = LOSSES["cross_entropy"](logits, nothing, context_of()).item()
    assert LOSSES[name](logits, nothing, context_of()).item() == pytest.approx(plain)


def test_distance_penalised_cross_entropy_between_three_classes() -> None:
    logits = logits_of([[0.2, 0.5, 0.3]] * 4)
    # 0 | 1 1 | 2: every voxel lies at a border, and the class weights count as in plain cross-entropy.
    context = context_of(3, class_weights=(1.0, 2.0, 4.0))
    expected = -2 * (math.log(0.2) + 4 * math.log(0.5) + 4 * math.log(0.3)) / (1 + 2 + 2 + 4)
    found = LOSSES["distance_penalised_cross_entropy"](logits, row(0, 1, 1, 2), context).item()
    assert found == pytest.approx(expected)

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.spatial import labels as labels_module
from autoseg.spatial.labels import resample_labels
from tests.spatial.threads import torch_threads
from tests.spatial.whole import resample_linear

side = st.integers(1, 9)


def by_one_hot(labels: torch.Tensor, shape, separate) -> torch.Tensor:
    """The rule written out: interpolate every label's mask, take the largest, ties to the higher label."""
    values = labels.unique()
    masks = resample_linear(torch.stack([labels == v for v in values]).float(), shape, separate)
    last = len(values) - 1 - torch.round(masks, decimals=5).flip(0).argmax(0)
    return values[last]


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(side, side, side),
    st.tuples(side, side, side),
    st.integers(1, 6),
    st.sampled_from([None, 0, 1, 2]),
    st.integers(0, 99),
)
def test_equals_the_rule_written_out(before, after, num_labels, separate, seed):
    labels = torch.from_numpy(np.random.default_rng(seed).integers(-1, num_labels, before).astype(np.int16))
    found = resample_labels(labels, after, separate)
    assert found.dtype == torch.int16
    assert tuple(found.shape) == after
    torch.testing.assert_close(found, by_one_hot(labels, after, separate), rtol=0, atol=0)


def test_no_hole_where_three_labels_meet():
    labels = torch.tensor([[[1, 2], [3, 1]]], dtype=torch.uint8)
    assert (resample_labels(labels, (1, 5, 5)) > 0).all()


def test_same_shape_is_no_work():
    labels = torch.zeros(2, 3, 4, dtype=torch.uint8)
    assert resample_labels(labels, (2, 3, 4)) is labels


def test_labels_are_the_same_whatever_the_number_of_threads(monkeypatch):
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (12, 30, 40)).astype(np.int8))
    monkeypatch.setattr(labels_module, "_CHUNK", 500)
    found = []
    for threads in (1, 2, 3):
        with torch_threads(threads):
            found.append(resample_labels(labels, (17, 41, 31)))
    assert torch.equal(found[0], by_one_hot(labels, (17, 41, 31), None))
    assert torch.equal(found[1], found[0])
    assert torch.equal(found[2], found[0])


def test_share_of_voxels_that_differ_from_nnunet_rule():
    """nnU-Net leaves the background where no label reaches one half; everywhere else both agree."""
    transform = pytest.importorskip("skimage.transform")
    field = resample_linear(
        torch.from_numpy(np.random.default_rng(0).standard_normal((1, 4, 5, 5))).float() * 3, (30, 40, 40)
    )
    labels = field[0].round().clamp(0, 4).to(torch.uint8)
    after = (37, 53, 29)
    expected = np.zeros(after, dtype=np.uint8)
    for value in range(5):
        mask = transform.resize((labels == value).numpy().astype(float), after, 1, mode="edge", anti_aliasing=False)
        expected[mask >= 0.5] = value
    differs = resample_labels(labels, after).numpy() != expected
    assert differs.mean() < 0.01
    assert (expected[differs] == 0).all()

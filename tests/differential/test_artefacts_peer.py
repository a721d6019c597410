"""The transforms of nnU-Net's DA5 trainer against batchgeneratorsv2's at equal parameters.

Runs where AUTOSEG_PEER_PYTHON names an interpreter that has batchgeneratorsv2.
"""

import numpy as np
import pytest
import torch

from autoseg.augmentation import artefacts
from autoseg.augmentation.intensity import TRANSFORMS
from tests.differential.peer import run_peer

SHAPE = (20, 24, 17)
EXTENTS, PLACES = (0.0, 0.5, 0.9), (0.3, 0.6, 0.99)


def _rectangle(shift):
    """Corners of the box that `blank_rectangles` makes of `EXTENTS` and the places less `shift`."""
    low, high = [], []
    for size, extent, place in zip(SHAPE, EXTENTS, PLACES, strict=True):
        shortest = size // 10
        length = shortest + int(extent * (size // 3 - shortest))
        low.append(int((place - shift) * (size - length + 1)))
        high.append(low[-1] + length)
    return low, high


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(3)
    boxes = [_rectangle(0.0), _rectangle(0.2)]
    return {
        "image": rng.normal(loc=0.3, size=(2, *SHAPE)).astype(np.float32),
        "factors": np.array([0.6, 2.1], dtype=np.float32),
        "edges": np.array([2, 4]),
        "places": np.array([[0.2, -0.4, 1.3], [0.5, 0.9, 0.1]]),
        "widths": np.array([[0.1, 0.5, 0.9], [1.0, 0.0, 0.3]]),
        "lows": np.array([[low for low, _ in boxes]] * 2),
        "highs": np.array([[high for _, high in boxes]] * 2),
    }


@pytest.fixture(scope="module")
def peer(given, tmp_path_factory):
    return run_peer("artefacts_peer.py", given, tmp_path_factory.mktemp("peer"))


def _values(name, given, channel):
    factor, hill = float(given["factors"][channel]), (*given["places"][channel], *given["widths"][channel])
    if name == "rectangles":
        return (*EXTENTS, *PLACES, *EXTENTS, *(place - 0.2 for place in PLACES))
    if name == "median":
        return (float(given["edges"][channel]),)
    return (factor, *hill) if name in ("brightness_gradient", "local_gamma") else (factor,)


@pytest.mark.parametrize(
    "name", ["sharpen", "median", "brightness_gradient", "local_gamma", "contrast_unclipped", "rectangles"]
)
def test_artefacts_equal_the_peer(given, peer, name):
    image = torch.from_numpy(given["image"].copy())
    for number, channel in enumerate(image):
        TRANSFORMS[name].apply(channel, _values(name, given, number), torch.Generator())
    np.testing.assert_allclose(image, peer[name], atol=5e-6, rtol=2e-6)
    assert not np.allclose(image, given["image"], atol=1e-2)


def test_shifts_are_distributed_as_the_peers(peer):
    rng = np.random.default_rng(0)
    ours = [TRANSFORMS["brightness_shift"].draw((0.0, 0.5), False, rng)[0] for _ in range(2000)]
    np.testing.assert_allclose(
        np.quantile(ours, [0.1, 0.5, 0.9]), np.quantile(peer["shifts"], [0.1, 0.5, 0.9]), atol=0.06
    )
    assert len(EXTENTS) + len(PLACES) == artefacts.NUM_RECTANGLE_VALUES

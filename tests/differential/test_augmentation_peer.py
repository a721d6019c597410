"""Our augmentation against batchgeneratorsv2's, at equal parameters.

Runs where batchgeneratorsv2 is importable, or where AUTOSEG_PEER_PYTHON names an interpreter that has it.
"""

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoseg.augmentation.cascade import change_shape
from autoseg.augmentation.draw import SpatialParameters, affine_matrix, source_box
from autoseg.augmentation.intensity import TRANSFORMS
from autoseg.augmentation.policies import NNUNET_INTENSITY
from autoseg.augmentation.spatial import sample_patch
from tests.differential.peer import run_peer

NUM_CLASSES = 6
ANGLES = np.array([23.0, -11.0, 28.0])


def _label_blobs(shape, rng):
    """Labels with smooth borders: the largest of some blurred noise fields."""
    return np.argmax([ndimage.gaussian_filter(rng.normal(size=shape), 2) for _ in range(NUM_CLASSES)], axis=0)


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(3)
    volume, slices, plain = (52, 60, 48), (5, 70, 64), (20, 24, 17)
    return {
        "volume_image": rng.normal(size=(2, *volume)).astype(np.float32),
        "volume_labels": _label_blobs(volume, rng).astype(np.int16),
        # Labels of single voxels: of structures as thin as can be.
        "volume_dust": rng.integers(0, NUM_CLASSES, size=volume).astype(np.int16),
        "slices_dust": rng.integers(0, NUM_CLASSES, size=slices).astype(np.int16),
        "volume_patch": np.array([20, 24, 18]),
        "volume_angles": np.deg2rad(ANGLES),
        "volume_scale": np.array(1.27),
        "slices_image": rng.normal(size=(2, *slices)).astype(np.float32),
        "slices_labels": _label_blobs(slices, rng).astype(np.int16),
        "slices_patch": np.array([5, 32, 30]),
        "slices_angles": np.deg2rad([130.0, 0.0, 0.0]),
        "slices_scale": np.array(0.8),
        "intensity_image": rng.normal(loc=0.3, size=(3, *plain)).astype(np.float32),
        "factors": np.array([0.77, 1.0, 1.4], dtype=np.float32),
        "sigmas": rng.uniform(0.5, 1.0, size=(3, 3)),
        "zooms": np.array([[0.53] * 3, [0.91] * 3, [1.0, 0.7, 0.7]], dtype=np.float32),
        "onehot": np.stack([_label_blobs(plain, rng) == k for k in range(3)]).astype(np.float32),
        "radius": np.array(3),
    }


@pytest.fixture(scope="module")
def peer(given, tmp_path_factory):
    return run_peer("augmentation_peer.py", given, tmp_path_factory.mktemp("peer"), "batchgeneratorsv2")


@pytest.mark.parametrize("kind", ["labels", "dust"])
@pytest.mark.parametrize(("name", "angles"), [("volume", tuple(ANGLES)), ("slices", (130.0, 0.0, 0.0))])
def test_rotation_and_scaling_equal_the_peer(given, peer, name, angles, kind):
    image, labels = (torch.from_numpy(given[f"{name}_{part}"]) for part in ("image", kind))
    patch = tuple(int(n) for n in given[f"{name}_patch"])
    # The peer turns about the volume's middle; as volume and patch have the same parity, that is a patch's midpoint.
    centre = [size // 2 for size in labels.shape]
    matrix = affine_matrix(angles, float(given[f"{name}_scale"]), in_plane=name == "slices")
    parameters = SpatialParameters(matrix=matrix)
    low, high = source_box(parameters, patch, centre)
    assert all(first >= 0 and last <= size for first, last, size in zip(low, high, labels.shape, strict=True))
    sampled, voted = sample_patch(image, labels, (0, 0, 0), centre, patch, parameters, NUM_CLASSES)
    np.testing.assert_allclose(sampled, peer[f"{name}_image"], atol=5e-5)
    # The peer scores labels in half precision, so that its near ties fall otherwise now and then.
    assert (voted.numpy() != peer[f"{name}_{kind}"]).mean() < {"labels": 3e-4, "dust": 1e-3}[kind]
    assert len(np.unique(voted)) == NUM_CLASSES


@pytest.mark.parametrize("name", sorted({item.name for item in NNUNET_INTENSITY} - {"noise"}))
def test_intensity_transforms_equal_the_peer(given, peer, name):
    image = torch.from_numpy(given["intensity_image"].copy())
    values = {"blur": given["sigmas"], "low_resolution": given["zooms"]}.get(name, given["factors"][:, None])
    for channel, drawn in zip(image, values, strict=True):
        TRANSFORMS[name].apply(channel, tuple(float(v) for v in drawn), torch.Generator())
    np.testing.assert_allclose(image, peer[name], atol=2e-6, rtol=2e-6)
    assert not np.allclose(image, given["intensity_image"], atol=1e-3)


@pytest.mark.parametrize("name", ["dilation", "erosion", "opening", "closing"])
def test_morphology_equals_the_peer(given, peer, name):
    onehot = torch.from_numpy(given["onehot"].copy())
    change_shape(onehot, 1, name, int(given["radius"]))
    np.testing.assert_array_equal(onehot, peer[name])
    assert not np.array_equal(onehot, given["onehot"])

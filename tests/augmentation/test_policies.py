import numpy as np
import pytest

from autoseg.augmentation.intensity import TRANSFORMS
from autoseg.augmentation.policies import POLICIES, da5_augmentation, nnunet_augmentation


@pytest.mark.parametrize(
    ("is_2d", "patch", "limit", "in_plane"),
    [
        (False, (128, 128, 128), 30, False),
        (False, (40, 56, 40), 30, False),
        (False, (20, 60, 48), 30, False),  # exactly three times is not yet flat
        (False, (20, 320, 256), 180, True),
        (False, (64, 16, 193), 180, True),  # only the first axis counts
        (True, (256, 256), 180, True),
        (True, (384, 256), 180, True),  # exactly 1.5 times is not yet elongated
        (True, (512, 256), 15, True),
    ],
)
def test_rotation_follows_the_patch(is_2d, patch, limit, in_plane):
    spatial = nnunet_augmentation(is_2d, patch).spatial
    assert spatial is not None
    assert spatial.rotation_degrees == (-limit, limit)
    assert spatial.dummy_2d is in_plane
    assert (spatial.rotation_probability, spatial.scaling_probability, spatial.scaling) == (0.2, 0.2, (0.7, 1.4))


def test_intensity_list_is_nnunets():
    rows = [
        (item.name, item.probability, item.channel_probability, item.range)
        for item in nnunet_augmentation(False, (64, 64, 64)).intensity
    ]
    assert rows == [
        ("noise", 0.1, 1.0, (0.0, 0.1)),
        ("blur", 0.2, 0.5, (0.5, 1.0)),
        ("brightness", 0.15, 1.0, (0.75, 1.25)),
        ("contrast", 0.15, 1.0, (0.75, 1.25)),
        ("low_resolution", 0.25, 0.5, (0.5, 1.0)),
        ("gamma_inverted", 0.1, 1.0, (0.7, 1.5)),
        ("gamma", 0.3, 1.0, (0.7, 1.5)),
    ]


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_names_known_transforms(name):
    policy = POLICIES[name](False, (32, 32, 32))
    assert {item.name for item in policy.intensity} <= set(TRANSFORMS)


def test_da5_is_the_longer_list_of_nnunets_trainer():
    policy = da5_augmentation(False, (64, 64, 64))
    rows = [(item.name, item.probability, item.channel_probability, item.range) for item in policy.intensity]
    assert rows == [
        ("median", 0.2, 0.5, (2, 4)),
        ("blur_isotropic", 0.2, 0.5, (0.3, 1.5)),
        ("noise", 0.1, 1.0, (0.0, 0.1)),
        ("brightness_shift", 0.1, 0.5, (0.0, 0.5)),
        ("contrast", 0.2, 0.5, (0.5, 2.0)),
        ("contrast_unclipped", 0.2, 0.5, (0.5, 2.0)),
        ("low_resolution", 0.15, 0.5, (0.25, 1.0)),
        ("gamma_inverted", 0.1, 1.0, (0.7, 1.5)),
        ("gamma_inverted", 0.1, 1.0, (0.7, 1.5)),
        ("rectangles", 0.4, 0.5, (1, 4)),
        ("brightness_gradient", 0.3, 0.5, (1.0, 5.0)),
        ("local_gamma", 0.3, 0.5, (0.01, 4.0)),
        ("sharpen", 0.2, 0.5, (0.1, 1.0)),
    ]
    assert [item.one_of for item in policy.intensity if item.one_of] == ["smooth", "smooth", "contrast", "contrast"]
    assert policy.spatial is not None
    assert (policy.spatial.rotation_probability, policy.spatial.scaling) == (0.4, (0.7, 1.43))
    assert da5_augmentation(False, (20, 320, 256)).spatial.dummy_2d  # type: ignore[union-attr]


def test_none_changes_nothing():
    policy = POLICIES["none"](False, (32, 32, 32))
    assert policy.spatial is None
    assert policy.intensity == ()
    assert policy.cascade.morphology_probability == policy.cascade.drop_probability == 0


def test_light_leaves_half_of_the_samples_uninterpolated():
    spatial = POLICIES["light"](False, (32, 32, 32)).spatial
    assert spatial is not None
    crops = (1 - spatial.rotation_probability) * (1 - spatial.scaling_probability)
    assert np.isclose(crops, 0.5, atol=0.02)


def test_all_policies_but_none_put_zeros_outside_the_mask():
    assert [name for name in POLICIES if not POLICIES[name](False, (32, 32, 32)).zero_outside] == ["none"]

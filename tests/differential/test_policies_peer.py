"""Our policies against nnU-Net's trainers, number for number, as their own objects say for seven patches.

Runs where AUTOSEG_PEER_PYTHON names an interpreter that has nnU-Net.
"""

import json

import numpy as np
import pytest

from autoseg.augmentation.intensity import TRANSFORMS, draw_intensity
from autoseg.augmentation.policies import POLICIES
from autoseg.records.recipe import Augmentation, IntensityAugmentation, Mirroring
from tests.differential.peer import run_peer

PATCHES = ([64, 64, 64], [20, 60, 48], [20, 320, 256], [64, 16, 193], [256, 256], [384, 256], [392, 256])

# Class of theirs (and what else tells it) -> our name and the attribute with the range.
NAMES = {
    ("GaussianNoiseTransform", None): ("noise", "noise_variance"),
    ("GaussianBlurTransform", False): ("blur", "blur_sigma"),
    ("GaussianBlurTransform", True): ("blur_isotropic", "blur_sigma"),
    ("MultiplicativeBrightnessTransform", None): ("brightness", "multiplier_range"),
    ("ContrastTransform", True): ("contrast", "contrast_range"),
    ("ContrastTransform", False): ("contrast_unclipped", "contrast_range"),
    ("SimulateLowResolutionTransform", True): ("low_resolution", "scale"),
    ("GammaTransform", 1.0): ("gamma_inverted", "gamma"),
    ("GammaTransform", 0.0): ("gamma", "gamma"),
    ("MedianFilterTransform", None): ("median", None),  # by design, see `policies`
    ("BrightnessAdditiveTransform", None): ("brightness_shift", ("mu", "sigma")),
    ("BlankRectangleTransform", None): ("rectangles", "num_rectangles"),
    ("BrightnessGradientAdditiveTransform", None): ("brightness_gradient", None),  # a function draws its height
    ("LocalGammaTransform", None): ("local_gamma", None),  # likewise
    ("SharpeningTransform", None): ("sharpen", "strength"),
}
TELLING = ("p_invert_image", "preserve_range", "synchronize_axes")


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    found = run_peer(
        "policies_peer.py", {"patches": np.array(json.dumps(PATCHES))}, tmp_path_factory.mktemp("policies")
    )
    return {(one["policy"], tuple(one["patch"])): one["rows"] for one in json.loads(str(found["found"]))}


def _named(rows, name):
    """The one row of this class; None where there is none."""
    (found,) = [row for row in rows if isinstance(row, dict) and row["name"] == name] or [None]
    return found


def _intensities(rows):
    """Name, odds, odds a channel, range, whether channels have their own values, group: of each transform, in order."""
    found = []
    for place, entry in enumerate(rows):
        for row in entry if isinstance(entry, list) else [entry]:
            telling = next((row[key] for key in TELLING if key in row), None)
            if (row["name"], telling) not in NAMES:
                continue
            name, key = NAMES[row["name"], telling]
            limits = [row[one] for one in key] if isinstance(key, tuple) else row[key] if key else None
            if name == "rectangles":  # the upper end is not drawn there
                limits = [limits[0], limits[1] - 1]
            assert row.get("p_retain_stats", 1) == 1
            own = not row.get("synchronize_channels", row.get("same_for_all_channels", False))
            group = place if isinstance(entry, list) else None
            found.append((name, row["odds"], row["p_per_channel"], limits, own, group))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("patch", PATCHES, ids=str)
@pytest.mark.parametrize("policy", ["nnunet", "da5"])
def test_spatial_odds_and_ranges(policy, patch, peer):
    rows, ours = peer[policy, tuple(patch)], POLICIES[policy](len(patch) == 2, patch).spatial
    theirs = _named(rows, "SpatialTransform")
    assert ours.rotation_probability == theirs["p_rotation"]
    assert ours.rotation_degrees == pytest.approx(np.rad2deg(theirs["rotation"]))
    assert ours.rotation_axis_probability == theirs["p_rot_per_axis"]
    assert (ours.scaling_probability, list(ours.scaling)) == (theirs["p_scaling"], theirs["scaling"])
    assert ours.scaling_per_axis is (theirs["p_synchronize_scaling_across_axes"] == 0)
    assert ours.elastic_probability == theirs["p_elastic_deform"]
    assert (theirs["random_crop"], theirs["mode_image"], theirs["mode_seg"]) == (False, "bilinear", "bilinear")
    assert ours.dummy_2d is (_named(rows, "Convert3DTo2DTransform") is not None or len(patch) == 2)
    for name, odds in (("Rot90Transform", "quarter_turn"), ("TransposeAxesTransform", "transpose")):
        found = _named(rows, name)
        if found is not None:
            assert getattr(ours, f"{odds}_probability") == found["odds"]
        else:
            assert policy == "nnunet" or len(set(patch)) == len(patch)
    flipped = [axis + 3 - len(patch) for axis in _named(rows, "MirrorTransform")["allowed_axes"]]
    assert list(Mirroring().axes)[-len(patch) :] == flipped


@pytest.mark.slow
@pytest.mark.parametrize("patch", PATCHES, ids=str)
@pytest.mark.parametrize("policy", ["nnunet", "da5"])
def test_intensity_odds_ranges_and_order(policy, patch, peer):
    ours, theirs = POLICIES[policy](len(patch) == 2, patch), _intensities(peer[policy, tuple(patch)])
    assert [item.name for item in ours.intensity] == [row[0] for row in theirs]
    for item, (name, odds, channel_odds, limits, own, _) in zip(ours.intensity, theirs, strict=True):
        assert (item.probability, item.channel_probability) == (odds, channel_odds), name
        assert limits is None or list(item.range) == limits, name
        assert TRANSFORMS[item.name].per_channel is own, name
    # Members of a choice stand together in both, and nothing else does.
    words = [item.one_of for item in ours.intensity]
    groups = [row[5] for row in theirs]
    together = [[a == b and a is not None for b in of] for of in (words, groups) for a in of]
    assert together[: len(words)] == together[len(words) :]


@pytest.mark.slow
@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_axes_have_their_own_values_as_there(patch, peer):
    rows, policy = peer["nnunet", tuple(patch)], POLICIES["nnunet"](len(patch) == 2, patch)
    for name, theirs in (("blur", "GaussianBlurTransform"), ("low_resolution", "SimulateLowResolutionTransform")):
        row = _named(rows, theirs)
        always = Augmentation(
            spatial=policy.spatial, intensity=(IntensityAugmentation(name=name, probability=1, range=(0.5, 0.9)),)
        )
        (step,) = draw_intensity(always, 1, np.random.default_rng(0)).steps
        values = step.values[0][-len(patch) :]
        ignored = row.get("ignore_axes") or []
        assert all((values[axis] == 1) == (axis in ignored) for axis in range(len(patch)))
        free = [value for axis, value in enumerate(values) if axis not in ignored]
        assert (len(set(free)) == 1) is row["synchronize_axes"]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["nnunet", "da5"])
def test_channels_normalised_inside_a_mask_are_zero_outside_it(policy, peer):
    """Last of all that changes intensities; ours is held against theirs in `test_masking_nnunet`."""
    rows = [row for row in peer[policy, tuple(PATCHES[0])] if isinstance(row, dict)]
    masked = _named(rows, "MaskImageTransform")
    assert (masked["apply_to_channels"], masked["set_outside_to"]) == ([1], 0)
    assert not _intensities(rows[rows.index(masked) :])


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["nnunet", "da5"])
def test_corruption_of_a_previous_stage(policy, peer):
    rows, ours = peer[policy, tuple(PATCHES[0])], POLICIES[policy](False, PATCHES[0]).cascade
    shape = _named(rows, "ApplyRandomBinaryOperatorTransform")
    drop = _named(rows, "RemoveRandomConnectedComponentFromOneHotEncodingTransform")
    assert (ours.morphology_probability, ours.morphology_label_probability) == (shape["odds"], shape["p_per_label"])
    assert list(ours.morphology_radius) == shape["strel_size"]
    assert len(shape["any_of_these"]) == 4
    assert (ours.drop_probability, ours.drop_label_probability) == (drop["odds"], drop["p_per_label"])
    assert ours.drop_max_fraction == drop["dont_do_if_covers_more_than_x_percent"]
    assert drop["fill_with_other_class_p"] == 0

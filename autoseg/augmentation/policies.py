"""A policy's name and a patch size in, the `Augmentation` record out: what is done, how often, how strongly.

`nnunet` is the list of nnU-Net v2's default trainer (Isensee et al. 2021), values for values; its ranges of
rotation depend on the patch. `light` is for trainings of minutes on a CPU, which see every voxel only a few
times: fewer and weaker transforms, none of them expensive. `da5` is the longer list of nnU-Net's trainer
`nnUNetTrainerDA5`, for data whose intensities and orientations vary a lot. `none` changes nothing.
"""

from collections.abc import Callable, Sequence

from autoseg.records.recipe import Augmentation, CascadeAugmentation, IntensityAugmentation, SpatialAugmentation

# nnU-Net: a 3-D patch more than this many times wider than deep is rotated and scaled in the plane only.
DUMMY_2D_ASPECT = 3.0
# nnU-Net: a 2-D patch more elongated than this is rotated by at most 15 degrees, any other by any angle.
ELONGATED_2D_ASPECT = 1.5

NNUNET_INTENSITY = (
    IntensityAugmentation(name="noise", probability=0.1, range=(0.0, 0.1)),
    IntensityAugmentation(name="blur", probability=0.2, channel_probability=0.5, range=(0.5, 1.0)),
    IntensityAugmentation(name="brightness", probability=0.15, range=(0.75, 1.25)),
    IntensityAugmentation(name="contrast", probability=0.15, range=(0.75, 1.25)),
    IntensityAugmentation(name="low_resolution", probability=0.25, channel_probability=0.5, range=(0.5, 1.0)),
    IntensityAugmentation(name="gamma_inverted", probability=0.1, range=(0.7, 1.5)),
    IntensityAugmentation(name="gamma", probability=0.3, range=(0.7, 1.5)),
)


def nnunet_augmentation(is_2d: bool, patch: Sequence[int]) -> Augmentation:
    """nnU-Net's default policy for a patch of y x (2-D) or z y x (3-D) voxels.

    2-D patches rotate by any angle, by 15 degrees when elongated; 3-D patches by 30 degrees about each axis, and
    flat ones (`DUMMY_2D_ASPECT`) by any angle in the plane. Scaling is by 0.7 to 1.4.
    """
    if is_2d:
        in_plane = patch[-2:]
        limit = 15.0 if max(in_plane) / min(in_plane) > ELONGATED_2D_ASPECT else 180.0
        spatial = SpatialAugmentation(rotation_degrees=(-limit, limit), dummy_2d=True)
    elif max(patch) / patch[0] > DUMMY_2D_ASPECT:
        spatial = SpatialAugmentation(rotation_degrees=(-180.0, 180.0), dummy_2d=True)
    else:
        spatial = SpatialAugmentation()
    return Augmentation(spatial=spatial, intensity=NNUNET_INTENSITY)


DA5_INTENSITY = (
    # nnU-Net's medians are of cubes of 2 to 7 voxels; 7 takes ten seconds of a CPU for a patch of 128^3.
    IntensityAugmentation(name="median", probability=0.2, channel_probability=0.5, range=(2, 4), one_of="smooth"),
    IntensityAugmentation(
        name="blur_isotropic", probability=0.2, channel_probability=0.5, range=(0.3, 1.5), one_of="smooth"
    ),
    IntensityAugmentation(name="noise", probability=0.1, range=(0.0, 0.1)),
    IntensityAugmentation(name="brightness_shift", probability=0.1, channel_probability=0.5, range=(0.0, 0.5)),
    IntensityAugmentation(
        name="contrast", probability=0.2, channel_probability=0.5, range=(0.5, 2.0), one_of="contrast"
    ),
    IntensityAugmentation(
        name="contrast_unclipped", probability=0.2, channel_probability=0.5, range=(0.5, 2.0), one_of="contrast"
    ),
    IntensityAugmentation(name="low_resolution", probability=0.15, channel_probability=0.5, range=(0.25, 1.0)),
    # Twice, as there; the second was perhaps meant to be the gamma that is not inverted.
    IntensityAugmentation(name="gamma_inverted", probability=0.1, range=(0.7, 1.5)),
    IntensityAugmentation(name="gamma_inverted", probability=0.1, range=(0.7, 1.5)),
    IntensityAugmentation(name="rectangles", probability=0.4, channel_probability=0.5, range=(1, 4)),
    IntensityAugmentation(name="brightness_gradient", probability=0.3, channel_probability=0.5, range=(1.0, 5.0)),
    IntensityAugmentation(name="local_gamma", probability=0.3, channel_probability=0.5, range=(0.01, 4.0)),
    IntensityAugmentation(name="sharpen", probability=0.2, channel_probability=0.5, range=(0.1, 1.0)),
)


def da5_augmentation(is_2d: bool, patch: Sequence[int]) -> Augmentation:
    """The policy of nnU-Net's `nnUNetTrainerDA5`; ranges of rotation as in `nnunet_augmentation`.

    Rotation about each axis by itself, a factor of scaling for each, quarter turns and transpositions of axes along
    which the patch is equally long; where a cascade's previous stage is corrupted, all its labels are.
    """
    usual = nnunet_augmentation(is_2d, patch).spatial
    assert usual is not None, "nnU-Net's policy rotates"
    changes = {
        "rotation_probability": 0.4,
        "rotation_axis_probability": 0.5,
        "scaling": (0.7, 1.43),
        "scaling_per_axis": True,
        "quarter_turn_probability": 0.5,
        "transpose_probability": 0.5,
    }
    cascade = CascadeAugmentation(morphology_label_probability=1.0, drop_label_probability=1.0)
    return Augmentation(spatial=usual.model_copy(update=changes), intensity=DA5_INTENSITY, cascade=cascade)


def light_augmentation(is_2d: bool, patch: Sequence[int]) -> Augmentation:
    """Rotation by up to 15 degrees or scaling on half of the samples, brightness and noise."""
    flat = is_2d or max(patch) / patch[0] > DUMMY_2D_ASPECT
    # Two independent odds of 0.3 leave 0.7 * 0.7 = 49 % of the samples as integer crops.
    spatial = SpatialAugmentation(
        rotation_probability=0.3,
        rotation_degrees=(-15.0, 15.0),
        scaling_probability=0.3,
        scaling=(0.85, 1.2),
        dummy_2d=flat,
    )
    intensity = (
        IntensityAugmentation(name="noise", probability=0.2, range=(0.0, 0.1)),
        IntensityAugmentation(name="brightness", probability=0.3, range=(0.8, 1.2)),
    )
    return Augmentation(spatial=spatial, intensity=intensity)


def no_augmentation(is_2d: bool, patch: Sequence[int]) -> Augmentation:  # noqa: ARG001 - one signature in the table
    """Integer crops as they are; mirroring is a field of the recipe and stays its own decision."""
    nothing = CascadeAugmentation(morphology_probability=0.0, drop_probability=0.0)
    return Augmentation(spatial=None, zero_outside=False, cascade=nothing)


POLICIES: dict[str, Callable[[bool, Sequence[int]], Augmentation]] = {
    "nnunet": nnunet_augmentation,
    "light": light_augmentation,
    "da5": da5_augmentation,
    "none": no_augmentation,
}

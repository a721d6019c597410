"""Channel names and the share of the image that is not background in; how each channel is normalised out."""

from collections.abc import Sequence

from autoseg.records.plan import Normalization

BY_CHANNEL_NAME: dict[str, Normalization] = {
    "ct": "ct",
    "nonorm": "none",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale",
    "rgb_to_0_1": "rgb",
}
"""nnU-Net's names, compared without regard to case; every other name is normalised by `zscore`."""

_MOSTLY_BACKGROUND = 0.75
"""nnU-Net: below this median share of voxels left by the crop, z-scores are taken inside the nonzero mask."""


def choose_normalization(
    channel_names: Sequence[str], relative_size_after_crop: float
) -> tuple[tuple[Normalization, ...], tuple[bool, ...]]:
    """Scheme of each channel, and whether its mean and deviation come from the nonzero mask only (`zscore` alone)."""
    schemes = tuple(BY_CHANNEL_NAME.get(name.casefold(), "zscore") for name in channel_names)
    masked = relative_size_after_crop < _MOSTLY_BACKGROUND
    return schemes, tuple(masked and scheme == "zscore" for scheme in schemes)

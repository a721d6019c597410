"""A policy and a sample's own random generator in, intensity parameters out; those and a batch in, the batch changed.

What is drawn is drawn on the host, a list of steps a sample, so that only samples and channels that drew a transform
are touched, nothing waits for the device, and a sample's result does not depend on the rest of its batch. The values
of the noise alone come from a generator on the device, seeded by the sample's; they differ between kinds of device.

The transforms and their order are nnU-Net's; at equal parameters they equal batchgeneratorsv2 0.3.6 up to rounding
(`tests/differential/test_augmentation_peer.py`). All change a channel `Z Y X` in place. Here are those of its default
trainer; `artefacts` has those that only its DA5 trainer adds.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from autoseg.augmentation import artefacts
from autoseg.records.base import Record
from autoseg.records.recipe import Augmentation, Range

# Ranges and deviations below this count as zero, as in batchgeneratorsv2.
SMALLEST_RANGE = 1e-7
# A blur kernel reaches about this many sigmas in all (batchgeneratorsv2's truncation).
BLUR_WIDTH_SIGMAS = 6
# nnU-Net's DA5: exponents of local gamma leave out what would hardly show.
LOCAL_GAMMA_GAP = (0.8, 1.5)
# nnU-Net's DA5: middles of gradients, as fractions of the axes.
HILL_PLACES = (-0.5, 1.5)


class IntensityStep(Record):
    """One transform that a sample drew."""

    name: str
    """Key of `TRANSFORMS`."""
    channels: tuple[int, ...]
    """Channels it is applied to."""
    values: tuple[tuple[float, ...], ...]
    """For each of these channels what the transform's draw function drew."""
    seed: int = 0
    """Seed of the noise."""


class IntensityParameters(Record):
    """Everything that happens to the intensities of one sample."""

    steps: tuple[IntensityStep, ...] = ()
    """Applied in this order."""


def draw_intensity(policy: Augmentation, num_channels: int, rng: np.random.Generator) -> IntensityParameters:
    """Draw which transforms one sample gets, in which channels, and how strongly."""
    in_plane = policy.spatial is not None and policy.spatial.dummy_2d
    steps = []
    groups = Counter(item.one_of for item in policy.intensity if item.one_of)
    chosen: dict[str, int] = {}  # how many entries of a group are still to be passed before the one that was drawn
    for item in policy.intensity:
        if item.one_of:
            chosen[item.one_of] = chosen.get(item.one_of, int(rng.integers(groups[item.one_of]) + 1)) - 1
        if (item.one_of and chosen[item.one_of] != 0) or rng.random() >= item.probability:
            continue
        channels = tuple(c for c in range(num_channels) if rng.random() < item.channel_probability)
        transform = TRANSFORMS[item.name]
        drawn = [transform.draw(item.range, in_plane, rng) for _ in (channels if transform.per_channel else (0,))]
        values = tuple(drawn if transform.per_channel else drawn * len(channels))
        if channels:
            seed = int(rng.integers(2**63))
            steps.append(IntensityStep(name=item.name, channels=channels, values=values, seed=seed))
    return IntensityParameters(steps=tuple(steps))


def apply_intensity(images: Tensor, parameters: Sequence[IntensityParameters]) -> Tensor:
    """Change a batch in place and return it.

    Args:
        images: `N C Z Y X` float32.
        parameters: one entry a sample.
    """
    for image, sample in zip(images, parameters, strict=True):
        for step in sample.steps:
            generator = torch.Generator(device=images.device).manual_seed(step.seed)
            apply = TRANSFORMS[step.name].apply
            for channel, values in zip(step.channels, step.values, strict=True):
                apply(image[channel], values, generator)
    return images


def zero_outside(images: Tensor, outside: Tensor, channels: Sequence[int]) -> Tensor:
    """Set voxels to 0 in place and return the batch: what noise or interpolation left where there is no tissue.

    Args:
        images: `N C Z Y X`.
        outside: `N Z Y X`, whether a voxel lies outside the nonzero mask.
        channels: that are 0 there before augmentation.
    """
    for channel in channels:
        images[:, channel].masked_fill_(outside, 0)
    return images


def _draw_uniform(limits: Range, in_plane: bool, rng: np.random.Generator) -> tuple[float, ...]:  # noqa: ARG001
    return (float(rng.uniform(*limits)),)


def _draw_sigmas(limits: Range, in_plane: bool, rng: np.random.Generator) -> tuple[float, ...]:  # noqa: ARG001
    """One sigma an axis, z too in patches rotated in the plane (nnU-Net's choice)."""
    return tuple(float(sigma) for sigma in rng.uniform(*limits, size=3))


def _draw_sigma(limits: Range, in_plane: bool, rng: np.random.Generator) -> tuple[float, ...]:  # noqa: ARG001
    """One sigma for all axes."""
    return (float(rng.uniform(*limits)),) * 3


def _draw_normal(limits: Range, in_plane: bool, rng: np.random.Generator) -> tuple[float, ...]:  # noqa: ARG001
    """Normally distributed; `limits` are mean and standard deviation."""
    return (float(rng.normal(*limits)),)


def _draw_whole(limits: Range, in_plane: bool, rng: np.random.Generator) -> tuple[float, ...]:  # noqa: ARG001
    """A whole number, both limits included."""
    return (float(rng.integers(int(limits[0]), int(limits[1]) + 1)),)


def _draw_rectangles(limits: Range, in_plane: bool, rng: np.random.Generator) -> tuple[float, ...]:
    """Extents and places of as many rectangles as `limits` allow."""
    count = int(_draw_whole(limits, in_plane, rng)[0])
    return tuple(float(value) for value in rng.random(count * artefacts.NUM_RECTANGLE_VALUES))


def _draw_hill(rng: np.random.Generator) -> tuple[float, ...]:
    return tuple(float(value) for value in (*rng.uniform(*HILL_PLACES, size=3), *rng.random(3)))


def _draw_gradient(limits: Range, in_plane: bool, rng: np.random.Generator) -> tuple[float, ...]:  # noqa: ARG001
    """Height within `limits`, above or below zero alike, and a hill."""
    return (float(rng.choice((-1, 1)) * rng.uniform(*limits)), *_draw_hill(rng))


def _draw_local_gamma(limits: Range, in_plane: bool, rng: np.random.Generator) -> tuple[float, ...]:  # noqa: ARG001
    """An exponent on either side of the gap alike, and a hill."""
    sides = ((limits[0], LOCAL_GAMMA_GAP[0]), (LOCAL_GAMMA_GAP[1], limits[1]))
    return (float(rng.uniform(*sides[int(rng.integers(2))])), *_draw_hill(rng))


def _draw_zooms(limits: Range, in_plane: bool, rng: np.random.Generator) -> tuple[float, ...]:
    """One zoom for all axes; z keeps its resolution in patches rotated in the plane."""
    zoom = float(rng.uniform(*limits))
    return (1.0 if in_plane else zoom, zoom, zoom)


def _draw_factor(limits: Range, in_plane: bool, rng: np.random.Generator) -> tuple[float, ...]:  # noqa: ARG001
    """Below 1 in half of the draws and above 1 in the other half, uniform on each side, as far as `limits` reach."""
    low, high = limits
    below = low < 1 and (high <= 1 or rng.random() < 0.5)
    return (float(rng.uniform(low, min(high, 1.0)) if below else rng.uniform(max(low, 1.0), high)),)


def add_noise(channel: Tensor, values: tuple[float, ...], generator: torch.Generator) -> None:
    """Add Gaussian noise; value: its standard deviation (nnU-Net calls it a variance)."""
    noise = torch.randn(channel.shape, generator=generator, device=channel.device, dtype=channel.dtype)
    channel.add_(noise, alpha=values[0])


def blur(channel: Tensor, values: tuple[float, ...], generator: torch.Generator) -> None:  # noqa: ARG001
    """Gaussian blur, axis by axis, the borders reflected without repeating them; values: sigma z, y, x in voxels."""
    for axis, sigma in enumerate(values):
        size = channel.shape[axis]
        if size == 1:  # a blur of one voxel and its reflections
            continue
        weights = _gaussian_weights(sigma)
        radius = len(weights) // 2
        padded = _reflect(channel, axis, radius)
        channel.copy_(padded.narrow(axis, 0, size)).mul_(weights[0])
        for shift, weight in enumerate(weights[1:], start=1):
            channel.add_(padded.narrow(axis, shift, size), alpha=weight)


def _gaussian_weights(sigma: float) -> list[float]:
    """Normalised kernel; its length is 6 sigma + 0.5 rounded to the nearest odd number (batchgeneratorsv2's rule)."""
    length = sigma * BLUR_WIDTH_SIGMAS + 0.5
    rounded = round(length)
    if rounded % 2 == 0:
        rounded += 1 if length >= rounded else -1
    positions = np.arange(rounded) - rounded // 2
    weights = np.exp(-0.5 * (positions / sigma) ** 2)
    return [float(weight) for weight in weights / weights.sum()]


def _reflect(channel: Tensor, axis: int, radius: int) -> Tensor:
    """`channel` with `radius` more voxels at both ends of an axis, mirrored at its first and last voxel."""
    size = channel.shape[axis]
    period = 2 * (size - 1)
    before = [(-i) % period for i in range(-radius, 0)]
    after = [i % period for i in range(size, size + radius)]
    ends = [[channel.narrow(axis, min(i, period - i), 1) for i in side] for side in (before, after)]
    return torch.cat([*ends[0], channel, *ends[1]], dim=axis)


def scale_brightness(channel: Tensor, values: tuple[float, ...], generator: torch.Generator) -> None:  # noqa: ARG001
    """Multiply; value: the factor."""
    channel.mul_(values[0])


def stretch_contrast(channel: Tensor, values: tuple[float, ...], generator: torch.Generator) -> None:  # noqa: ARG001
    """Multiply the distance from the mean and clip to the range there was; value: the factor."""
    low, high = torch.aminmax(channel)
    mean = channel.mean()
    channel.sub_(mean).mul_(values[0]).add_(mean).clamp_(low, high)


def lower_resolution(channel: Tensor, values: tuple[float, ...], generator: torch.Generator) -> None:  # noqa: ARG001
    """Nearest-neighbour sampling on a coarser grid and linear interpolation back; values: zoom z, y, x."""
    shape = [max(1, round(size * zoom)) for size, zoom in zip(channel.shape, values, strict=True)]
    small = functional.interpolate(channel[None, None], shape, mode="nearest-exact")
    channel.copy_(functional.interpolate(small, channel.shape, mode="trilinear")[0, 0])


def change_gamma(channel: Tensor, values: tuple[float, ...], generator: torch.Generator) -> None:  # noqa: ARG001
    """Raise the intensities, brought to 0 to 1, to a power; mean and standard deviation stay; value: the exponent."""
    mean, deviation = _mean_and_deviation(channel)
    low, high = torch.aminmax(channel)
    extent = high - low
    channel.sub_(low).div_(extent.clamp(min=SMALLEST_RANGE)).pow_(values[0])
    new_mean, new_deviation = _mean_and_deviation(channel)
    # Standardising absorbs the way back to the old range, except for the guard against a range of zero.
    factor = deviation * extent / (new_deviation * extent).clamp(min=SMALLEST_RANGE)
    channel.sub_(new_mean).mul_(factor).add_(mean)


def change_gamma_inverted(channel: Tensor, values: tuple[float, ...], generator: torch.Generator) -> None:
    """The same on the negative image."""
    channel.neg_()
    change_gamma(channel, values, generator)
    channel.neg_()


def _mean_and_deviation(channel: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (unbiased) standard deviation, 0 for one voxel; several times as fast as `torch.var_mean` on a CPU."""
    mean = channel.mean()
    centred = (channel - mean).flatten()
    return mean, (torch.dot(centred, centred) / max(centred.numel() - 1, 1)).sqrt()


class Transform(NamedTuple):
    """How a transform's values are drawn and how it is applied."""

    draw: Callable[[Range, bool, np.random.Generator], tuple[float, ...]]
    """(range, whether in the plane, rng) -> values."""
    apply: Callable[[Tensor, tuple[float, ...], torch.Generator], None]
    """(channel `Z Y X`, values, generator on its device), in place."""
    per_channel: bool = True
    """Whether each channel has its own values; otherwise all share the sample's."""


TRANSFORMS: dict[str, Transform] = {
    "noise": Transform(_draw_uniform, add_noise, per_channel=False),
    "blur": Transform(_draw_sigmas, blur),
    "brightness": Transform(_draw_factor, scale_brightness),
    "contrast": Transform(_draw_factor, stretch_contrast),
    "low_resolution": Transform(_draw_zooms, lower_resolution),
    "gamma_inverted": Transform(_draw_factor, change_gamma_inverted),
    "gamma": Transform(_draw_factor, change_gamma),
    "blur_isotropic": Transform(_draw_sigma, blur),
    "median": Transform(_draw_whole, artefacts.median_filter),
    "sharpen": Transform(_draw_uniform, artefacts.sharpen),
    "brightness_shift": Transform(_draw_normal, artefacts.shift_brightness),
    "contrast_unclipped": Transform(_draw_factor, artefacts.stretch_contrast_unclipped),
    "rectangles": Transform(_draw_rectangles, artefacts.blank_rectangles),
    "brightness_gradient": Transform(_draw_gradient, artefacts.add_gradient),
    "local_gamma": Transform(_draw_local_gamma, artefacts.change_gamma_locally),
}

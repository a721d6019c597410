"""A source of cases and a place in the training in, the batch of augmented patches that belongs there out.

A sample is drawn first (case, centre, rotation, scale, mirroring), so that only the voxels it depends on are read;
then cut and resampled at once, and the intensities of the whole batch are changed together on its device. Nothing
remembers anything: the batch of (epoch, step) is a function of the seed.

Two details differ from nnU-Net on purpose. A patch centred on foreground is moved into the volume on both sides,
where nnU-Net moves it on the lower side only; and no margin is read around the patch, since rotation and scale are
known before reading.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoseg.augmentation.cascade import corrupt_previous
from autoseg.augmentation.draw import SpatialParameters, draw_spatial, source_box
from autoseg.augmentation.intensity import IntensityParameters, apply_intensity, draw_intensity, zero_outside
from autoseg.augmentation.spatial import outside_label, sample_patch
from autoseg.inference.model import previous_channels
from autoseg.preprocessing.locations import FlatIndices
from autoseg.records.geometry import IntTriple
from autoseg.records.labels import LabelScheme
from autoseg.records.recipe import Recipe, Sampling
from autoseg.training.rng import sample_rng
from autoseg.training.source import Crop, Source, made_ahead, read_crop
from autoseg.training.staging import Staged, Staging
from autoseg.training.tiers import num_reading_threads

Place = tuple[int, int]
"""Epoch, and step within it."""

Plugins = Callable[[Tensor, Tensor, Sequence[str], Place], tuple[Tensor, Tensor]]
"""Images `N C Z Y X`, label maps `N L Z Y X`, case ids and place -> changed images and label maps. Where a sampler has
`masked_channels`, -1 is background outside the nonzero mask."""


@dataclass(frozen=True)
class Sampler:
    """All that decides what the batches of a training hold."""

    source: Source
    recipe: Recipe
    labels: LabelScheme
    """Of what is taught, a distractor included."""
    patch_zyx: IntTriple
    batch_size: int
    seed: int
    device: torch.device
    previous_labels: LabelScheme | None = None
    """Scheme of the previous stage's segmentation, which each crop then carries as a second label map; None: none."""
    plugins: Plugins | None = None
    """A user's own transforms, applied before the intensities are changed."""
    case_odds: Callable[[int], npt.NDArray[np.float64] | None] | None = None
    """Epoch -> odds of each case, or None for all alike; follows the losses of the training (`hard_cases`)."""
    masked_channels: tuple[int, ...] = ()
    """Channels that are 0 outside the nonzero mask after augmentation; the source marks it by `outside_label`."""
    divisor_zyx: IntTriple = (1, 1, 1)
    """What the edges of a patch must be multiples of: the network's strides, multiplied."""


@dataclass(frozen=True)
class Batch:
    """What one step trains on."""

    images: Tensor
    """`N C Z Y X` float32; for a cascade the previous stage's one-hot classes are the last channels."""
    labels: Tensor
    """`N Z Y X` internal classes; `num_classes` marks voxels to ignore."""
    cases: tuple[str, ...]
    """Case id of each sample."""


@dataclass(frozen=True)
class Draw:
    """One sample, drawn but not read. Its generator goes on where the drawing stopped."""

    case: int
    centre: IntTriple
    spatial: SpatialParameters
    intensity: IntensityParameters
    rng: np.random.Generator


def batches(sampler: Sampler, places: Iterable[Place]) -> Iterator[Batch]:
    """The batches that belong to `places`, in their order."""

    staging = Staging(sampler.device)

    def prepare(place: Place) -> tuple[Place, list[Draw], Staged]:
        draws = draw_batch(sampler, place)
        return place, draws, staging.hold([read_draw(sampler, draw) for draw in draws])

    num_threads = num_reading_threads(sampler.source.tier, sampler.device)
    for place, draws, staged in made_ahead(prepare, places, num_threads):
        batch = assemble(sampler, place, list(zip(draws, staged.crops, strict=True)))
        staging.release(staged)
        yield batch


def draw_batch(sampler: Sampler, place: Place) -> list[Draw]:
    """Draw every sample of the batch at `place`, each from its own generator."""
    return [_draw_sample(sampler, place, number) for number in range(sampler.batch_size)]


def read_draw(sampler: Sampler, draw: Draw) -> Crop:
    """Read the voxels that a drawn sample depends on."""
    start, stop = source_box(draw.spatial, sampler.patch_zyx, draw.centre)
    return read_crop(sampler.source, draw.case, start, stop)


def assemble(sampler: Sampler, place: Place, samples: Sequence[tuple[Draw, Crop]]) -> Batch:
    """Turn drawn and read samples into the batch, on the training's device."""
    mirroring, device, num_classes = sampler.recipe.mirroring, sampler.device, sampler.labels.num_classes
    masked = sampler.masked_channels
    images, maps = [], []
    for draw, crop in samples:
        image, labels = sample_patch(
            crop.image.to(device, non_blocking=True),
            crop.labels.to(device, non_blocking=True),
            crop.start,
            draw.centre,
            sampler.patch_zyx,
            draw.spatial,
            num_classes,
            mirroring.swap_pairs,
            outside_label(num_classes) if masked else 0,
        )
        images.append(image)
        maps.append(labels)
    cases = tuple(sampler.source.cases[draw.case].id for draw, _ in samples)
    patches, label_maps = torch.stack(images), torch.stack(maps).to(torch.int16)
    if masked:
        label_maps.masked_fill_(label_maps == outside_label(num_classes), -1)
    if sampler.plugins is not None:
        patches, label_maps = sampler.plugins(patches, label_maps, cases, place)
    patches = apply_intensity(patches, [draw.intensity for draw, _ in samples])
    if masked:
        patches = zero_outside(patches, label_maps[:, 0] < 0, masked)
    if masked or sampler.plugins is not None:  # batchgenerators' transforms put -1 where they look beyond a patch
        label_maps = label_maps.clamp(min=0)
    if sampler.previous_labels is not None:
        policy = sampler.recipe.augmentation.cascade
        previous = [
            corrupt_previous(previous_channels(labels, sampler.previous_labels), policy, draw.rng)
            for (draw, _), labels in zip(samples, label_maps[:, 1], strict=True)
        ]
        patches = torch.cat([patches, torch.stack(previous)], dim=1)
    return Batch(patches, label_maps[:, 0], cases)


def _draw_sample(sampler: Sampler, place: Place, number: int) -> Draw:
    rng, recipe = sample_rng(sampler.seed, *place, number), sampler.recipe
    index, voxel = _draw_voxel(sampler, place[0], number, rng)
    case = sampler.source.cases[index]
    if voxel is None and sampler.labels.ignore_index is not None:  # nnU-Net: an annotated voxel
        voxel = _one_of(case.locations[len(sampler.labels.targets)], case.shape, rng)
    centre = _centre(case.shape, sampler.patch_zyx, voxel, rng)
    spatial = draw_spatial(recipe.augmentation, recipe.mirroring, sampler.patch_zyx, rng)
    intensity = draw_intensity(recipe.augmentation, sampler.source.num_channels, rng)
    return Draw(index, centre, spatial, intensity, rng)


def _draw_voxel(sampler: Sampler, epoch: int, number: int, rng: np.random.Generator) -> tuple[int, IntTriple | None]:
    """Number of a case and a foreground voxel of it; None: the sample need not show any, or the case has none."""
    cases, sampling, num_targets = sampler.source.cases, sampler.recipe.sampling, len(sampler.labels.targets)
    if sampling.cases == "class_balanced":
        if not wants_foreground(sampling, sampler.batch_size, number, rng):
            return int(rng.integers(len(cases))), None
        return _balanced_voxel(sampler.source, sampling, num_targets, rng)
    odds = None if sampler.case_odds is None else sampler.case_odds(epoch)
    index = int(rng.integers(len(cases)) if odds is None else rng.choice(len(cases), p=odds))
    if not wants_foreground(sampling, sampler.batch_size, number, rng):
        return index, None
    case = cases[index]
    target = _draw_target([len(voxels) > 0 for voxels in case.locations[:num_targets]], sampling, rng)
    return index, None if target is None else _one_of(case.locations[target], case.shape, rng)


def _balanced_voxel(
    source: Source, sampling: Sampling, num_targets: int, rng: np.random.Generator
) -> tuple[int, IntTriple | None]:
    """A target that occurs anywhere, a case that has it, a voxel there; where none occurs any case without a voxel."""
    having = source.cases_with[:num_targets]
    target = _draw_target([len(numbers) > 0 for numbers in having], sampling, rng)
    if target is None:
        return int(rng.integers(len(source.cases))), None
    index = int(having[target][rng.integers(len(having[target]))])
    case = source.cases[index]
    return index, _one_of(case.locations[target], case.shape, rng)


def wants_foreground(sampling: Sampling, batch_size: int, number: int, rng: np.random.Generator) -> bool:
    """Whether sample `number` of a batch is centred on foreground.

    nnU-Net's rule takes the samples from round(batch * (1 - fraction)) on: of 2 samples at 0.33 the second.
    """
    if sampling.rounding == "probabilistic":
        return bool(rng.random() < sampling.foreground_fraction)
    return number >= round(batch_size * (1 - sampling.foreground_fraction))


def _draw_target(occurs: Sequence[bool], sampling: Sampling, rng: np.random.Generator) -> int | None:
    """Number of one of the targets that occur, by the recipe's weights; None when none does."""
    weights = np.array(sampling.class_weights or [1.0] * len(occurs), dtype=float) * np.array(occurs, dtype=float)
    if weights.sum() <= 0:
        return None
    return int(rng.choice(len(weights), p=weights / weights.sum()))


def _one_of(voxels: FlatIndices, shape: IntTriple, rng: np.random.Generator) -> IntTriple | None:
    """One of `voxels` (flat indices into `shape`); None when there are none."""
    if len(voxels) == 0:
        return None
    z, y, x = np.unravel_index(int(voxels[rng.integers(len(voxels))]), shape)
    return (int(z), int(y), int(x))


def _centre(shape: IntTriple, patch: IntTriple, voxel: IntTriple | None, rng: np.random.Generator) -> IntTriple:
    """Voxel around which a patch lies: `voxel` or anywhere, moved so that the patch is inside the volume.

    On an axis where the volume is smaller, the patch holds all of it, in its middle (nnU-Net's padding).
    """
    centre = []
    for axis in range(3):
        room = shape[axis] - patch[axis]
        low, high = (0, room) if room >= 0 else ((room) // 2, -(-room // 2))
        if voxel is None:
            start = int(rng.integers(low, high + 1))
        else:
            start = min(max(voxel[axis] - patch[axis] // 2, low), high)
        centre.append(start + patch[axis] // 2)
    z, y, x = centre
    return (z, y, x)

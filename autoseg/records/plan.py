"""What was decided from a fingerprint: one plan with up to four configurations, readable and hand-editable."""

import math
from typing import Literal

from pydantic import Field, model_validator

from autoseg.records.base import Record
from autoseg.records.fingerprint import IntensityStatistics
from autoseg.records.geometry import IntTriple, Triple
from autoseg.records.labels import LabelScheme
from autoseg.records.recipe import Recipe

TileWeights = Literal["symmetric", "nnunet"]
Normalization = Literal["ct", "zscore", "none", "rescale", "rgb"]
ConfigurationName = Literal[
    "2d",
    "3d_lowres",
    "3d_fullres",
    "3d_cascade_fullres",
    "2d_distractors",
    "3d_lowres_distractors",
    "3d_fullres_distractors",
    "3d_cascade_fullres_distractors",
]
"""Resolutions, and each of them fine-tuned with its own false positives as a class."""

PLAN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""A plan's name is a file name on every system."""


# What a network's weights mean something for; patch, batch and recipe may change when it is fine-tuned.
_SHARED_WITH_BASE = ("spacing_mm", "normalization", "use_mask_for_norm", "network", "previous_stage")


class NetworkSpec(Record):
    """An encoder-decoder network. Per stage, finest first; one entry an axis in strides and kernels (2 for 2d)."""

    architecture: str
    """Key of the table in `networks` (`plain_unet`, `residual_unet`, `mednext`, `fpn`, `fcn`, or an installed entry
    point)."""
    features_per_stage: tuple[int, ...]
    """Channels of each encoder stage."""
    strides: tuple[tuple[int, ...], ...]
    """Downsampling of each stage against the one before; the first is all ones."""
    kernel_sizes: tuple[tuple[int, ...], ...]
    """Convolution kernel of each stage."""
    blocks_per_stage: tuple[int, ...]
    """Convolutions (plain) or residual blocks of each encoder stage."""
    decoder_blocks_per_stage: tuple[int, ...]
    """Convolutions (`mednext`: blocks) of each decoder stage, finest first; one fewer than encoder stages."""
    expansion_per_stage: tuple[int, ...] = ()
    """`mednext`: how many times wider a block is inside, in encoder and decoder alike; empty: 2 everywhere."""

    @model_validator(mode="after")
    def _consistent(self) -> "NetworkSpec":
        n = len(self.features_per_stage)
        if not n == len(self.strides) == len(self.kernel_sizes) == len(self.blocks_per_stage):
            raise ValueError("features_per_stage, strides, kernel_sizes and blocks_per_stage must be equally long")
        if len(self.decoder_blocks_per_stage) != n - 1:
            raise ValueError("decoder_blocks_per_stage must be one shorter than the encoder's lists")
        if len(self.expansion_per_stage) not in (0, n) or any(e < 1 for e in self.expansion_per_stage):
            raise ValueError("expansion_per_stage must be empty or have one number from 1 up a stage")
        if any(k < 1 or k % 2 == 0 for kernel in self.kernel_sizes for k in kernel):
            raise ValueError("kernel_sizes must be odd")
        counts = (*self.features_per_stage, *self.blocks_per_stage, *self.decoder_blocks_per_stage)
        if min((*counts, *(s for stage in self.strides for s in stage))) < 1:
            raise ValueError("features, strides and blocks must be 1 or more in every stage")
        if any(s != 1 for s in self.strides[0]):
            raise ValueError("the first stage has stride 1 on every axis")
        return self


class Configuration(Record):
    """One way to see the data: resolution, patch, network and recipe. 2d lists (y, x) where 3d lists (z, y, x)."""

    spacing_mm: tuple[float, ...]
    """Target spacing, z y x (after `transpose`) or y x."""
    patch_size: tuple[int, ...]
    """Network input in voxels, z y x or y x."""
    batch_size: int = Field(ge=1)
    median_shape: tuple[float, float, float]
    """Median shape of the cases at the target spacing, always z y x; 2d with a leading 1."""
    normalization: tuple[Normalization, ...]
    """One a channel."""
    use_mask_for_norm: tuple[bool, ...]
    """One a channel: whether mean and deviation are taken inside the nonzero mask only."""
    batch_dice: bool
    """Whether the Dice loss sums over the batch before dividing."""
    network: NetworkSpec
    previous_stage: ConfigurationName | None = None
    """Configuration whose segmentation enters as one-hot channels (cascade)."""
    previous_stage_as: Literal["probabilities", "labels"] = "probabilities"
    """What of the previous stage is brought onto this one's grid: its probabilities, decided there, or the labels that
    it gave on the file's grid (nnU-Net's rule in prediction, so that of imported cascades)."""
    tile_weights: TileWeights = "symmetric"
    """How overlapping tiles are averaged in prediction: by a Gaussian around the tile's middle, or as nnU-Net does
    (imported models, `nnunet*` presets): around the voxel behind it, with sums that are rounded to float16."""
    recipe: Recipe = Recipe()

    @model_validator(mode="after")
    def _consistent(self) -> "Configuration":
        dims = len(self.patch_size)
        if dims not in (2, 3) or len(self.spacing_mm) != dims or any(len(s) != dims for s in self.network.strides):
            raise ValueError(
                "spacing_mm, patch_size and network.strides must have 2 (y, x) or 3 (z, y, x) entries each"
            )
        if not all(spacing > 0 for spacing in self.spacing_mm):
            raise ValueError(f"spacing_mm {self.spacing_mm} must be positive")
        if len(self.normalization) != len(self.use_mask_for_norm):
            raise ValueError("normalization and use_mask_for_norm must have one entry a channel")
        for axis in range(dims):
            total = 1
            for stride in self.network.strides:
                total *= stride[axis]
            if self.patch_size[axis] < 1 or self.patch_size[axis] % total:
                raise ValueError(
                    f"patch_size {self.patch_size} must be divisible by the product of strides ({total}) on axis {axis}"
                )
        return self

    def learned_labels(self, labels: LabelScheme) -> LabelScheme:
        """What the network is taught: the dataset's labels, and behind them the distractor where the recipe has one."""
        return labels if self.recipe.distractors is None else labels.with_distractor()

    def num_previous_channels(self, labels: LabelScheme) -> int:
        """Input channels that come from the previous stage: one a foreground class."""
        return 0 if self.previous_stage is None else labels.num_classes - 1

    @property
    def is_2d(self) -> bool:
        """Whether the network sees slices."""
        return len(self.patch_size) == 2

    @property
    def patch_zyx(self) -> IntTriple:
        """Patch as z y x; 2d has one slice."""
        z, y, x = (1, *self.patch_size)[-3:]
        return (z, y, x)

    @property
    def divisor_zyx(self) -> IntTriple:
        """What a patch's edges must be multiples of, z y x: the strides of all stages, multiplied."""
        z, y, x = (1, *(math.prod(stage) for stage in zip(*self.network.strides, strict=True)))[-3:]
        return (z, y, x)


class Plan(Record):
    """All that is needed, beside weights, to preprocess, train and predict."""

    name: str = Field(pattern=PLAN_NAME)
    """File name in `plans/`."""
    preset: str
    """Set of rules it was made by."""
    dataset: str
    """Name of the dataset."""
    channel_names: tuple[str, ...]
    """As in the dataset."""
    labels: LabelScheme
    """As in the dataset."""
    orientation: Literal["canonical", "stored"]
    """`canonical`: images are turned to R-A-S axes when read and outputs turned back; `stored`: axes as in the file."""
    transpose: IntTriple
    """Order of the (oriented) z y x axes; the coarsest comes first."""
    intensities: dict[str, IntensityStatistics]
    """Channel number as text -> intensities in the foreground, for CT normalisation."""
    original_median_spacing_mm: Triple
    """Median spacing of the dataset after orientation and transpose."""
    configurations: dict[ConfigurationName, Configuration]
    reasons: dict[str, str] = {}
    """Field -> why it is not nnU-Net's value, or which rule set it."""
    planned_for: str = "unknown"
    """Device and memory it was planned for, for example `cpu` or `cuda 8 GiB`."""

    @model_validator(mode="after")
    def _transpose_is_a_permutation(self) -> "Plan":
        if sorted(self.transpose) != [0, 1, 2]:
            raise ValueError(f"transpose {self.transpose} must have each of 0, 1, 2 once")
        return self

    @model_validator(mode="after")
    def _distractors_have_a_base(self) -> "Plan":
        for name, settings in self.configurations.items():
            if settings.recipe.distractors is None:
                continue
            wanted = settings.recipe.distractors.base
            base = next((known for key, known in self.configurations.items() if key == wanted), None)
            if base is None or base.recipe.distractors is not None:
                raise ValueError(f"{name}.recipe.distractors.base must be a configuration without, got {wanted!r}")
            if differing := [field for field in _SHARED_WITH_BASE if getattr(settings, field) != getattr(base, field)]:
                raise ValueError(f"{name} is fine-tuned from {wanted} and must share its {', '.join(differing)}")
        return self

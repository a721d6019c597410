"""The literal table of presets: every number by which one way of planning differs from another.

`nnunet*` plan exactly what nnU-Net 2.8.1 plans. `default` and `resenc_*` are ours: nnU-Net's networks on canonical
axes, patch and batch by traced memory, a bounded batch, and a recipe that answers to class imbalance and to left and
right. `small` is what a CPU gets: the whole recipe is fitted to minutes instead of days.
"""

from typing import Any, Literal

from pydantic import Field

from autoseg.errors import UsageError
from autoseg.records.base import Record
from autoseg.records.plan import TileWeights
from autoseg.records.recipe import Optimizer, Recipe, Schedule

Orientation = Literal["stored", "canonical"]
"""Axes as in the file, or turned to superior, anterior, right first."""


AxisRule = Literal["coarsest", "slices"]
"""Which axis comes first: always the coarsest (nnU-Net), or that of single slices where cases are such."""


class NetworkRule(Record):
    """How wide and deep a network is."""

    architecture: str
    """Key of the table in `networks`."""
    base_features_2d: int = 32
    base_features_3d: int = 32
    """Channels of the finest stage; doubled in each further one up to the maximum."""
    max_features_2d: int = 512
    max_features_3d: int = 320
    first_blocks: tuple[int, ...] = (2,)
    """Blocks of the first encoder stages; all further stages have as many as the last one listed."""
    decoder_blocks: int | None = 2
    """Convolutions of each decoder stage; None: as many blocks as the encoder has there."""
    num_stages: int | None = None
    """None: as many as the patch allows, and kernels as in nnU-Net (`topology`)."""
    kernel: int = 3
    """Edge of the kernels of a network whose `num_stages` is fixed."""
    expansions: tuple[int, ...] = ()
    """Of each stage of a MedNeXt."""

    def decoder_blocks_of(self, num_stages: int) -> tuple[int, ...]:
        """One number for each decoder stage, finest first."""
        same = (self.first_blocks + self.first_blocks[-1:] * num_stages)[: num_stages - 1]
        return same if self.decoder_blocks is None else (self.decoder_blocks,) * (num_stages - 1)


class ActivationBudget(Record):
    """nnU-Net's memory rule: the patch shrinks until the activations of a sample fit."""

    elements_3d: float
    """Activations that fit for one sample of two at `gib`."""
    elements_2d: float
    """Activations that correspond to a batch of twelve at `gib`."""
    gib: float
    """Memory of the card these numbers were found on; they scale with the memory planned for."""
    batches_of_two_2d: bool = False
    """Whether a 2-D patch may grow until only two of the twelve samples fit."""
    share_of_dataset: float = Field(gt=0, le=1)
    """A batch holds at most this share of the dataset's voxels."""


class MemoryBudget(Record):
    """Our memory rule: the patch shrinks until a step of two samples fits the card, by traced bytes (`step_cost`)."""

    gib: float
    """Memory of the card that is planned for where none is named."""
    share_of_dataset: float = Field(gt=0, le=1)
    """A batch holds at most this share of the dataset's voxels."""
    max_batch_2d: int = 64
    max_batch_3d: int = 8
    """Most samples in a batch; nnU-Net plans hundreds of small ones."""


class VoxelBudget(Record):
    """Rule of `small`: patch and batch of fixed cost, and a resolution at which the patch still sees enough."""

    voxels_3d: int
    """Most voxels of a patch."""
    voxels_2d: int
    """Most pixels of a patch."""
    batch_3d: int
    batch_2d: int
    share_of_case: float = Field(gt=0, le=1)
    """The spacing is coarsened until a patch covers this share of the median case (2-D: of its slice). A minute of
    training visits a fixed number of voxels: at full resolution a large scan would be seen through a keyhole, and
    a prediction would take hundreds of tiles."""


class Preset(Record):
    """One way of planning."""

    about: str
    """One line for people."""
    network: NetworkRule
    budget: ActivationBudget | MemoryBudget | VoxelBudget
    orientation: Orientation = "stored"
    first_axis: AxisRule = "coarsest"
    plans_imbalance: bool = False
    """Whether class imbalance and left/right pairs change sampling, loss and mirroring."""
    augmentation: Literal["nnunet", "light"] = "nnunet"
    """Policy of `augmentation`."""
    mirrors: bool = True
    """Whether training and prediction mirror, on every axis the network sees."""
    tile_weights: TileWeights = "symmetric"
    """How overlapping tiles are averaged in prediction."""
    recipe: Recipe = Recipe()
    """All that is the same for every dataset; augmentation, mirroring and imbalance are filled in by the planner."""
    reasons: dict[str, str] = {}
    """Field of the plan -> why this preset's rule for it is not nnU-Net's, whatever the dataset. What a dataset decides
    is told by the function that decides it. `all` stands for every configuration."""


_NNUNET_RECIPE = Recipe()
"""The defaults of the records are nnU-Net's: SGD 0.01, Nesterov 0.99, decay 3e-5, poly, 1000 x 250, CE + soft Dice."""

_PLAIN = NetworkRule(architecture="plain_unet")
_RESIDUAL = NetworkRule(architecture="residual_unet", first_blocks=(1, 3, 4, 6), decoder_blocks=1)

_PLAIN_BUDGET = ActivationBudget(
    elements_3d=560e6, elements_2d=85e6, gib=8, batches_of_two_2d=True, share_of_dataset=0.05
)


def _mednext(kind: str, gib: float, blocks: tuple[int, ...], expansions: tuple[int, ...]) -> Preset:
    """MedNeXt as published (Roy et al., 2023, arXiv:2303.09975, kernel 3) with all else as in `default`."""
    return Preset(
        about=f"ours: MedNeXt {kind} ({gib:g} GiB), its blocks and AdamW as published, else as in default",
        network=NetworkRule(
            architecture="mednext",
            max_features_2d=512,
            max_features_3d=512,
            first_blocks=blocks,
            decoder_blocks=None,
            num_stages=5,
            expansions=expansions,
        ),
        budget=MemoryBudget(gib=gib, share_of_dataset=0.05),
        orientation="canonical",
        first_axis="slices",
        plans_imbalance=True,
        recipe=Recipe(optimizer=Optimizer(name="adamw", learning_rate=1e-3, momentum=0.9, beta2=0.999)),
        reasons=_CANONICAL_AND_SYMMETRIC | _MEDNEXT,
    )


_CANONICAL_AND_SYMMETRIC = {
    "orientation": "canonical: all cases are turned to superior, anterior, right, so that an axis means the same in "
    "each and left can be told from right; nnU-Net takes axes as the file has them",
    "all.tile_weights": "symmetric: overlapping tiles are averaged by a Gaussian around the middle of the patch, so "
    "that a mirrored image gets the mirrored answer; nnU-Net's lies half a voxel beside it",
}
_MEDNEXT = {
    "all.network": "MedNeXt: blocks with depthwise kernels in five stages whatever the patch, which is a multiple of "
    "16 along the finest axes",
    "all.recipe.optimizer": "AdamW with a rate of 0.001, as MedNeXt was published; nnU-Net's decay and course",
}
_SMALL = {
    "configurations": "2d and 3d_fullres alone: each is planned so coarse that a patch sees enough of a case, which is "
    "what nnU-Net has 3d_lowres and the cascade for",
    "all.patch_size": "a patch of bounded cost instead of nnU-Net's, which fills a GPU's memory: a short training "
    "needs many steps",
    "all.batch_size": "as few samples as give a steady gradient, instead of as many as fit a GPU's memory: on a CPU "
    "a step takes as much longer as it has samples more",
    "all.network.features_per_stage": "narrower than nnU-Net's: the time of a step on a CPU grows with the width "
    "squared, and a training of minutes does not fill a wide network",
    "all.recipe.optimizer": "AdamW instead of SGD: momentum 0.99 averages over a hundred steps, of which a training of "
    "minutes on a CPU has a few thousand",
    "all.recipe.schedule": "a short course; cosine with a warm-up falls to zero step by step, where nnU-Net's poly "
    "falls by epochs, of which a short training has few",
    "all.recipe.augmentation": "light: a short training sees each voxel a few times only and hardly overfits, and "
    "resampled patches cost a CPU time that is taken from its steps",
    "all.recipe.mirroring": "none: a short training has no steps to learn the mirrored anatomy in, and averaging over "
    "mirrored images makes prediction up to 8 times as long",
}

_OURS: dict[str, Any] = {
    "orientation": "canonical",
    "first_axis": "slices",
    "plans_imbalance": True,
    "recipe": _NNUNET_RECIPE,
    "reasons": _CANONICAL_AND_SYMMETRIC,
}
"""What `default` and the residual presets of ours share."""


def _residual(gib: float) -> Preset:
    return Preset(
        about=f"as default with nnU-Net's residual encoder ({gib:g} GiB)",
        network=_RESIDUAL,
        budget=MemoryBudget(gib=gib, share_of_dataset=0.05),
        **_OURS,
    )


PRESETS: dict[str, Preset] = {
    "default": Preset(
        about="ours: nnU-Net's plain U-Net, traced memory, bounded batch, canonical axes, imbalance and sides planned",
        network=_PLAIN,
        budget=MemoryBudget(gib=8, share_of_dataset=0.05),
        **_OURS,
    ),
    "resenc_m": _residual(8),
    "resenc_l": _residual(24),
    "resenc_xl": _residual(40),
    "small": Preset(
        about="ours, for CPUs and minutes: narrow net, small patch and batch, AdamW, cosine, no mirroring",
        network=NetworkRule(
            architecture="plain_unet",
            base_features_2d=16,
            base_features_3d=12,
            max_features_2d=128,
            max_features_3d=96,
        ),
        budget=VoxelBudget(voxels_3d=96_000, voxels_2d=65_536, batch_3d=2, batch_2d=8, share_of_case=1 / 8),
        orientation="canonical",
        first_axis="slices",
        plans_imbalance=True,
        augmentation="light",
        mirrors=False,
        recipe=Recipe(
            optimizer=Optimizer(name="adamw", learning_rate=3e-3, weight_decay=1e-2, momentum=0.9, beta2=0.99),
            schedule=Schedule(name="cosine", epochs=20, iterations_per_epoch=100, warmup_fraction=0.05),
        ),
        reasons=_CANONICAL_AND_SYMMETRIC | _SMALL,
    ),
    "nnunet": Preset(
        about="exactly nnU-Net's plan and recipe",
        network=_PLAIN,
        budget=_PLAIN_BUDGET,
        tile_weights="nnunet",
        recipe=_NNUNET_RECIPE,
    ),
    "nnunet_resenc_m": Preset(
        about="exactly nnU-Net's ResEnc M (8 GiB)",
        network=_RESIDUAL,
        budget=ActivationBudget(elements_3d=680e6, elements_2d=135e6, gib=8, share_of_dataset=1),
        tile_weights="nnunet",
        recipe=_NNUNET_RECIPE,
    ),
    "nnunet_resenc_l": Preset(
        about="exactly nnU-Net's ResEnc L (24 GiB)",
        network=_RESIDUAL,
        budget=ActivationBudget(elements_3d=2.1e9, elements_2d=380e6, gib=24, share_of_dataset=1),
        tile_weights="nnunet",
        recipe=_NNUNET_RECIPE,
    ),
    "nnunet_resenc_xl": Preset(
        about="exactly nnU-Net's ResEnc XL (40 GiB)",
        network=_RESIDUAL,
        budget=ActivationBudget(elements_3d=3.6e9, elements_2d=560e6, gib=40, share_of_dataset=1),
        tile_weights="nnunet",
        recipe=_NNUNET_RECIPE,
    ),
}
PRESETS |= {
    "mednext_s": _mednext("S", 24, blocks=(2, 2, 2, 2, 2), expansions=(2, 2, 2, 2, 2)),
    "mednext_b": _mednext("B", 40, blocks=(2, 2, 2, 2, 2), expansions=(2, 3, 4, 4, 4)),
    "mednext_l": _mednext("L", 80, blocks=(3, 4, 8, 8, 8), expansions=(3, 4, 8, 8, 8)),
}


def resolve_preset(name: str, device_kind: str, gpu_memory_gib: float | None) -> str:
    """The preset that `name` stands for: `auto` is `default` for a GPU (here, or named by its memory), else `small`.

    Raises:
        UsageError: no such preset, or a GPU's memory was given for a preset that does not plan by it.
    """
    if name == "auto":
        name = "default" if device_kind == "cuda" or gpu_memory_gib is not None else "small"
    if name not in PRESETS:
        listed = "".join(f"\n  {key}: {preset.about}" for key, preset in PRESETS.items())
        raise UsageError(f"Preset {name!r} is unknown; there are auto and{listed}")
    if gpu_memory_gib is not None and isinstance(PRESETS[name].budget, VoxelBudget):
        raise UsageError(f"Preset {name!r} has a fixed patch cost and does not plan by GPU memory: use another preset.")
    if gpu_memory_gib is not None and not 0 < gpu_memory_gib < float("inf"):
        raise UsageError(f"GPU memory must be a positive number of GiB, got {gpu_memory_gib}.")
    return name

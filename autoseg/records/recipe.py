"""How a configuration is trained: every variant is a value here, none is a class or a code path."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from autoseg.records.base import Record
from autoseg.records.course import PatchGrowth, Watch
from autoseg.records.distractors import Distractors
from autoseg.records.fine_tuning import FineTuning
from autoseg.records.loss_text import format_term, parse_loss

Range = tuple[float, float]


class SpatialAugmentation(Record):
    """Rotation and scaling, applied in one resampling. Angles in degrees."""

    rotation_probability: float = Field(default=0.2, ge=0, le=1)
    """Odds that a sample is rotated."""
    rotation_degrees: Range = (-30.0, 30.0)
    """Range of the angle about each axis (3-D) or in the plane (2-D and dummy 2-D)."""
    scaling_probability: float = Field(default=0.2, ge=0, le=1)
    """Odds that a sample is scaled."""
    scaling: Range = (0.7, 1.4)
    """Range of the factor, the same for all axes; below 1 objects look larger."""
    dummy_2d: bool = False
    """Rotate and scale in the plane of y and x only (nnU-Net: where the patch is more than 3 times wider than deep)."""
    rotation_axis_probability: float = Field(default=1.0, ge=0, le=1)
    """Odds that a rotated sample turns about an axis, for each axis by itself."""
    scaling_per_axis: bool = False
    """Whether each axis has its own factor."""
    quarter_turn_probability: float = Field(default=0.0, ge=0, le=1)
    """Odds that a sample is turned by 0, 90, 180 or 270 degrees in the plane of two axes along which the patch is
    equally long; never of the one that left and right lie on, where classes have sides."""
    transpose_probability: float = Field(default=0.0, ge=0, le=1)
    """Odds that such axes are put in a random order."""
    elastic_probability: float = Field(default=0.0, ge=0, le=1)
    """Odds that a sample is deformed; no policy does by itself (nor nnU-Net)."""
    elastic_spacing: float = Field(default=32.0, ge=2)
    """Distance of the control points of a deformation in voxels."""
    elastic_magnitude: Range = (0.0, 0.3)
    """Range of the largest displacement along an axis, as a share of `elastic_spacing`; from 0.4 on it might fold."""

    @model_validator(mode="after")
    def _consistent(self) -> "SpatialAugmentation":
        if not 0 < self.scaling[0] <= self.scaling[1]:
            raise ValueError(f"scaling must rise from a factor above 0, got {self.scaling}")
        if self.rotation_degrees[0] > self.rotation_degrees[1]:
            raise ValueError(f"rotation_degrees must rise, got {self.rotation_degrees}")
        if not 0 <= self.elastic_magnitude[0] <= self.elastic_magnitude[1] <= 0.4:
            raise ValueError(f"elastic_magnitude must rise from 0 or more to 0.4 at most, got {self.elastic_magnitude}")
        return self


class IntensityAugmentation(Record):
    """One intensity transform: its odds a sample, odds a channel, and range of its parameter."""

    name: Literal[
        "noise",
        "blur",
        "brightness",
        "contrast",
        "low_resolution",
        "gamma_inverted",
        "gamma",
        "blur_isotropic",
        "median",
        "sharpen",
        "brightness_shift",
        "contrast_unclipped",
        "rectangles",
        "brightness_gradient",
        "local_gamma",
    ]
    """Key of the table in `augmentation`."""
    probability: float = Field(ge=0, le=1)
    """Odds that a sample gets it."""
    channel_probability: float = Field(default=1.0, ge=0, le=1)
    """Odds that a channel of such a sample gets it."""
    range: Range
    """Noise: standard deviation; blur: sigma in voxels; low_resolution: zoom; median: edge in voxels; brightness_shift:
    mean and deviation; rectangles: their number; brightness_gradient: height; others: factor or exponent."""
    one_of: str | None = None
    """Of all entries with this word one is drawn first, all alike, and then has its odds; None: stands alone."""


class CascadeAugmentation(Record):
    """Corruption of the previous stage's one-hot segmentation (nnU-Net's odds and ranges)."""

    morphology_probability: float = Field(default=0.4, ge=0, le=1)
    """Odds that a sample's labels are dilated, eroded, opened or closed."""
    morphology_label_probability: float = Field(default=0.5, ge=0, le=1)
    """Odds for each label of such a sample."""
    morphology_radius: tuple[int, int] = (1, 8)
    """Radius of the ball in voxels, inclusive. Ours are whole; nnU-Net's are any number in between, which makes every
    second ball even-edged, half a voxel beside its middle, and the balls an eighth smaller on average."""
    drop_probability: float = Field(default=0.2, ge=0, le=1)
    """Odds that a sample loses a connected component."""
    drop_label_probability: float = Field(default=0.5, ge=0, le=1)
    """Odds for each label of such a sample."""
    drop_max_fraction: float = 0.15
    """Only components below this fraction of the patch are dropped."""


class Augmentation(Record):
    """What is done to training patches, in order: spatial, intensity transforms, mirroring, zeros outside the nonzero
    mask, cascade corruption."""

    spatial: SpatialAugmentation | None = SpatialAugmentation()
    """None: neither rotation nor scaling."""
    intensity: tuple[IntensityAugmentation, ...] = ()
    """Applied in this order."""
    zero_outside: bool = True
    """Whether channels that are normalised inside the nonzero mask only are 0 outside it after all this, as nnU-Net's
    trainers do."""
    cascade: CascadeAugmentation = CascadeAugmentation()
    """Used by configurations with a previous stage."""
    plugins: tuple[str, ...] = ()
    """Names of a user's own batchgenerators transforms (entry points `autoseg.transforms`), applied first."""


class Mirroring(Record):
    """Flips used in training and, averaged, in prediction."""

    axes: tuple[int, ...] = (0, 1, 2)
    """Spatial axes that are flipped: 0 z, 1 y, 2 x."""
    swap_axis: int | None = None
    """Axis across which left and right lie; a flip of it exchanges the classes of `swap_pairs`."""
    swap_pairs: tuple[tuple[int, int], ...] = ()
    """Internal classes that are a left/right pair."""
    in_prediction: bool = True
    """Whether predictions are averaged over all combinations of the axes."""

    @model_validator(mode="after")
    def _consistent(self) -> "Mirroring":
        if len(set(self.axes)) != len(self.axes) or not set(self.axes) <= {0, 1, 2}:
            raise ValueError(f"axes {self.axes} must be some of 0 (z), 1 (y) and 2 (x), each once")
        if self.swap_axis is not None and self.swap_axis not in self.axes:
            raise ValueError(
                f"swap_axis {self.swap_axis} must be one of the axes {self.axes} that are flipped, or null"
            )
        paired = [number for pair in self.swap_pairs for number in pair]
        if len(set(paired)) != len(paired) or min(paired, default=1) < 1:
            raise ValueError(f"swap_pairs {self.swap_pairs} must name foreground classes (from 1), each once")
        return self


class Optimizer(Record):
    """Optimiser and its numbers."""

    name: Literal["sgd", "adamw", "muon", "schedule_free"] = "sgd"
    """`muon`: orthogonalised momentum for kernels of more than one voxel, AdamW for all else; `schedule_free`: AdamW
    that averages its iterates instead of lowering its rate."""
    learning_rate: float = Field(default=1e-2, gt=0)
    """Initial (sgd, poly) or peak rate."""
    reference_batch: int | None = Field(default=None, ge=1)
    """Batch size that the rate is meant for; with another one the rate is scaled, linearly for sgd (Goyal et al. 2017,
    arXiv:1706.02677) and by the square root for the others (Malladi et al. 2022, arXiv:2205.10287). None: never."""
    weight_decay: float = Field(default=3e-5, ge=0)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    """Nesterov momentum (sgd, muon's kernels), the first beta (adamw, muon's rest), or the share of the average in the
    weights that are trained (schedule_free)."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Second beta (all but sgd)."""

    @model_validator(mode="after")
    def _consistent(self) -> "Optimizer":
        if self.name == "schedule_free" and self.momentum == 0:
            raise ValueError("schedule_free needs a momentum above 0, usually 0.9")
        return self


class Schedule(Record):
    """Length of the training and course of the learning rate."""

    name: Literal["poly", "cosine", "wsd", "one_cycle"] = "poly"
    """`poly`: (1 - epoch / epochs) ** 0.9, constant within an epoch (nnU-Net's); `cosine`: to zero by steps; `wsd`:
    constant after the warm-up, then a cooldown; `one_cycle`: up to the peak and down again, by cosines."""
    epochs: int = Field(default=1000, ge=1)
    iterations_per_epoch: int = Field(default=250, ge=1)
    warmup_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of all planned steps over which the rate rises linearly from zero (cosine and wsd only)."""
    cooldown_fraction: float = Field(default=0.2, ge=0, lt=1)
    """Share of a training's steps that is its cooldown. With wsd every training has one; with any other schedule it is
    the length of a cooldown that was asked for or that the plateau began."""
    cooldown_shape: Literal["linear", "sqrt"] = "sqrt"
    """Fall of the rate from what it was to zero; `sqrt`: 1 - sqrt(share done) (Haegele et al. 2024)."""
    rise_fraction: float = Field(default=0.3, gt=0, lt=1)
    """Share of all planned steps over which the rate rises (one_cycle only)."""
    start_divisor: float = Field(default=25.0, ge=1)
    """The peak over the first rate (one_cycle only)."""
    end_divisor: float = Field(default=1e4, ge=1)
    """The first rate over the last (one_cycle only)."""
    ends: Literal["planned", "plateau"] = "planned"
    """`plateau`: the cooldown begins when the Dice of the watched cases has stopped rising (`watch`), at the latest as
    planned."""


class LossTerm(Record):
    """One term of the loss."""

    name: str
    """Key of the table in `losses` (or an installed entry point of group `autoseg.losses`)."""
    weight: float = 1.0
    class_weights: tuple[float, ...] | None = None
    """One factor a head (classes with background, or regions); None: all 1."""
    parameters: dict[str, float] = {}
    """The loss's own numbers (gamma, alpha, smooth, ...) where they are not to be its defaults, the paper's."""


def loss_as_text(terms: Iterable[LossTerm]) -> str:
    """The terms in the short form that `Recipe.loss` reads, without their class weights."""
    return " + ".join(format_term(term.name, term.weight, term.parameters) for term in terms)


class Sampling(Record):
    """How training patches are drawn."""

    foreground_fraction: float = Field(default=0.33, ge=0, le=1)
    """Share of samples centred on a foreground voxel."""
    rounding: Literal["nnunet", "probabilistic"] = "nnunet"
    """`nnunet`: the last samples beyond round(batch * (1 - fraction)) of each batch; `probabilistic`: odds a sample."""
    class_weights: tuple[float, ...] | None = None
    """One weight a target (class or region) for drawing which one a foreground sample is centred on;
    None: all that occur in the case alike."""
    class_balanced: bool = False
    """Cases are drawn with replacement. True: a foreground sample draws one of the targets that occur anywhere and then
    a case that has it, so that a target of few cases is seen as often as one of all; False: a case, then one of its
    targets (nnU-Net). The other samples draw from all cases."""
    hard_ratio: float = Field(default=1.0, ge=1)
    """How many times as often the case with the highest recent loss is drawn as the one with the lowest; between them
    the odds rise with the rank. 1: all alike (nnU-Net). With `class_balanced`, among the cases that have the target."""

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_plan(cls, value: Any) -> Any:
        """Plans used to have one field `cases`, where `hard` alone looked at `hard_ratio` (then 3)."""
        if not isinstance(value, dict) or "cases" not in value:
            return value
        rest = {key: given for key, given in value.items() if key != "cases"}
        if "class_balanced" in rest or value["cases"] not in ("uniform", "class_balanced", "hard"):
            raise ValueError(
                f"cases={value['cases']!r} is no longer a value: set class_balanced=true to draw classes before cases, "
                "and hard_ratio=3 to draw hard cases more often"
            )
        ratio = rest.get("hard_ratio", 3.0) if value["cases"] == "hard" else 1.0
        return {**rest, "class_balanced": value["cases"] == "class_balanced", "hard_ratio": ratio}


class Recipe(Record):
    """Everything that decides how a network is trained."""

    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    patch_growth: PatchGrowth = PatchGrowth()
    watch: Watch = Watch()
    loss: tuple[LossTerm, ...] = (LossTerm(name="cross_entropy"), LossTerm(name="soft_dice"))
    """Terms that are added; also read from text such as `soft_dice + 0.5*focal(gamma=3)`. For region-based labels
    `cross_entropy` is binary, one sigmoid a region."""
    deep_supervision: bool = True
    """Loss at every decoder resolution but the coarsest, weights 1, 1/2, 1/4, ... normalised to sum 1."""
    gradient_clip: float = Field(default=12.0, gt=0)
    """Largest norm of the gradient."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay a step of an exponential moving average of the weights, which is then what predicts; None: no average."""
    recompute_activations: bool = False
    """Whether the backward pass computes what a stage's layers gave again instead of keeping it: a third to a half less
    memory, a third more arithmetic, the same gradients."""
    compilation: Literal["off", "on", "graphs"] = "off"
    """Whether torch compiles the network for training on a GPU: `on`; `graphs`: and records CUDA graphs. What fails is
    said, and the training goes on with less. It takes a minute or two for each size of a growing patch, so short
    budgets do better without."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the network; `auto`: in training bfloat16 where the device computes it faster than float32 (on a
    CPU only where no 3-D kernel spans two voxels or fewer), in prediction float32. With `float32` a GPU's convolutions
    may round to TF32 in training, as PyTorch has it, and do not in prediction."""
    sampling: Sampling = Sampling()
    augmentation: Augmentation = Augmentation()
    mirroring: Mirroring = Mirroring()
    distractors: Distractors | None = None
    """False positives of an earlier configuration as a class of their own, background at export; None: none."""
    fine_tuning: FineTuning = FineTuning()
    """Used by trainings that start from another model."""
    seed: int = Field(default=12345, ge=0)
    """Seed of weights, sampling and augmentation."""

    @field_validator("loss", mode="before")
    @classmethod
    def _terms_of_text(cls, value: Any) -> Any:
        return parse_loss(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.optimizer.name == "schedule_free" and self.ema_decay is not None:
            raise ValueError("schedule_free averages the weights itself: ema_decay must be null")
        if self.schedule.ends == "plateau" and not self.watch.cases:
            raise ValueError("a schedule that ends at the plateau needs cases to watch: set watch.cases, for example 4")
        return self

"""Every kernel on this device against the CPU in higher precision: one line each with its error and what is allowed.

Losses and networks are compared with float64 on the CPU, values and gradients; augmentation, sliding window and
resampling with float32 on the CPU; large convolutions with float32 on the device. TF32 is off, so that float32 means
float32. An error is |device - reference| / |reference| over all elements, infinite where something is not finite.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from common import emit, options, whole_logits
from torch import Tensor

from autoseg.augmentation.policies import POLICIES
from autoseg.inference.sliding_window import SlidingWindow, autocast
from autoseg.losses.build import LOSSES, build_loss
from autoseg.networks.build import NETWORKS, build_network
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.plan import NetworkSpec
from autoseg.records.recipe import LossTerm, Mirroring, Optimizer, Recipe
from autoseg.spatial import resampling as splines
from autoseg.spatial.labels import resample_labels
from autoseg.training.batches import Sampler, batches
from autoseg.training.learner import build_learner, train_step
from autoseg.training.optimizer import OPTIMIZERS, build_optimizer
from autoseg.training.source import Source, TrainingCase

CPU = torch.device("cpu")
PATCH = (32, 32, 32)
LABELS = LabelScheme(class_names=("background", "a", "b", "c"), class_values=(0, 1, 2, 3), num_entries=4)
REGIONS = LabelScheme(
    class_names=("background", "a", "b", "c"),
    class_values=(0, 1, 2, 3),
    num_entries=4,
    regions=(Target(name="all", members=(1, 2, 3)), Target(name="inner", members=(2, 3))),
    region_order=(1, 2),
)
NUM_STEPS = 6

Result = tuple[str, float, float]
"""What was compared, its error, and the largest one that is allowed."""


def main() -> int:
    """Run all checks; one that raises is a failed one and does not end the others."""
    asked = options(__doc__)
    device, failed = torch.device(asked.device), 0
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for check in CHECKS:
        try:
            for name, error, allowed in check(device):
                is_good = error <= allowed
                failed += not is_good
                emit(f"check: {name}", float(f"{error:.3g}") if np.isfinite(error) else None, "relative error",
                     allowed=allowed, passed=is_good)  # fmt: skip
        except Exception as error:
            failed += 1
            emit(f"check: {check.__name__}", None, "relative error", passed=False, reason=repr(error)[:500])
    emit("checks that failed", failed, "checks")
    return 1 if failed else 0


def relative(found: Tensor, reference: Tensor) -> float:
    found, reference = found.detach().to(CPU, torch.float64), reference.detach().to(CPU, torch.float64)
    if not torch.isfinite(found).all():
        return float("inf")
    return float((found - reference).norm() / reference.norm().clamp_min(1e-12))


def losses(device: torch.device) -> Iterator[Result]:
    """Each loss, for classes and for regions, with deep supervision: value and gradient."""
    random = torch.Generator().manual_seed(1)
    target = torch.randint(0, 4, (2, 16, 16, 16), generator=random)
    for kind, labels in (("classes", LABELS), ("regions", REGIONS)):
        shapes = [(2, labels.num_heads, n, n, n) for n in (16, 8, 4)]
        logits = [torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes]
        for name in LOSSES:
            loss = build_loss(Recipe(loss=(LossTerm(name=name),)), labels, batch_dice=False)
            values = []
            for where, dtype in ((CPU, torch.float64), (device, torch.float32)):
                inputs = [one.detach().clone().to(where, dtype).requires_grad_() for one in logits]
                value = loss(inputs, target.to(where))
                value.backward()
                gradients = torch.cat(
                    [torch.zeros(0) if one.grad is None else one.grad.flatten().cpu() for one in inputs]
                )
                values.append((value, gradients))
            (reference, reference_gradient), (value, gradient) = values
            yield f"loss {name}, {kind}", relative(value, reference), 5e-5
            yield f"gradient of loss {name}, {kind}", relative(gradient, reference_gradient), 1e-4


def networks(device: torch.device) -> Iterator[Result]:
    """Each network: outputs and gradients in float32, outputs in bfloat16."""
    images = torch.randn((2, 2, *PATCH), generator=torch.Generator().manual_seed(2))
    for name in NETWORKS:
        spec = small_spec(name)
        reference = build_network(spec, 2, 4, seed=3).double().train()
        network = build_network(spec, 2, 4, seed=3).to(device).train()
        expected, found = reference(images.double()), network(images.to(device))
        sum((out**2).mean() for out in expected).backward()
        sum((out**2).mean() for out in found).backward()
        yield f"network {name}, outputs", max(map(relative, found, expected)), 1e-4
        gradients = [
            torch.cat([p.grad.flatten().to(CPU) for p in net.parameters() if p.grad is not None])
            for net in (network, reference)
        ]
        yield f"network {name}, gradients", relative(*gradients), 1e-3
        with torch.no_grad(), autocast(device, "bfloat16"):
            yield f"network {name}, outputs in bfloat16", relative(network(images.to(device))[0], expected[0]), 5e-2


def convolutions(device: torch.device) -> Iterator[Result]:
    """As large as in a 128^3 patch: in bfloat16 against float32 on the same device. cuDNN 9.8 to 9.10 has wrong ones
    among them (pytorch issue 163539), which small networks do not meet."""
    random, edge = torch.Generator().manual_seed(10), 128 if device.type == "cuda" else 16
    for channels, n in ((32, edge), (64, edge // 2)):
        image, gradient = torch.randn((2, 2, channels, n, n, n), generator=random)
        weight = torch.randn((channels, channels, 3, 3, 3), generator=random) / channels
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            sides = []
            for dtype in (torch.bfloat16, torch.float32):
                tensors = [one.detach().to(device, dtype, memory_format=layout) for one in (image, weight)]
                inputs = [one.requires_grad_() for one in tensors]
                out = torch.nn.functional.conv3d(*inputs, padding=1)
                out.backward(gradient.to(device, dtype))
                sides.append((out, *(one.grad for one in inputs)))
            for what, found, expected in zip(("output", "gradient", "weights' gradient"), *sides, strict=True):
                name = f"convolution {channels} x {n}^3, {str(layout).removeprefix('torch.')}, {what} in bfloat16"
                yield name, relative(found, expected), 2e-2


def augmentation(device: torch.device) -> Iterator[Result]:
    """Batches of nnU-Net's policy without its noise, which is drawn on the device."""
    pairs = list(zip(*(batches(sampler(where), ((0, n) for n in range(8))) for where in (CPU, device)), strict=True))
    yield "augmented images", relative(*(torch.cat([b.images.cpu() for b in side]) for side in sides(pairs))), 1e-3
    one, other = (torch.cat([b.labels.cpu() for b in side]) for side in sides(pairs))
    yield "augmented labels, share that differs", float((one != other).double().mean()), 1e-4


def sliding_window(device: torch.device) -> Iterator[Result]:
    """A volume of several tiles, with mirroring that exchanges left and right."""
    image = torch.randn((2, 50, 61, 47), generator=torch.Generator().manual_seed(4))
    mirroring = Mirroring(axes=(0, 1, 2), swap_axis=2, swap_pairs=((1, 2),))
    found = [
        whole_logits(
            [build_network(small_spec("plain_unet"), 2, 4, seed=5).to(where).eval()],
            image,
            SlidingWindow(PATCH, LABELS, mirroring),
            where,
        )
        for where in (device, CPU)
    ]
    yield "sliding window, logits", relative(*found), 1e-4
    differing = found[0].argmax(0) != found[1].argmax(0)
    yield "sliding window, share of labels that differ", float(differing.double().mean()), 1e-4


def resampling(device: torch.device) -> Iterator[Result]:
    """Images and labels to another grid, all axes together and one apart."""
    random = torch.Generator().manual_seed(6)
    image = torch.randn((2, 20, 50, 40), generator=random)
    labels = torch.randint(0, 4, (10, 25, 20), generator=random).repeat_interleave(2, 0).repeat_interleave(2, 1)
    for axis in (None, 0):
        how = "all axes" if axis is None else "slices apart"
        found, expected = (resampled(image.to(where), (31, 44, 57), axis) for where in (device, CPU))
        yield f"resampled image, {how}", relative(found, expected), 1e-5
        maps = [resample_labels(labels.to(torch.int16).to(where), (31, 44, 27), axis).cpu() for where in (device, CPU)]
        yield f"resampled labels, {how}, share that differs", float((maps[0] != maps[1]).double().mean()), 1e-4


def resampled(image: torch.Tensor, shape: tuple[int, int, int], axis: int | None) -> torch.Tensor:
    """The first channel of an image on another grid."""
    channel, target = image[0], torch.empty(shape, device=image.device)
    limits = float(channel.min()), float(channel.max())
    splines.resample_into(target, splines.Source((20, 50, 40), lambda box: channel[box], lambda: limits), axis)
    return target


def training(device: torch.device) -> Iterator[Result]:
    """The first steps of a training; in half precision the loss must fall as well."""
    expected = torch.tensor(losses_of_steps(CPU, "float32"))
    yield (
        "losses of the first steps, float32",
        relative(torch.tensor(losses_of_steps(device, "float32")), expected),
        1e-3,
    )
    for precision in ("bfloat16", "float16") if device.type == "cuda" else ("bfloat16",):
        many = losses_of_steps(device, precision, 5 * NUM_STEPS)
        known = [loss for loss in many if np.isfinite(loss)]  # float16 skips steps until its scale fits
        yield f"losses of the first steps, {precision}, last over first", float(np.mean(known[-3:]) / known[0]), 0.99


def optimizers(device: torch.device) -> Iterator[Result]:
    """Each optimiser: where three steps with given gradients lead; on a GPU the host must not wait in them."""
    for name in OPTIMIZERS:
        moved = [weights_moved(where, Optimizer(name=name, momentum=0.9)) for where in (CPU, device)]  # type: ignore[arg-type]
        # Muon iterates in bfloat16 on a GPU.
        yield f"{name}: three steps", relative(moved[1], moved[0]), 0.05 if name == "muon" else 1e-4


def weights_moved(device: torch.device, recipe: Optimizer) -> Tensor:
    """Change of all weights by three steps with gradients that are the same on every device."""
    random, network = torch.Generator().manual_seed(9), build_network(small_spec("plain_unet"), 2, 4, seed=7).to(device)
    optimizer, before = build_optimizer(network, recipe), [p.detach().clone() for p in network.parameters()]
    for _ in range(3):
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random).to(device)
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return torch.cat([(p.detach() - old).flatten() for p, old in zip(network.parameters(), before, strict=True)])


def repetition(device: torch.device) -> Iterator[Result]:
    """The same training twice; atomics may make a GPU differ in the last bits, so this is told, not required."""
    first, second = (torch.tensor(losses_of_steps(device, "float32")) for _ in range(2))
    yield "losses of the same training twice", relative(first, second), 1e-4


def losses_of_steps(device: torch.device, precision: str, count: int = NUM_STEPS) -> list[float]:
    made = sampler(device)
    network = build_network(small_spec("plain_unet"), 2, 4, seed=7)
    learner = build_learner(network, build_loss(made.recipe, LABELS, True), made.recipe, precision, device)  # type: ignore[arg-type]
    stream = batches(made, ((0, step) for step in range(count)))
    return [float(train_step(learner, batch, 1e-3, step)) for step, batch in enumerate(stream)]


def sampler(device: torch.device) -> Sampler:
    """Two cases with blocks of three classes, two channels, nnU-Net's augmentation without noise."""
    random, voxels, cases = np.random.default_rng(8), [], []
    for number, shape in enumerate(((40, 44, 36), (30, 50, 48))):
        labels = np.zeros(shape, dtype=np.int16)
        for label in (1, 2, 3):
            labels[5 * label : 5 * label + 8, 6:20, 4 * label : 4 * label + 12] = label
        image = (random.normal(size=(2, *shape)) * 0.3 + labels).astype(np.float32)
        voxels.append((torch.from_numpy(image), torch.from_numpy(labels)[None]))
        where = tuple(np.flatnonzero(labels.ravel() == k).astype(np.int32) for k in (1, 2, 3))
        cases.append(TrainingCase(f"case_{number}", shape, where))

    def read(number: int, box: tuple[slice, slice, slice]) -> tuple[Tensor, Tensor]:
        image, labels = voxels[number]
        return image[(slice(None), *box)], labels[(slice(None), *box)]

    policy = POLICIES["nnunet"](False, PATCH)
    quiet = policy.model_copy(update={"intensity": tuple(i for i in policy.intensity if i.name != "noise")})
    recipe = Recipe(augmentation=quiet, optimizer=Optimizer(name="adamw", learning_rate=1e-3, momentum=0.9))
    made = Sampler(Source(tuple(cases), 2, "memory", read), recipe, LABELS, PATCH, 2, 9, device)
    return replace(made, recipe=recipe)


def small_spec(name: str) -> NetworkSpec:
    """Three stages, as wide as is quick."""
    return NetworkSpec(
        architecture=name,
        features_per_stage=(8, 16, 24),
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
        kernel_sizes=((3, 3, 3),) * 3,
        blocks_per_stage=(2, 2, 2),
        decoder_blocks_per_stage=(1, 1),
    )


def sides(pairs: list) -> tuple[list, list]:
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


CHECKS: tuple[Callable[[torch.device], Iterator[Result]], ...] = (
    losses,
    networks,
    convolutions,
    augmentation,
    sliding_window,
    resampling,
    optimizers,
    training,
    repetition,
)

if __name__ == "__main__":
    sys.exit(main())

"""Compiled trainings, as far as a CPU can tell: one graph without a break, compiled once a shape, and the same weights.

Networks go the way that they go on a GPU. What only a card can tell: that inductor's kernels are right and fast there,
and that CUDA graphs are recorded; of those, what inductor asks before it records is asked here.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from autoseg.losses.build import build_loss
from autoseg.networks import blocks, norm
from autoseg.networks.blocks import recompute_activations
from autoseg.networks.build import build_network
from autoseg.networks.distractor import HidesDistractor
from autoseg.records.course import PatchGrowth, PatchStage, Watch
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import NetworkSpec
from autoseg.records.recipe import LossTerm, Optimizer, Recipe, Schedule
from autoseg.training.batches import Batch
from autoseg.training.compiling import compile_network
from autoseg.training.learner import Learner, build_learner, predicting, train_step
from autoseg.training.loop import train_network
from autoseg.training.patch_growth import grown
from autoseg.training.schedule import Precision, TrainingSchedule
from autoseg.training.stopping import StopRequest
from tests.losses.schemes import IGNORING, REGIONS
from tests.networks.steps import spec_of
from tests.training.tools import CPU, LABELS, RECIPE, make_learner, make_sampler, make_source, scaled

FEATURES = (4, 6, 8)
ANISOTROPIC = NetworkSpec(
    architecture="plain_unet",
    features_per_stage=FEATURES,
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    blocks_per_stage=(1, 1, 1),
    decoder_blocks_per_stage=(1, 1),
)


class Case(NamedTuple):
    """A recipe and what it trains."""

    spec: NetworkSpec
    changes: dict[str, Any] = {}
    """Of the recipe."""
    precision: Precision = "float32"
    labels: LabelScheme = LABELS
    shape: tuple[int, ...] = (2, 1, 8, 8, 8)
    has_distractor: bool = False
    tolerance: float = 0.0
    """Of losses and weights after some steps, where `aot_eager` computes differently: it takes a linear interpolation
    apart, casts in the backward pass as in the forward pass, and lays the gradients of logits out as the logits are."""


def terms(*names: str) -> tuple[LossTerm, ...]:
    return tuple(LossTerm(name=name) for name in names)


PLAIN = spec_of("plain_unet", FEATURES, 3)
CASES = {
    "3d, sgd": Case(PLAIN, {"optimizer": Optimizer(learning_rate=0.01)}),
    "2d, adamw, ema": Case(
        spec_of("plain_unet", FEATURES, 2),
        {"optimizer": Optimizer(name="adamw", learning_rate=1e-3, momentum=0.9), "ema_decay": 0.9},
        shape=(2, 2, 1, 8, 8),
    ),
    "anisotropic, muon": Case(
        ANISOTROPIC, {"optimizer": Optimizer(name="muon", learning_rate=1e-3, momentum=0.9)}, shape=(2, 1, 4, 16, 16)
    ),
    "residual, schedule-free, recomputing": Case(
        spec_of("residual_unet", FEATURES, 3),
        {
            "optimizer": Optimizer(name="schedule_free", learning_rate=1e-3, momentum=0.9),
            "ema_decay": None,
            "recompute_activations": True,
        },
    ),
    "mednext, focal": Case(spec_of("mednext", FEATURES, 3), {"loss": terms("soft_dice", "focal")}),
    "mednext, recomputing": Case(spec_of("mednext", FEATURES, 3), {"recompute_activations": True}),
    "fpn": Case(spec_of("fpn", FEATURES, 3), tolerance=1e-3),
    "fcn, 2d": Case(spec_of("fcn", FEATURES, 2), shape=(2, 1, 1, 16, 16), tolerance=1e-3),
    "no deep supervision": Case(PLAIN, {"deep_supervision": False}),
    "regions, tversky": Case(PLAIN, {"loss": terms("cross_entropy", "tversky")}, labels=REGIONS, tolerance=1e-6),
    "ignore, top k": Case(PLAIN, {"loss": terms("soft_dice", "top_k_cross_entropy")}, labels=IGNORING),
    "boundary, lovasz": Case(PLAIN, {"loss": terms("soft_dice", "boundary", "lovasz")}),
    "cascade, clipped": Case(PLAIN, {"gradient_clip": 1e-3}, shape=(2, 1 + 2, 8, 8, 8)),
    "distractors": Case(PLAIN, has_distractor=True),
    "bfloat16": Case(PLAIN, precision="bfloat16", tolerance=0.02),
    "float16, recomputing": Case(PLAIN, {"recompute_activations": True}, precision="float16", tolerance=0.02),
}
QUICK = ("3d, sgd", "2d, adamw, ema")


def tried(names: Sequence[str] = QUICK) -> list[Any]:
    """All cases; those that are not among `names` are slow tests."""
    return [pytest.param(name, marks=() if name in names else pytest.mark.slow) for name in CASES]


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (blocks, norm):
        monkeypatch.setattr(module, "prefers_channels_last", lambda _: False)


class Counting:
    """A backend of torch.compile that knows how often it was called."""

    def __init__(self, backend: str) -> None:
        self.backend = torch._dynamo.lookup_backend(backend)
        self.count = 0

    def __call__(self, module: Any, inputs: Any) -> Any:
        self.count += 1
        return self.backend(module, inputs)


def network_of(case: Case) -> nn.Module:
    network = build_network(case.spec, case.shape[1], case.labels.num_heads + case.has_distractor, 7)
    return HidesDistractor(network, case.labels.has_regions) if case.has_distractor else network


def learner_of(case: Case) -> Learner:
    recipe: Recipe = RECIPE.model_copy(update={"ema_decay": None, **case.changes})
    network = network_of(case)
    if recipe.recompute_activations:
        recompute_activations(network)
    labels = case.labels.with_distractor() if case.has_distractor else case.labels
    return build_learner(network, build_loss(recipe, labels, True), recipe, case.precision, CPU)


def some_steps(case: Case, learner: Learner) -> Tensor:
    """Losses of steps that differ in all that differs in a training; between them the network predicts."""
    generator, losses = torch.Generator().manual_seed(1), []
    for step, classes in enumerate((3, 1, 2, 3)):
        images = torch.randn(case.shape, generator=generator) * (1 + step)
        labels = torch.randint(classes, (case.shape[0], *case.shape[2:]), generator=generator, dtype=torch.int16)
        batch = Batch(images, labels, ("a",) * len(images))
        losses.append(train_step(learner, batch, 0.01 / (step + 1) if step < 3 else 0.0, step))
        if step == 1:
            with predicting(learner) as network, torch.no_grad():
                network(images[:1].repeat(1, 1, 1, 2, 1))
    return torch.stack(losses)


def check_case(case: Case, backend: str, tolerance: float) -> None:
    counting, learner, plain = Counting(backend), learner_of(case), learner_of(case)
    assert compile_network(learner.network, "on", [case.shape], CPU, case.precision, "t", counting) == "on"  # type: ignore[arg-type]
    assert counting.count == 1, "one graph"
    losses, expected = some_steps(case, learner), some_steps(case, plain)
    assert counting.count == 1, "compiled once"
    torch.testing.assert_close(losses, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    has_gradient = {name for name, p in plain.network.named_parameters() if p.grad is not None}
    found = dict(learner.network.named_parameters())
    for name, weight in plain.network.named_parameters():
        if name in has_gradient:  # compiled, a head that no loss sees has zeros, and decays
            torch.testing.assert_close(found[name], weight, rtol=tolerance, atol=tolerance, msg=name)
    for name, average in plain.average.items():
        torch.testing.assert_close(learner.average[name], average, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", tried())
def test_a_recipe_is_one_graph_that_is_compiled_once(name: str) -> None:
    check_case(CASES[name], "eager", 0.0)


@pytest.mark.parametrize("name", tried(()))
def test_a_compiled_training_is_the_same_training(name: str) -> None:
    """With torch's own derivation of the backward pass; bit for bit but where the case says otherwise."""
    check_case(CASES[name], "aot_eager", CASES[name].tolerance)


def test_nothing_in_the_course_of_a_training_is_compiled_again(tmp_path: Path) -> None:
    """Epochs, watched cases, a patch that grows, and the cooldown."""
    growth = PatchGrowth(stages=(PatchStage(until=0.5, fraction=0.5),))
    recipe = RECIPE.model_copy(
        update={
            "patch_growth": growth,
            "watch": Watch(cases=1, every_epochs=1),
            "schedule": Schedule(name="wsd", epochs=6, iterations_per_epoch=2, cooldown_fraction=0.3),
        }
    )
    source = scaled(make_source([(20, 20, 20), (18, 22, 20)]), 1e-4)
    sampler = replace(make_sampler(source, recipe, patch=(16, 16, 16)), divisor_zyx=(2, 2, 2))
    small = grown(sampler, 0.5, keeps_voxels=False)
    shapes = [(part.batch_size, 1, *part.patch_zyx) for part in (sampler, small)]
    assert len(set(shapes)) == 2
    learner, counting = make_learner(recipe), Counting("eager")
    assert compile_network(learner.network, "on", shapes, CPU, "float32", "t", counting) == "on"  # type: ignore[arg-type]
    assert counting.count == 2
    seen: set[tuple[int, ...]] = set()
    learner.network.register_forward_pre_hook(lambda _, inputs: seen.add(tuple(inputs[0].shape)))
    schedule = TrainingSchedule(epochs=6, iterations_per_epoch=2, seed=7, precision="float32", device="cpu")

    def look(network: nn.Module) -> float:
        with torch.no_grad():
            network(torch.zeros((1, 1, 12, 8, 10)))
        return 0.5

    history = train_network(learner, sampler, schedule, tmp_path, StopRequest(), "t", look)
    assert len(history) == 6
    assert {*shapes, (1, 1, 12, 8, 10)} <= seen
    assert counting.count == 2


@pytest.mark.parametrize("name", tried(("3d, sgd",)))
def test_inductor_has_no_reason_to_leave_graphs_out(name: str) -> None:
    """Whatever is not on the GPU, changes an input, has a shape that depends on values or is unsafe in a graph."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.utils import get_first_incompatible_cudagraph_node

    case, graphs = CASES[name], list[torch.fx.Graph]()

    def check(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        assert get_first_incompatible_cudagraph_node(module) is None
        for node in module.graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, Tensor):
                assert value.device.type == "meta", f"{node} is on {value.device}"
                assert all(isinstance(size, int) for size in value.shape)
            assert node.target is not torch.ops.aten.copy_.default, f"{node} changes an input"
        graphs.append(module.graph)
        return module.forward

    torch._dynamo.reset()
    network = network_of(case).to("meta").train()
    if case.changes.get("recompute_activations"):
        recompute_activations(network)
    backend = aot_autograd(fw_compiler=check, bw_compiler=check, decompositions=select_decomp_table)
    network.compile(fullgraph=True, dynamic=False, backend=backend)
    outputs = network(torch.empty(case.shape, device="meta"))
    sum(output.sum() for output in outputs).backward()
    assert len(graphs) == 2, "forward and backward"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on a CPU")
def test_what_inductor_makes_of_a_network_computes_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its kernels here are in C++, on a GPU in Triton's language; what comes before them is the same."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    case, networks = CASES["3d, sgd"], [network_of(CASES["3d, sgd"]).train() for _ in range(2)]
    torch._dynamo.reset()
    networks[0].compile(fullgraph=True, dynamic=False)
    images = torch.randn(case.shape, generator=torch.Generator().manual_seed(1))
    with torch._inductor.config.patch(compile_threads=1):  # no worker processes
        found, expected = (list(network(images)) for network in networks)
        for outputs in (found, expected):
            sum(output.square().sum() for output in outputs).backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for (name, ours), theirs in zip(networks[0].named_parameters(), networks[1].parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3, msg=name)

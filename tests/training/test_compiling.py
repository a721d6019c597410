"""Compilation in place: the same network, the same weights, and a training that goes on where it fails."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autoseg import console
from autoseg.training.compiling import Compilation, compile_network, undo_compilation
from tests.training.tools import CPU, make_learner

SHAPE = (2, 1, 8, 8, 8)


class Scaling(nn.Module):
    """The smallest network that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (image * self.weight,)


def network_of() -> nn.Module:
    return make_learner().network


def test_a_compiled_network_is_the_same_network() -> None:
    network, image = network_of(), torch.randn(SHAPE)
    names, before = set(network.state_dict()), {k: v.clone() for k, v in network.state_dict().items()}
    expected = [output.detach() for output in network(image)]
    assert compile_network(network, "on", [SHAPE], CPU, "float32", "t", backend="eager") == "on"
    assert network._compiled_call_impl is not None
    found = network(image)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert set(network.state_dict()) == names
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    undo_compilation(network)
    assert network._compiled_call_impl is None


def test_a_failure_is_told_and_leaves_the_network_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(module: object, inputs: object) -> None:
        raise RuntimeError("no compiler here")

    network, image = network_of(), torch.randn(SHAPE)
    expected = network(image)[0].detach()
    done = compile_network(network, "on", [SHAPE], CPU, "float32", "3d_fullres fold 0", backend=broken)  # type: ignore[arg-type]
    assert done == "off"
    assert torch.equal(network(image)[0], expected)
    said = capsys.readouterr().err
    assert "3d_fullres fold 0: trained without compilation, which failed" in said
    assert "no compiler here" in said


def failing_at(number: int, calls: list[int]) -> Callable[..., Callable[..., object]]:
    """A backend whose compiled network fails at call `number`, from 1, of all that are made."""

    def backend(module: nn.Module, inputs: object) -> Callable[..., object]:
        def run(*values: Tensor) -> object:
            calls.append(1)
            assert torch.backends.cudnn.benchmark, "a graph keeps the kernels that were chosen for it"
            if len(calls) == number:
                raise RuntimeError("operation not permitted when stream is capturing")
            return module(*values)

        return run

    return backend


@pytest.mark.parametrize(
    ("kind", "fails_at", "done", "passes"),
    [
        ("on", 0, "on", 1),
        ("on", 1, "off", 1),
        ("graphs", 0, "graphs", 3),
        ("graphs", 2, "on", 2 + 1),
        ("graphs", 3, "on", 3 + 1),
    ],
)
def test_what_fails_is_met_before_the_training_and_less_is_tried(
    kind: Compilation, fails_at: int, done: Compilation, passes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    network, calls = Scaling(), list[int]()
    backend = failing_at(fails_at, calls)
    assert compile_network(network, kind, [SHAPE], CPU, "float32", "t", backend=backend) == done  # type: ignore[arg-type]
    assert len(calls) == passes
    assert all(parameter.grad is None for parameter in network.parameters())
    assert (network._compiled_call_impl is None) == (done == "off")
    said = capsys.readouterr().err
    without = {"on": "compilation", "graphs": "CUDA graphs"}[kind]
    wanted = f"t: trained without {without}, which failed: operation not permitted when stream is capturing"
    assert said.count("trained without") == (kind != done)
    assert (wanted in said) == (kind != done)


def test_a_network_is_compiled_whole_or_not_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    """torch would compile the pieces before and behind what it cannot follow, and say nothing."""

    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            return (image * self.weight if image.sum().item() > 0 else image + self.weight,)

    assert compile_network(Asking(), "on", [SHAPE], CPU, "float32", "t", backend="eager") == "off"
    assert "trained without compilation, which failed: " in capsys.readouterr().err


def test_every_shape_is_compiled_before_the_training() -> None:
    compiled: list[tuple[int, ...]] = []

    def backend(module: nn.Module, inputs: list[Tensor]) -> Callable[..., object]:
        compiled.append(next(tuple(value.shape) for value in inputs if value.ndim == 5))
        return module.forward

    shapes = [(2, 1, edge, 8, 8) for edge in (32, *range(8, 30, 2))]  # more than torch compiles by itself
    assert len(shapes) > torch._dynamo.config.recompile_limit
    network = Scaling()
    assert compile_network(network, "on", shapes, CPU, "float32", "t", backend=backend) == "on"  # type: ignore[arg-type]
    assert compiled == shapes
    for shape in shapes:
        network(torch.ones(shape))
    assert compiled == shapes


def test_nothing_is_compiled_on_a_cpu_or_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    class Uncallable(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise AssertionError("must not be tried")

    console.configure(quiet=False)
    try:
        assert compile_network(Uncallable(), "on", [SHAPE], CPU, "float32", "t") == "off"
    finally:
        console.configure(quiet=True)
    assert "not compiled, which does not pay on a CPU" in capsys.readouterr().err
    assert compile_network(Uncallable(), "off", [SHAPE], CPU, "float32", "t") == "off"

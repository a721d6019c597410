"""Compilation in place: the same network, the same weights, and a training that goes on where it fails."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autoseg import console
from autoseg.training.compiling import compile_network, undo_compilation
from tests.training.tools import make_learner

SAMPLE = torch.zeros((2, 1, 8, 8, 8))


def network_of() -> nn.Module:
    return make_learner().network


def test_a_compiled_network_is_the_same_network() -> None:
    network, image = network_of(), torch.randn(SAMPLE.shape)
    names, before = set(network.state_dict()), {k: v.clone() for k, v in network.state_dict().items()}
    expected = [output.detach() for output in network(image)]
    assert compile_network(network, "on", SAMPLE, "float32", "t", backend="eager")
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

    network, image = network_of(), torch.randn(SAMPLE.shape)
    expected = network(image)[0].detach()
    assert not compile_network(network, "on", SAMPLE, "float32", "3d_fullres fold 0", backend=broken)  # type: ignore[arg-type]
    assert torch.equal(network(image)[0], expected)
    said = capsys.readouterr().err
    assert "3d_fullres fold 0: trained without compilation, which failed" in said
    assert "no compiler here" in said


@pytest.mark.parametrize(("kind", "passes"), [("on", 1), ("graphs", 3)])
def test_a_failure_while_graphs_are_recorded_is_met_before_the_training(kind: str, passes: int) -> None:
    calls: list[int] = []

    def backend(module: nn.Module, inputs: object) -> Callable[..., object]:
        def run(*values: Tensor) -> object:
            calls.append(1)
            assert torch.backends.cudnn.benchmark, "a graph keeps the kernels that were chosen for it"
            if len(calls) == fails_at:
                raise RuntimeError("operation not permitted when stream is capturing")
            return module(*values)

        return run

    for fails_at in (0, passes):
        calls.clear()
        network = network_of()
        whole = compile_network(network, kind, SAMPLE, "float32", "t", backend=backend)  # type: ignore[arg-type]
        assert whole == (fails_at == 0)
        assert len(calls) == passes
        assert all(parameter.grad is None for parameter in network.parameters())


def test_nothing_is_compiled_on_a_cpu_or_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    class Uncallable(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise AssertionError("must not be tried")

    console.configure(quiet=False)
    try:
        assert not compile_network(Uncallable(), "on", SAMPLE, "float32", "t")
    finally:
        console.configure(quiet=True)
    assert "not compiled, which does not pay on a CPU" in capsys.readouterr().err
    assert not compile_network(Uncallable(), "off", SAMPLE, "float32", "t")

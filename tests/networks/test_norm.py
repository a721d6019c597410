import pytest
import torch
import torch.nn.functional as F

from autoseg.networks.norm import instance_norm_act


def _reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, slope: float) -> torch.Tensor:
    return F.leaky_relu(F.instance_norm(x, weight=weight, bias=bias, eps=1e-5), slope)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (1, 1, 2, 3, 2), (3, 5, 7, 4), (2, 4, 1, 6, 1)])
@pytest.mark.parametrize("slope", [0.01, 1.0])
def test_equals_pytorch_forward_and_backward(shape: tuple[int, ...], slope: float) -> None:
    g = torch.Generator().manual_seed(0)
    x, weight, bias, upstream = (
        torch.randn(s, generator=g, dtype=torch.float64) for s in (shape, shape[1], shape[1], shape)
    )
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    mine, theirs = instance_norm_act(*inputs, slope), _reference(*inputs, slope)
    torch.testing.assert_close(mine, theirs)
    for a, b in zip(
        torch.autograd.grad(mine, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_gradient_is_the_numerical_one() -> None:
    g = torch.Generator().manual_seed(1)
    x, weight, bias = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((2, 3, 2, 3, 2), 3, 3))
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda *a: instance_norm_act(*a, 0.01), inputs)


def test_maps_far_from_zero_keep_their_digits() -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(1, 4, 8, 8, 8, generator=g) + 300
    one, zero = torch.ones(4), torch.zeros(4)
    exact = _reference(x.double(), one.double(), zero.double(), 1.0)
    torch.testing.assert_close(instance_norm_act(x, one, zero, 1.0).double(), exact, atol=1e-4, rtol=0)
    rough = x.bfloat16()
    exact = _reference(rough.double(), one.double(), zero.double(), 1.0)
    result = instance_norm_act(rough, one, zero, 1.0)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), exact, atol=0.02, rtol=0.01)


def test_in_bfloat16_values_and_gradients_are_rounded_and_no_more() -> None:
    g = torch.Generator().manual_seed(3)
    shape = (2, 12, 6, 7, 8)
    x, upstream = ((torch.randn(shape, generator=g) + shift).bfloat16() for shift in (5.0, 0.0))
    weight, bias = (torch.randn(12, generator=g) for _ in range(2))
    mine = [t.clone().requires_grad_() for t in (x, weight, bias)]
    exact = [t.double().requires_grad_() for t in (x, weight, bias)]
    y, reference = instance_norm_act(*mine, 1.0), _reference(*exact, 1.0)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), reference, atol=1e-6, rtol=2**-8)
    found = torch.autograd.grad(y, mine, upstream)
    true = torch.autograd.grad(reference, exact, upstream.double())
    assert [t.dtype for t in found] == [torch.bfloat16, torch.float32, torch.float32]
    # The gradient of x is a sum of two parts and a factor, each rounded.
    torch.testing.assert_close(found[0].double(), true[0], atol=0.02 * float(true[0].abs().max()), rtol=2**-7)
    for a, b in zip(found[1:], true[1:], strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-3, rtol=1e-5)


def test_one_voxel_and_constant_maps_become_the_shift() -> None:
    bias = torch.tensor([2.0, -1.0])
    for x in (torch.full((1, 2, 1, 1, 1), 7.0), torch.full((1, 2, 3, 3, 3), 7.0)):
        y = instance_norm_act(x, torch.ones(2), bias, 0.01)
        torch.testing.assert_close(y[0, :, 0, 0, 0], torch.tensor([2.0, -0.01]))

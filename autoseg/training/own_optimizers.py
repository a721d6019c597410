"""Parameters and their gradients in, a step of Muon or of schedule-free AdamW out: what torch does not have.

As torch's fused optimisers do, they skip a step whose gradient is not finite without the host looking: the gradient
scaler leaves `found_inf` on them, and every value is chosen on the device. All state is made at the start and held as
tensors of the parameters, so that checkpoints and skipped steps are those of any other optimiser; what is one number
for all parameters belongs to the first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from autoseg.records.recipe import Optimizer

_EPSILON = 1e-8  # of AdamW
_NEWTON_SCHULZ_STEPS = 5
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024
_RMS = 0.2  # root mean square of an AdamW step, as Liu et al. 2025 found it


class Muon(torch.optim.Optimizer):
    """Muon for kernels of more than one voxel, AdamW for all other parameters.

    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks": the momentum of a kernel, seen as a
    matrix with a row an output channel (of a transposed convolution: an input channel), is replaced by the nearest
    matrix whose singular values are about 1. Its step is scaled by 0.2 sqrt(larger side) (Liu et al. 2025,
    arXiv:2502.16982), so that rate and weight decay of AdamW fit. Kernels of one voxel are mostly the heads, which
    Jordan et al. leave to AdamW too.
    """

    _step_supports_amp_scaling = True

    def __init__(self, parameters: Sequence[nn.Parameter], recipe: Optimizer) -> None:
        kernels = [p for p in parameters if p.ndim > 2 and p[0, 0].numel() > 1]
        others = [p for p in parameters if not (p.ndim > 2 and p[0, 0].numel() > 1)]
        super().__init__([{"params": kernels}, {"params": others}], {"lr": recipe.learning_rate})
        self.recipe = recipe
        for parameter in kernels:
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        for parameter in others:
            step = torch.zeros((), device=parameter.device)
            moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            self.state[parameter] = {"step": step, **moments}

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step with the gradients at hand; none where the scaler found one that is not finite."""
        kernels, others = self.param_groups
        for parameter in kernels["params"]:
            if parameter.grad is not None:
                self._step_kernel(parameter, parameter.grad, kernels["lr"])
        moved = [p for p in others["params"] if p.grad is not None]
        states = [self.state[p] for p in moved]
        adamw(
            moved,
            [p.grad for p in moved],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=True,
            found_inf=getattr(self, "found_inf", None),
            amsgrad=False,
            beta1=self.recipe.momentum,
            beta2=self.recipe.beta2,
            lr=others["lr"],
            weight_decay=self.recipe.weight_decay,
            eps=_EPSILON,
            maximize=False,
        )

    def _step_kernel(self, parameter: nn.Parameter, gradient: Tensor, rate: float) -> None:
        momentum, buffer = self.recipe.momentum, self.state[parameter]["momentum_buffer"]
        fresh = torch.lerp(gradient, buffer, momentum)
        ahead = torch.lerp(gradient, fresh, momentum)  # Nesterov
        matrix = ahead.reshape(len(ahead), -1)
        direction = orthogonalized(matrix).reshape(parameter.shape)
        length = rate * _RMS * max(matrix.shape) ** 0.5
        moved = parameter * (1 - rate * self.recipe.weight_decay) - length * direction
        _assign(self, [buffer, parameter], [fresh, moved])


def orthogonalized(matrix: Tensor) -> Tensor:
    """About U V^T of the singular value decomposition of `matrix`, by Newton-Schulz iterations in its own precision.

    The quintic of Jordan et al. 2024 brings singular values near 1 fast and leaves them between about 0.7 and 1.2; in
    bfloat16 on a GPU, where it costs least and where they found it to be enough.
    """
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    is_tall = x.shape[0] > x.shape[1]
    x = x.mT if is_tall else x
    x = x / x.norm().clamp_min(1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.mT if is_tall else x).to(matrix.dtype)
    return result


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682).

    Gradients are taken at y = (1 - beta) z + beta x, of which z makes AdamW's steps and x averages z; y is what the
    parameters hold, z is kept beside them, and x, which predicts, follows from both (`averaged_weights`). Steps are
    weighed by the square of the largest rate so far, as in the authors' code, so a warm-up counts little.
    """

    _step_supports_amp_scaling = True

    def __init__(self, parameters: Sequence[nn.Parameter], recipe: Optimizer) -> None:
        super().__init__(parameters, {"lr": recipe.learning_rate})
        self.recipe = recipe
        for parameter in parameters:
            self.state[parameter]["z"] = parameter.detach().clone()
            self.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)
        for key in ("step", "weight_sum", "largest_rate"):
            self.state[parameters[0]][key] = torch.zeros((), dtype=torch.float64, device=parameters[0].device)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step with the gradients at hand; none where the scaler found one that is not finite."""
        group = self.param_groups[0]
        beta, beta2, rate = self.recipe.momentum, self.recipe.beta2, group["lr"]
        shared = self.state[group["params"][0]]
        y = [p for p in group["params"] if p.grad is not None]
        z, squares = ([self.state[p][key] for p in y] for key in ("z", "exp_avg_sq"))
        gradients = [p.grad for p in y]
        step, largest = shared["step"] + 1, shared["largest_rate"].clamp_min(rate)
        weight_sum = shared["weight_sum"] + largest.square()
        share = largest.square() / weight_sum.clamp_min(torch.finfo(torch.float64).tiny)
        new_squares = torch._foreach_mul(squares, beta2)
        torch._foreach_addcmul_(new_squares, gradients, gradients, value=1 - beta2)
        directions = _divided(gradients, new_squares, 1 - beta2**step)
        torch._foreach_add_(directions, y, alpha=self.recipe.weight_decay)
        new_z = torch._foreach_sub(z, directions, alpha=rate)
        # y' = (1 - share) y + share z + rate (beta (1 - share) - 1) direction, which is (1 - beta) z' + beta x'.
        new_y = torch._foreach_sub(z, y)
        torch._foreach_mul_(new_y, share.float())
        torch._foreach_add_(new_y, y)
        torch._foreach_mul_(directions, (rate * (beta * (1 - share) - 1)).float())
        torch._foreach_add_(new_y, directions)
        numbers = [shared[key] for key in ("step", "weight_sum", "largest_rate")]
        _assign(self, [*squares, *z, *y, *numbers], [*new_squares, *new_z, *new_y, step, weight_sum, largest])


def averaged_weights(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Name -> the weights x of a schedule-free optimiser, which predict; empty for any other optimiser."""
    if not isinstance(optimizer, ScheduleFree):
        return {}
    beta = optimizer.recipe.momentum
    return {
        name: torch.lerp(y.detach(), optimizer.state[y]["z"], 1 - 1 / beta) for name, y in network.named_parameters()
    }


def _divided(gradients: list[Tensor], squares: Sequence[Tensor], correction: Tensor) -> list[Tensor]:
    """AdamW's direction without momentum: gradient / (sqrt(squares / correction) + epsilon)."""
    roots = torch._foreach_div(list(squares), correction.float())
    torch._foreach_sqrt_(roots)
    torch._foreach_add_(roots, _EPSILON)
    return list(torch._foreach_div(gradients, roots))


def _assign(optimizer: torch.optim.Optimizer, places: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Put `values` into `places`, unless the scaler found a gradient that is not finite."""
    found: Tensor | None = getattr(optimizer, "found_inf", None)
    for place, value in zip(places, values, strict=True):
        place.copy_(value if found is None else torch.where(found > 0, place, value))

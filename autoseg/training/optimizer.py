"""A network and the recipe's numbers in, an optimiser and its state as named tensors out.

The optimisers are torch's fused ones, or our own (`own_optimizers`) where torch has none: they skip a step whose
gradient is not finite without the host having to look. State is kept by parameter name, so a checkpoint does not
depend on the order in which torch numbers parameters. The average of the weights lives here too: it follows each step.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.swa_utils import get_ema_multi_avg_fn

from autoseg.errors import ModelError
from autoseg.records.recipe import Optimizer
from autoseg.training.own_optimizers import Muon, ScheduleFree


def _sgd(parameters: Iterable[nn.Parameter], recipe: Optimizer) -> torch.optim.Optimizer:
    kept = list(parameters)
    nesterov = recipe.momentum > 0  # torch refuses Nesterov without momentum
    optimizer = SGD(
        kept,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=nesterov,
        fused=True,
    )
    if nesterov:
        # torch would make the buffers in the first step, unfilled, and a skipped first step leaves them so.
        for parameter in kept:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _adamw(parameters: Iterable[nn.Parameter], recipe: Optimizer) -> torch.optim.Optimizer:
    betas = (recipe.momentum, recipe.beta2)
    return AdamW(parameters, lr=recipe.learning_rate, betas=betas, weight_decay=recipe.weight_decay, fused=True)


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], Optimizer], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "muon": lambda parameters, recipe: Muon(list(parameters), recipe),
    "schedule_free": lambda parameters, recipe: ScheduleFree(list(parameters), recipe),
}


def build_optimizer(network: nn.Module, recipe: Optimizer) -> torch.optim.Optimizer:
    """Optimiser over all parameters of `network`, on their device."""
    return OPTIMIZERS[recipe.name](network.parameters(), recipe)


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """State of the optimiser as `<parameter name>:<state name>` -> tensor."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}:{key}"] = value
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put `optimizer_tensors` back; raises ModelError when they belong to another network."""
    parameters = dict(network.named_parameters())
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition(":")
        parameter = parameters.get(name)
        if parameter is None or (value.ndim > 0 and value.shape != parameter.shape):
            raise ModelError(f"The checkpoint's optimiser state {full_name!r} does not fit the network of the plan.")
        kept = value.to(parameter.device)
        # Moments must lie in memory as their parameter does, or the fused kernels refuse them.
        optimizer.state[parameter][key] = torch.empty_like(parameter).copy_(kept) if value.ndim > 0 else kept


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` for all parameters from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def start_average(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights from which their average starts."""
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def update_average(average: Mapping[str, Tensor], network: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the weights after global step `step` (from 0), in place.

    The decay grows as (1 + step) / (10 + step) up to `decay`, as is usual for averages of weights (for example in
    TensorFlow's ExponentialMovingAverage), so that a short training's average forgets the random start.
    """
    parameters = dict(network.named_parameters())
    # One kernel for all tensors on a GPU.
    move = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))  # type: ignore[no-untyped-call]
    move(list(average.values()), [parameters[name] for name in average], step)

"""A network and a recipe in, what is trained: the network with its loss and all that moves it, one step at a time.

The host never waits for the device in a step: a step whose gradient is not finite is skipped by the optimiser itself
(through the gradient scaler, whose scale is 1 except for float16), and its loss is not a number.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg.inference.sliding_window import autocast
from autoseg.records.recipe import Recipe
from autoseg.training.batches import Batch
from autoseg.training.compiling import Compilation
from autoseg.training.optimizer import build_optimizer, set_learning_rate, start_average, update_average
from autoseg.training.own_optimizers import averaged_weights
from autoseg.training.schedule import Precision

Loss = Callable[[Sequence[Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class Learner:
    """What changes during a training: the network and what moves it."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    """Moving average of the weights; empty when the recipe has none."""
    scaler: torch.amp.GradScaler
    loss: Loss
    recipe: Recipe
    precision: Precision
    device: torch.device
    compilation: Compilation = "off"
    """What was done of what the recipe wants; the loss and all behind the gradients are never compiled."""


def build_learner(
    network: nn.Module, loss: Loss, recipe: Recipe, precision: Precision, device: torch.device
) -> Learner:
    """Put `network` on `device`, ready to be trained by `recipe`."""
    network = network.to(device).train()
    return Learner(
        network=network,
        optimizer=build_optimizer(network, recipe.optimizer),
        average=start_average(network) if recipe.ema_decay is not None else {},
        scaler=torch.amp.GradScaler(device.type, init_scale=2.0**16 if precision == "float16" else 1.0),
        loss=loss,
        recipe=recipe,
        precision=precision,
        device=device,
    )


def train_step(learner: Learner, batch: Batch, rate: float, step: int) -> Tensor:
    """One optimiser step; global step `step` (from 0).

    Returns:
        The loss, a scalar on the device; not a number when the step was skipped. A float16 step that is skipped
        because its scaled gradient overflows is none of these: the scale falls until it fits, at first always.
    """
    network, optimizer, scaler, recipe = learner.network, learner.optimizer, learner.scaler, learner.recipe
    set_learning_rate(optimizer, rate)
    optimizer.zero_grad(set_to_none=True)
    with autocast(learner.device, learner.precision):
        logits = network(batch.images)
    loss = learner.loss(logits, batch.labels)
    factor = scaler.scale(torch.ones_like(loss))
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clip)
    scaler.step(optimizer)
    scaler.update(None if learner.precision == "float16" else 1.0)
    if recipe.ema_decay is not None:
        update_average(learner.average, network, recipe.ema_decay, step)
    # With a factor above 1 an overflow says nothing of the batch.
    is_sound = torch.isfinite(norm) | (torch.isfinite(loss.detach()) & (factor > 1))
    return torch.where(is_sound, loss.detach(), torch.nan)


def final_weights(learner: Learner) -> dict[str, Tensor]:
    """The weights that predict from now on: their average if the recipe or its optimiser has one."""
    averaged = averaged_weights(learner.optimizer, learner.network)
    return {**learner.network.state_dict(), **averaged, **learner.average}


@contextmanager
def predicting(learner: Learner) -> Iterator[nn.Module]:
    """The network as it would predict now; afterwards it is as it was, bit for bit."""
    network = learner.network
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(final_weights(learner))
    network.eval()
    compiled, network._compiled_call_impl = network._compiled_call_impl, None  # each of its shapes would be compiled
    try:
        yield network
    finally:
        network._compiled_call_impl = compiled
        network.load_state_dict(kept)
        network.train()

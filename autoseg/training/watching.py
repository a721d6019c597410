"""A network and whole cases that are not trained on in, their mean Dice out; and whether it has stopped rising.

What is watched is what counts: whole volumes with the weights that would predict now, on the network's grid, instead
of Dice over random patches. The cases come from the training cases of the fold. A training that ends by them has
therefore seen nothing of the held-out cases, whose predictions stay what out-of-fold predictions should be.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from autoseg import console
from autoseg.errors import UsageError
from autoseg.inference.labelling import logits_to_labels
from autoseg.metrics.build import case_mean, scores_from_matrix
from autoseg.metrics.overlap import confusion_matrix
from autoseg.preprocessing import store
from autoseg.records.course import Watch
from autoseg.records.results import EpochRecord
from autoseg.training.validation import Validator, predict_image, read_network_input


def choose_watched(cases: Sequence[str], watch: Watch, seed: int) -> tuple[str, ...]:
    """The cases that are set aside from the training cases: the same ones for the same seed.

    Raises:
        UsageError: no case would be left to train on.
    """
    if watch.cases >= max(len(cases), 1):
        fewer = "Watch fewer" if len(cases) > 1 else "Watch none, and train for a planned length"
        raise UsageError(
            f"recipe.watch.cases is {watch.cases}, and the fold has {len(cases)} training cases: none would be left to "
            f"train on. {fewer}: `--set all.recipe.watch.cases={int(len(cases) > 1)}` to `autoseg plan` or "
            "`autoseg run`."
        )
    chosen = np.random.default_rng(seed).permutation(len(cases))[: watch.cases]
    return tuple(cases[number] for number in sorted(chosen))


def watched_dice(network: nn.Module, validator: Validator, cases: Sequence[str]) -> float | None:
    """Mean over the cases of the mean Dice over targets, on the network's grid.

    Args:
        network: in eval mode, on the validator's device.
        validator: where preprocessed cases are; nothing is written.
        cases: to predict.

    Returns:
        None where no target is in any of the cases and none was found.
    """
    found = []
    for case in cases:
        rows = predict_image(network, validator, read_network_input(validator, case))
        decided = [
            logits_to_labels(part[: validator.labels.num_heads], validator.labels, threshold=0.0).cpu() for part in rows
        ]
        classes = torch.cat(decided).numpy()
        reference = store.read_labels(validator.store_folder, case)
        matrix = confusion_matrix(classes, reference, validator.labels)
        mean = case_mean(scores_from_matrix(matrix, validator.labels, 1.0))
        found += [] if mean is None else [mean]
    return sum(found) / len(found) if found else None


def warn_of_few_looks(num_epochs: int, watch: Watch) -> None:
    """Tell the user when a training that is to end at its plateau is planned too short to find one."""
    looks, needed = num_epochs // watch.every_epochs, watch.window + watch.patience
    if looks < needed:
        console.warn(
            f"The watched cases are looked at {looks} times in {num_epochs} epochs, and a plateau shows after {needed} "
            "looks at the earliest: the training ends as planned. Ask for more --epochs, or lower watch.every_epochs."
        )


def has_plateaued(history: Sequence[EpochRecord], watch: Watch) -> bool:
    """Whether the watched Dice, averaged over `window` looks, gained less than `min_gain` in `patience` looks.

    It depends on the history alone, so a resumed training decides as an uninterrupted one.
    """
    looks = [record.watch_dice for record in history if record.watch_dice is not None]
    width = watch.window
    means = [sum(looks[end - width : end]) / width for end in range(width, len(looks) + 1)]
    if len(means) <= watch.patience:
        return False
    return max(means[-watch.patience :]) < max(means[: -watch.patience]) + watch.min_gain

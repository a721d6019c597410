"""Losses of steps and the cases they were on in, the odds of each case in a later epoch out.

Where the recipe asks for it, cases with a high recent loss are drawn more often: odds rise linearly with the rank of a
case's mean loss, from the easiest to the hardest, which is drawn `hard_ratio` times as often. Ranks, because a loss has
no natural zero; a bounded ratio, because a case with a faulty reference stays hard for ever (`audit` finds those).

Losses are known to the host at the end of an epoch only, so that no step waits for the device, and batches are drawn
ahead of the training. So an epoch's odds come from the last epoch that has surely ended when its first batch is drawn:
the same one however cases are held, with any number of threads, and after a resumption.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoseg.records.base import Record
from autoseg.training.source import READ_AHEAD

# Share of the newest epoch in a case's mean loss.
_NEWEST = 0.5


class CaseLosses(Record):
    """State of `HardCases`, kept in the checkpoint."""

    means: tuple[dict[str, float], ...] = ()
    """Case id -> moving mean of its loss at the end of the last epochs, newest last; without cases never drawn."""
    sums: dict[str, float] = {}
    """Case id -> sum of the losses of its samples' batches in the epoch so far."""
    counts: dict[str, int] = {}
    """Case id -> number of these."""


class HardCases:
    """Follows the losses of the cases of one training."""

    def __init__(self, cases: Sequence[str], ratio: float, iterations_per_epoch: int, state: CaseLosses, epoch: int):
        """Go on from `state`, as it was before a step of `epoch`."""
        self._cases, self._ratio = list(cases), ratio
        self._lag = 1 + math.ceil((READ_AHEAD + 1) / iterations_per_epoch)
        self._ended = {epoch - count: means for count, means in enumerate(reversed(state.means), start=1)}
        self._sums, self._counts = dict(state.sums), dict(state.counts)

    def add(self, cases: Sequence[str], loss: float) -> None:
        """Count the loss of a batch for each of its cases; one that is not finite says nothing."""
        if not math.isfinite(loss):
            return
        for case in cases:
            self._sums[case] = self._sums.get(case, 0.0) + loss
            self._counts[case] = self._counts.get(case, 0) + 1

    def end_epoch(self, epoch: int) -> None:
        """Fold the losses of `epoch` into the means."""
        means = dict(self._ended.get(epoch - 1, {}))
        for case, total in self._sums.items():
            newest = total / self._counts[case]
            means[case] = newest + (1 - _NEWEST) * (means.get(case, newest) - newest)
        kept = {number: old for number, old in self._ended.items() if number > epoch - self._lag}
        self._ended = {**kept, epoch: means}  # replaced at once: threads may be reading
        self._sums, self._counts = {}, {}

    def odds(self, epoch: int) -> npt.NDArray[np.float64] | None:
        """Odds of each case in `epoch`, which sum to 1; None: no loss is known yet, all alike."""
        means = self._ended.get(epoch - self._lag)
        if not means or len(self._cases) < 2:
            return None
        losses = np.array([means.get(case, math.inf) for case in self._cases])  # never drawn: as hard as any
        ranks = np.empty(len(losses))
        ranks[np.argsort(losses, kind="stable")] = np.linspace(0, 1, len(losses))
        weights = 1 + (self._ratio - 1) * ranks
        odds: npt.NDArray[np.float64] = weights / weights.sum()
        return odds

    def state(self) -> CaseLosses:
        """All there is to remember."""
        means = tuple(self._ended[epoch] for epoch in sorted(self._ended))
        return CaseLosses(means=means, sums=dict(self._sums), counts=dict(self._counts))

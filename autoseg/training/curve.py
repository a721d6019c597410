"""The epochs of a training in, a picture of loss, learning rate and watched Dice out."""

from collections.abc import Sequence
from pathlib import Path

from autoseg import console
from autoseg.records.results import EpochRecord
from autoseg.storage.atomic import write_atomically

CURVE = "curve.png"


def draw_curve(folder: Path, history: Sequence[EpochRecord], title: str) -> None:
    """Write `curve.png` into the fold's folder; without matplotlib it is left out with a message."""
    try:
        # The object interface needs no display and leaves a notebook's own figures and backend alone.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        console.say(f"{CURVE} is not drawn: matplotlib is not installed.")
        return
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=title, xlabel="epoch", ylabel="training loss")
    losses = [(record.epoch + 1, record.train_loss) for record in history if record.train_loss is not None]
    axes.plot([epoch for epoch, _ in losses], [loss for _, loss in losses], color="#1f5fa8")
    axes.grid(alpha=0.3)
    looks = [(record.epoch + 1, record.watch_dice) for record in history if record.watch_dice is not None]
    if looks:
        dice = axes.twinx()
        dice.plot([e for e, _ in looks], [value for _, value in looks], color="#3a7d44", marker=".")
        dice.set_ylabel("Dice of the watched cases", color="#3a7d44")
        dice.yaxis.set_ticks_position("left")
        dice.yaxis.set_label_position("left")
        dice.spines["left"].set_position(("axes", -0.14))
    rates = axes.twinx()
    rates.set_ylabel("learning rate")
    rates.plot([r.epoch + 1 for r in history], [r.learning_rate for r in history], color="#b04a2f", linewidth=0.8)
    write_atomically(folder / CURVE, lambda path: figure.savefig(path, format="png"))

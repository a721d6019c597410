"""Numbers and slices in, SVG charts and PNG pictures out, for pages that are light or dark.

Charts are inline SVG whose text and axes take the page's own text colour (`currentColor`), so that they follow the
reader's light or dark theme. A class has one colour in every figure of a report. Colours are Okabe and Ito's
(2008), which people with colour-blindness can tell apart; beyond eight classes they repeat.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from autoseg.records.results import Aggregate, EpochRecord

_PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#a39a00", "#8a6d5b")
_INK = "#778899"
"""Stands for the page's text colour until the SVG is finished; matplotlib knows no `currentColor`."""
_PICTURE_INCHES = 4.2
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
}


def class_colours(names: Sequence[str]) -> dict[str, str]:
    """One colour a class or region, in order."""
    return {name: _PALETTE[position % len(_PALETTE)] for position, name in enumerate(names)}


def tints(colours: Sequence[str]) -> list[str]:
    """The colours half mixed with white: seen to belong to the full ones beside or upon them."""
    mixed = [(np.array(mpl.colors.to_rgb(colour)) + 1) / 2 for colour in colours]
    return [mpl.colors.to_hex(tuple(colour)) for colour in mixed]


def draw_distributions(spacings_mm: npt.NDArray[Any], shapes: npt.NDArray[Any]) -> str:
    """Spacing and size of all cases along z, y, x (arrays `N 3`), one dot a case."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "distributions"}):
        figure = Figure(figsize=(7.6, 1.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, values, label in ((left, spacings_mm, "spacing (mm)"), (right, shapes, "size (voxels)")):
            for row in range(3):
                _strip(axes, values[:, row], row, _PALETTE[0])
            axes.set_yticks(range(3), ["z", "y", "x"])
            axes.set_ylim(2.6, -0.6)
            axes.set_xlim(0, float(values.max()) * 1.08)
            axes.set_xlabel(label)
        return _svg(figure, "Spacing and size of all cases")


def draw_losses(histories: Mapping[str, Sequence[EpochRecord]], label: str = "training loss") -> str:
    """Training loss by epoch, one line a fold (name -> its epochs)."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "losses"}):
        figure = Figure(figsize=(7.6, 2.7), layout="constrained")
        axes = figure.subplots()
        for position, (name, epochs) in enumerate(histories.items()):
            colour = _PALETTE[position % len(_PALETTE)]
            steps = [epoch.epoch + 1 for epoch in epochs]
            marker = "o" if len(steps) == 1 else None
            axes.plot(
                steps,
                [np.nan if e.train_loss is None else e.train_loss for e in epochs],
                color=colour,
                lw=1.4,
                marker=marker,
                label=f"fold {name}",
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.legend(ncols=5, loc="upper right")
        return _svg(figure, "Training loss by epoch")


def draw_scores(
    cases: Mapping[str, Sequence[float]], means: Mapping[str, Aggregate], colours: Mapping[str, str], label: str
) -> str:
    """One row a target: a dot a case, and the mean with its interval above them.

    Args:
        cases: target name -> defined values, one a case.
        means: target name -> mean over cases.
        colours: target name -> colour.
        label: text of the axis.
    """
    names = list(cases)
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "scores"}):
        figure = Figure(figsize=(7.6, 0.75 + 0.48 * len(names)), layout="constrained")
        axes = figure.subplots()
        for row, name in enumerate(names):
            _strip(axes, np.asarray(cases[name], dtype=float), row + 0.12, colours[name])
            _mean(axes, means[name], row - 0.22, colours[name])
        lowest = min((value for values in cases.values() for value in values), default=0.0)
        _score_axis(axes, names, lowest, label)
        return _svg(figure, label)


def draw_means(rows: Mapping[str, Aggregate], label: str, chosen: str | None = None) -> str:
    """One row a name: mean with interval; `chosen` is drawn in colour, the others in grey."""
    names = list(rows)
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "means"}):
        figure = Figure(figsize=(7.6, 0.75 + 0.34 * len(names)), layout="constrained")
        axes = figure.subplots()
        for row, name in enumerate(names):
            _mean(axes, rows[name], row, _PALETTE[0] if chosen in (None, name) else _INK)
        lows = [low for a in rows.values() if (low := a.low if a.low is not None else a.mean) is not None]
        _score_axis(axes, names, min(lows, default=0.0), label)
        return _svg(figure, label)


def draw_risk_coverage(curves: Mapping[str, Sequence[float]]) -> str:
    """Mean risk by the share of cases that is trusted, one line a curve (name -> risk of the first k cases)."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "risk"}):
        figure = Figure(figsize=(7.6, 2.9), layout="constrained")
        axes = figure.subplots()
        for position, (name, risks) in enumerate(curves.items()):
            coverage = np.arange(1, len(risks) + 1) / len(risks)
            axes.plot(coverage, risks, color=_PALETTE[position % len(_PALETTE)], lw=1.4, label=name)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("share of cases trusted")
        axes.set_ylabel("mean of 1 - Dice")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _svg(figure, "Risk by coverage")


def draw_froc(curves: Mapping[str, Sequence[float]], rates: Sequence[float], dashed: str) -> str:
    """Sensitivity at each rate of false positives, one line a name; the one called `dashed` is the baseline."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "froc"}):
        figure = Figure(figsize=(7.6, 2.9), layout="constrained")
        axes = figure.subplots()
        for position, (name, values) in enumerate(curves.items()):
            is_base = name == dashed
            colour = _INK if is_base else _PALETTE[position % len(_PALETTE)]
            axes.plot(rates, values, color=colour, lw=1.4, ls="--" if is_base else "-", marker="o", ms=3, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.set_xlabel("false positives a case")
        axes.set_ylabel("lesion sensitivity")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return _svg(figure, "FROC curves")


def draw_overlay(
    image: npt.NDArray[Any],
    reference: Sequence[npt.NDArray[np.bool_]],
    prediction: Sequence[npt.NDArray[np.bool_]],
    pixel_mm: tuple[float, float],
    colours: Sequence[str],
    reference_colours: Sequence[str] | None = None,
) -> str:
    """A slice with contours, prediction solid and coloured, reference dashed; as a PNG data URI.

    Args:
        image: `Y X` intensities, windowed to 0 to 1.
        reference: one mask `Y X` a target.
        prediction: likewise.
        pixel_mm: size of a pixel along y and x.
        colours: one a target.
        reference_colours: likewise, of the reference; None: white.
    """
    height, width = image.shape[0] * pixel_mm[0], image.shape[1] * pixel_mm[1]
    inches = _PICTURE_INCHES / max(height, width)
    figure = Figure(figsize=(max(width * inches, 0.8), max(height * inches, 0.8)), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for masks, shades, points, style in (
        (prediction, colours, 1.8, "solid"),
        (
            reference,
            reference_colours or ["white"] * len(colours),
            1.0 if reference_colours is None else 1.8,
            (0, (2, 1.5)),
        ),
    ):
        for mask, shade in zip(masks, shades, strict=True):
            if mask.any() and min(mask.shape) > 1:
                # A border of zeros, so that a contour closes where an object touches the edge of the image.
                rows, columns = (np.arange(-1, n + 1) for n in mask.shape)
                framed = np.pad(mask, 1).astype(float)
                axes.contour(columns, rows, framed, levels=[0.5], colors=[shade], linewidths=points, linestyles=[style])
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _strip(axes: Axes, values: npt.NDArray[Any], row: float, colour: str) -> None:
    """A dot a value around height `row`, spread by a fixed pattern so that equal values stay visible."""
    spread = 0.13 * np.sin(2.4 * np.arange(len(values)))
    axes.scatter(values, row + spread, s=9, color=colour, alpha=0.5, linewidths=0, clip_on=False)


def _mean(axes: Axes, mean: Aggregate, row: float, colour: str) -> None:
    """Mean as a diamond, its interval as a line, its value as text; nothing where it is not defined."""
    if mean.mean is None:
        return
    if mean.low is not None and mean.high is not None:
        axes.plot([mean.low, mean.high], [row, row], color=colour, lw=2.2, solid_capstyle="butt")
    axes.plot([mean.mean], [row], marker="D", ms=4.5, color=colour, clip_on=False)
    axes.annotate(
        f"{mean.mean:.3f}", (1.0, row), xycoords=("axes fraction", "data"), xytext=(6, 0),
        textcoords="offset points", va="center", annotation_clip=False,
    )  # fmt: skip


def _score_axis(axes: Axes, names: Sequence[str], lowest: float, label: str) -> None:
    """Rows from top to bottom, the score from a little below the lowest value to 1."""
    axes.set_yticks(range(len(names)), [name if len(name) <= 34 else name[:32] + ".." for name in names])
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlim(max(0.0, np.floor((lowest - 0.03) * 20) / 20), 1.0)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", lw=0.4, alpha=0.4, color=_INK)
    axes.set_axisbelow(True)
    axes.set_xlabel(label)


def _svg(figure: Figure, title: str) -> str:
    """The figure as an SVG element that takes the page's text colour and has no fixed size."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(title, quote=True)}" ', 1)

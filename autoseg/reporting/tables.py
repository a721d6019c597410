"""A benchmark in, its tables as terminal text and as Markdown out."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from autoseg.console import duration
from autoseg.records.benchmark import Benchmark, BenchmarkRow, PairedRow
from autoseg.reporting.intervals import mean_text

_WIDTH = 160


@dataclass(frozen=True)
class _Grid:
    """A table before it is drawn; the first `num_text_columns` are text, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_text_columns: int


def benchmark_text(benchmark: Benchmark) -> str:
    """The tables as aligned text without colours."""
    stream = io.StringIO()
    console = Console(file=stream, width=_WIDTH, no_color=True, highlight=False, emoji=False, markup=False)
    for grid in _grids(benchmark):
        table = RichTable(title=grid.title, title_justify="left", box=SIMPLE_HEAD)
        for number, name in enumerate(grid.columns):
            table.add_column(name, justify="left" if number < grid.num_text_columns else "right", no_wrap=number > 0)
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    for line in _remarks(benchmark):
        console.print(line)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")


def benchmark_markdown(benchmark: Benchmark) -> str:
    """The tables as a Markdown page."""
    parts = [f"# Benchmark, {benchmark.made}"]
    for grid in _grids(benchmark):
        ruler = ("---" if number < grid.num_text_columns else "---:" for number in range(len(grid.columns)))
        lines = [_line(grid.columns), "|" + "|".join(ruler) + "|", *(_line(row) for row in grid.rows)]
        parts.append(f"## {grid.title}\n\n" + "\n".join(lines))
    parts.append("\n".join(f"- {line}" for line in _remarks(benchmark)))
    return "\n\n".join(parts) + "\n"


def _grids(benchmark: Benchmark) -> list[_Grid]:
    grids = [_scores(benchmark.rows)]
    if benchmark.paired:
        grids.append(_pairs(benchmark.paired))
    rows = tuple((c.dataset, c.configuration, ", ".join(c.devices), duration(c.seconds)) for c in benchmark.costs)
    grids.append(_Grid("Training time", ("Dataset", "Configuration", "Device", "Time"), rows, 3))
    return grids


def _scores(rows: Sequence[BenchmarkRow]) -> _Grid:
    methods = tuple(dict.fromkeys(method for row in rows for method in row.published_dice))
    lines = tuple(
        (
            row.dataset,
            row.configuration,
            row.target,
            str(row.dice.num_cases),
            mean_text(row.dice, 4),
            mean_text(row.nsd, 4),
            f"{row.tolerance_mm:g}",
            *(f"{row.published_dice[m]:.4f}" if m in row.published_dice else "" for m in methods),
        )
        for row in rows
    )
    columns = ("Dataset", "Configuration", "Target", "Cases", "Dice", "NSD", "at mm", *(f"{m}, Dice" for m in methods))
    return _Grid("Held-out scores, mean and 95 % interval over cases", columns, lines, 3)


def _pairs(rows: Sequence[PairedRow]) -> _Grid:
    lines = tuple(
        (
            row.dataset,
            row.configuration,
            row.target,
            row.method,
            str(row.difference.num_cases),
            f"{row.ours:.4f}",
            f"{row.theirs:.4f}",
            mean_text(row.difference, 4, signed=True),
            "" if row.p_value is None else f"{row.p_value:.2g}",
        )
        for row in rows
    )
    columns = ("Dataset", "Configuration", "Target", "Method", "Cases", "Ours", "Theirs", "Difference", "Wilcoxon p")
    return _Grid("Paired with published values of the same cases (Dice)", columns, lines, 4)


def _remarks(benchmark: Benchmark) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in benchmark.versions.items())
    folds = {row.dataset: ", ".join(row.folds) for row in benchmark.rows}
    plans = {f"{row.dataset}: plan {row.plan} for {row.planned_for}" for row in benchmark.rows}
    remarks = [
        f"Budget of each dataset, all configurations and folds: {duration(benchmark.budget_seconds)}.",
        "Held-out folds: " + "; ".join(f"{dataset} {names}" for dataset, names in folds.items()) + ".",
        "; ".join(sorted(plans)) + ".",
        f"Made {benchmark.made} with {versions}.",
    ]
    if any(row.published_dice for row in benchmark.rows):
        remarks.append("Published means are over all cases of the full dataset, not only over those scored here.")
    return [*remarks, *benchmark.remarks, *(f"Source: {source}." for source in benchmark.sources)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

"""Commands that set ways side by side: compare-fp."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from autoseg.cli import options as o

if TYPE_CHECKING:
    from autoseg.records.false_positives import FalsePositiveComparison, MethodRow


def compare_fp(
    dataset: o.DatasetArgument,
    configuration: Annotated[
        str | None, typer.Option("-c", "--configuration", help="Whose false positives; default: the selected one's.")
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="Train the ways that are not trained yet.")] = False,
    budget: Annotated[str | None, typer.Option(help="With --train: time for the whole command, e.g. 30m, 2h.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="With --train: instead of the plan's.")] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="With --train: steps an epoch, instead of the plan's.")
    ] = None,
    seed: o.Seed = None,
    objective: Annotated[str, typer.Option(help="What thresholds are chosen by: dice or lesion_f1.")] = "dice",
    plan: o.PlanName = None,
    device: o.Device = "auto",
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Compare the ways of reducing false positives on held-out cases: rules, cascade, second label, classifiers."""
    started = time.monotonic()
    from autoseg.pipeline.showcase import CompareOptions, run_comparison

    options = CompareOptions(
        configuration=configuration,
        train=train,
        budget_seconds=o.parse_duration(budget),
        epochs=epochs,
        iterations=iterations,
        seed=seed,
        plan_name=plan,
        device=device,
        started_seconds=started,
        learning=o.parse_learning(objective),
    )
    comparison = run_comparison(dataset, o.start(work, quiet), options)
    text = f"{_as_text(comparison)}\n{comparison.verdict}\nNext: {_next(dataset, comparison)}"
    o.show(comparison.model_dump(mode="json"), as_json, text)


def _as_text(comparison: FalsePositiveComparison) -> str:
    """Two tables: what each way leaves, and its FROC curve before and after."""
    about = (
        f"{comparison.configuration} of plan {comparison.plan}: {comparison.num_cases} held-out cases of "
        f"{comparison.num_patients} patients; changes with bootstrap 95 % intervals"
    )
    head = f"{'method':32s}{'FP a case':>10s}{'change':>26s}{'lesion sens.':>14s}{'Dice':>8s}{'CPM':>8s}"
    rows = [_row(row) for row in comparison.rows]
    measured = [row for row in comparison.rows if row.is_measured]
    rates = next(iter(measured[0].targets.values())).froc.rates
    curve_head = f"{'FROC: sensitivity at FP a case':32s}" + "".join(f"{rate:>8g}" for rate in rates)
    return "\n".join([about, head, *rows, curve_head, *(_curve(row) for row in measured)])


def _row(row: MethodRow) -> str:
    if not row.is_measured:
        return f"{row.name:32s}  {row.note}"
    change = row.false_positives_change
    changed = "" if change is None else _signed(change.mean)
    if change is not None and change.low is not None:
        changed += f" [{_signed(change.low)}, {_signed(change.high)}]"
    numbers = (
        f"{row.false_positives_per_case:>10.2f}{changed:>26s}{_number(row.lesion_sensitivity):>14s}"
        f"{_number(row.dice):>8s}{_number(row.cpm):>8s}"
    )
    return f"{row.name:32s}{numbers}" + (f"  {row.note}" if row.note else "")


def _curve(row: MethodRow) -> str:
    """Sensitivity at each rate, mean over targets."""
    from autoseg.records.false_positives import mean_sensitivities

    return f"{row.name:32s}" + "".join(f"{value:>8.3f}" for value in mean_sensitivities(row))


def _next(dataset: str, comparison: FalsePositiveComparison) -> str:
    if any(row.note.startswith("not ") for row in comparison.rows):
        return f"autoseg compare-fp {dataset} --train   (trains what is missing), or autoseg select {dataset}"
    return f"autoseg select {dataset}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


COMMANDS = (compare_fp,)

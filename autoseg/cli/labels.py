"""Commands that judge reference labels: audit, raters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoseg.cli import options as o
from autoseg.errors import PartialError, UsageError

if TYPE_CHECKING:
    from autoseg.records.audit import Audit
    from autoseg.records.raters import FusionMethod, Raters, TieRule

_LISTED = 20


def audit(
    dataset: o.DatasetArgument,
    plan: o.PlanName = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, metavar="MM", help="Disagreement this near to a border is fuzz.")
    ] = 2.0,
    pictures: Annotated[int, typer.Option(min=0, help="Suspicions that are drawn at most.")] = 24,
    device: o.Device = "auto",
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Rank training cases whose reference is probably wrong, and say why; before any training by labels alone."""
    from autoseg.pipeline.audit import audit as stage
    from autoseg.pipeline.ingest import ingest
    from autoseg.pipeline.plan import choose_plan

    paths = ingest(dataset, o.start(work, quiet))
    has_plans = any(paths.plans.glob("*.json"))
    record = choose_plan(paths, plan, o.device_kind(device)) if plan is not None or has_plans else None
    found = stage(paths, record, tolerance_mm=tolerance, num_pictures=pictures)
    text = f"{_audit_text(found)}\nNext: open {paths.audit / 'index.html'} in a browser and mend what is wrong"
    o.show(found.model_dump(mode="json"), as_json, text)
    _report_failed(found.failed)


def raters(
    references: Annotated[list[Path], typer.Argument(metavar="REFERENCES...", help="A folder of labels each rater.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the fused labels.")],
    method: Annotated[
        str, typer.Option(help="majority (a vote) or staple (raters weighed by reliability).")
    ] = "majority",
    ties: Annotated[
        str,
        typer.Option(help="Voxels without a winner: first (the first rater's of those tied), background or ignore."),
    ] = "first",
    dataset_json: Annotated[
        Path | None, typer.Option(help="Names of labels and regions; default: values found.")
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """How far several raters agree (Dice), and their labels fused into one folder; exit code 5 if some cases failed."""
    from autoseg.pipeline.raters import raters as stage

    o.start(None, quiet)
    record = stage(references, out, _method(method), _ties(ties), dataset_json)
    text = f"{_raters_text(record)}\nNext: use {out} as the labels of a dataset, then autoseg verify DATASET"
    o.show(record.model_dump(mode="json"), as_json, text)
    _report_failed(record.failed)


def _method(name: str) -> FusionMethod:
    known: dict[str, FusionMethod] = {"majority": "majority", "staple": "staple"}
    if name not in known:
        raise UsageError(f"--method {name}: expected majority or staple.")
    return known[name]


def _ties(name: str) -> TieRule:
    known: dict[str, TieRule] = {"first": "first", "background": "background", "ignore": "ignore"}
    if name not in known:
        raise UsageError(f"--ties {name}: expected first, background or ignore.")
    return known[name]


def _audit_text(found: Audit) -> str:
    """The most suspicious findings, one a line, and what was not looked at."""
    suspicions = [suspicion for case in found.cases for suspicion in case.suspicions]
    rows = [f"{s.score:6.1f}  {s.case}: {s.why}" for s in suspicions[:_LISTED]]
    if len(suspicions) > _LISTED:
        rows.append(f"        and {len(suspicions) - _LISTED} more")
    num_cases = sum(bool(case.suspicions) for case in found.cases)
    return "\n".join([*rows, f"{num_cases} of {len(found.cases)} cases are suspicious.", *found.notes])


def _raters_text(record: Raters) -> str:
    rows = []
    for pair in record.pairs:
        rows.append(f"{pair.first} and {pair.second}: mean Dice {o.interval(pair.foreground_mean)}")
        rows += [f"  {target:24s} {o.interval(mean)}" for target, mean in pair.targets.items()]
    for name, classes in record.sensitivity.items():
        rows.append(f"{name}: sensitivity estimated by STAPLE")
        rows += [f"  {of:24s} {o.interval(mean)}" for of, mean in classes.items()]
    num_tied = sum(record.undecided_voxels.values())
    rows.append(
        f"{len(record.undecided_voxels)} cases fused by {record.method}; {num_tied} voxels tied ({record.ties})."
    )
    return "\n".join(rows)


def _report_failed(failed: dict[str, str]) -> None:
    if failed:
        typer.echo("\n".join(f"failed {case}: {why}" for case, why in failed.items()), err=True)
        raise typer.Exit(PartialError.exit_code)


COMMANDS = (audit, raters)

"""Options that several commands share, and the readers of their values.

Records are imported where they are used, and for types only: all of them together take longer than `--help` may.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoseg import console
from autoseg.errors import UsageError
from autoseg.reporting.intervals import mean_text

if TYPE_CHECKING:
    from autoseg.records.plan import Plan
    from autoseg.records.postprocessing import LearningSettings
    from autoseg.records.results import Aggregate, PostprocessingRule
    from autoseg.records.workspace import Paths

DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="Dataset folder as downloaded, or the name of one in the workspace.")
]
Work = Annotated[
    Path | None, typer.Option("--work", help="Workspace folder; default: AUTOSEG_WORK, else ./autoseg_work.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors only.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Preset = Annotated[
    str,
    typer.Option(
        help="Planning rules: auto, default, small, resenc_m, resenc_l, resenc_xl, mednext_s, mednext_b, mednext_l, "
        "nnunet, nnunet_resenc_m, nnunet_resenc_l, nnunet_resenc_xl."
    ),
]
PlanName = Annotated[str | None, typer.Option("--plan", help="Plan to use, if there are several.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Set any field of the plan, e.g. 3d_fullres.batch_size=4."),
]
GpuMemory = Annotated[float | None, typer.Option("--gpu-memory", metavar="GIB", help="Plan for a card of this size.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Cases handled at a time; default: one a core.")]
PatientRegex = Annotated[
    str | None,
    typer.Option(help="Pattern whose first group is the patient in a case id; patients are never split over folds."),
]
NumFolds = Annotated[
    int | None,
    typer.Option("--folds", min=2, help="Cross-validation folds, fixed when a dataset is first seen; default: 5."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of weights, sampling and augmentation.")]

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def start(work: Path | None, quiet: bool) -> Path:
    """Configure the console and return the workspace folder."""
    from autoseg.records.workspace import find_workspace

    console.configure(quiet=quiet)
    return find_workspace(work)


def parse_duration(text: str | None) -> float | None:
    """`90s`, `15m`, `1h30m` in seconds; None stays None.

    Raises:
        UsageError: no unit, or not a duration.
    """
    if text is None:
        return None
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or not any(match.groups()):
        raise UsageError(
            f"--budget {text}: expected a duration with units, for example 90s, 15m or 1h30m; for `train` and `run` "
            "also auto, or auto:2h."
        )
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if total <= 0:
        raise UsageError(f"--budget {text}: must be longer than nothing.")
    return total


def parse_budget(text: str | None) -> tuple[bool, float | None]:
    """Whether to train until the plateau, and the seconds allowed: of `auto`, `auto:2h`, `15m` or nothing."""
    first, _, rest = (text or "").strip().lower().partition(":")
    if first != "auto":
        return False, parse_duration(text)
    try:
        return True, parse_duration(rest or None)
    except UsageError as error:
        raise UsageError(f"--budget {text}: after auto: stands the longest time, for example auto:2h.") from error


def parse_learning(objective: str, truth: str = "voxels=1") -> LearningSettings:
    """How post-processing is chosen, from `--objective dice` and `--truth voxels=1`; raises UsageError."""
    from autoseg.records.base import parse_record
    from autoseg.records.postprocessing import LearningSettings

    measure, _, value = truth.partition("=")
    try:
        minimum = float(value)
    except ValueError as error:
        raise UsageError(f"--truth {truth}: expected a measure and a number, for example share=0.5.") from error
    content = {"objective": objective, "truth": {"measure": measure, "minimum": minimum}}
    return parse_record(content, LearningSettings, "--objective and --truth", UsageError)


def describe_postprocessing(rule: PostprocessingRule) -> list[str]:
    """A line for each target's rule of components and what it reached; without any, what was tried and why."""
    if rule.components is None:
        return list(rule.reasons)
    rows = ["post-processing, nested cross-validation:"]
    for target in rule.components.targets:
        scores = {score.method: score for score in rule.components.scores if score.target == target.target}
        before, after = scores["nothing"], scores[target.method]
        change = "" if target.method == "nothing" else f" -> {after.false_components_per_case:.2f}"
        rows.append(
            f"  {target.target}: {target.method}; false components a case "
            f"{before.false_components_per_case:.2f}{change}"
        )
    return [*rows, "  (`autoseg report` says what else was tried, and why)"]


def show(value: Any, as_json: bool, text: str) -> None:
    """Print a stage's result: JSON for programs, or `text` for people (on stdout either way)."""
    typer.echo(json.dumps(value, indent=1) if as_json else text)


def device_kind(name: str) -> str:
    """`cpu` or `cuda`, what planning needs to know; imports torch only where the answer depends on the machine."""
    if name.split(":")[0] in ("cpu", "cuda"):
        return name.split(":")[0]
    from autoseg.devices import choose_device

    return choose_device(name).type


def describe_plan(plan: Plan) -> str:
    """Two lines a configuration, for people."""
    from autoseg.planning.step_cost import describe_need, need_of_plan

    rows = [f"plan {plan.name} (preset {plan.preset}, for {plan.planned_for})"]
    for name, c in plan.configurations.items():
        spacing = " x ".join(f"{s:.3g}" for s in c.spacing_mm)
        patch = " x ".join(str(p) for p in c.patch_size)
        features = "-".join(str(f) for f in c.network.features_per_stage)
        rows.append(f"  {name:19s} spacing {spacing} mm, patch {patch}, batch {c.batch_size}, features {features}")
        rows.append(f"  {'':19s} {describe_need(need_of_plan(plan, name))}")
    return "\n".join(rows)


def first_training(paths: Paths, plan: Plan) -> str:
    """The command that trains what a plan should be tried with first; it names the plan where there are several."""
    first = "3d_fullres" if "3d_fullres" in plan.configurations else next(iter(plan.configurations))
    return f"autoseg train {paths.folder.name} {first}{plan_option(paths, plan.name)}"


def plan_option(paths: Paths, plan_name: str) -> str:
    """` --plan NAME` where the dataset has several plans, so that a command that is named next means this one."""
    return "" if len(list(paths.plans.glob("*.json"))) < 2 else f" --plan {plan_name}"


def next_training(paths: Paths, plan: Plan) -> str:
    """The line that names the command after preprocessing."""
    return f"Next: {first_training(paths, plan)}   (add --budget 15m to fit it into a time)"


def interval(aggregate: Aggregate) -> str:
    """A mean with its 95 % interval as text."""
    return mean_text(aggregate, 4, undefined="not defined")

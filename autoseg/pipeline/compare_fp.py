"""Stage: held-out predictions of a configuration and of its rivals in, `false_positives.json` out.

Four ways of reducing false positives on the same cases: rules and classifiers on the components of the configuration's
own segmentations, the cascade's segmentations, and those of the configuration that was taught its false positives.
What is not trained, or was not held out on the same cases, is listed with the reason.
"""

from collections.abc import Mapping, Sequence

from autoseg import console
from autoseg.errors import UsageError
from autoseg.postprocessing.advantage import advantages
from autoseg.postprocessing.effects import untouched
from autoseg.postprocessing.methods import (
    VARIANTS,
    Decisions,
    as_they_are,
    compared,
    decide_nested,
    measured,
    problems_of,
)
from autoseg.postprocessing.rows import Painting, Rows, joined, painting
from autoseg.postprocessing.verdict import verdict
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset
from autoseg.records.distractors import SUFFIX
from autoseg.records.false_positives import FalsePositiveComparison, Method, MethodRow
from autoseg.records.plan import Plan
from autoseg.records.postprocessing import ComponentSettings, LearningSettings
from autoseg.records.results import Selection
from autoseg.records.workspace import Paths
from autoseg.selection.held_out import HeldOut, find_held_out
from autoseg.selection.held_out_components import held_out_rows

CASCADE = "3d_cascade_fullres"
_USUAL = ("3d_fullres", "2d", "3d_lowres")  # whose false positives are looked at when none is named and none selected
_DEFAULT_LEARNING = LearningSettings()


def base_configuration(paths: Paths, plan: Plan, name: str | None) -> str:
    """The configuration whose false positives are to be reduced: the named one, the selected one, or the usual one.

    Raises:
        UsageError: the plan has no such configuration.
    """
    if name is not None:
        if name not in plan.configurations:
            known = ", ".join(plan.configurations)
            raise UsageError(f"Plan {plan.name} has no configuration {name}; it has {known}.")
        return name
    if paths.selection.is_file():
        selection = read_record(paths.selection, Selection)
        chosen = selection.configurations[0].removesuffix(SUFFIX)
        if selection.plan == plan.name and chosen in plan.configurations:
            return chosen
    return next(known for known in (*_USUAL, *plan.configurations) if known in plan.configurations)


def rivals(plan: Plan, base: str) -> dict[Method, str | None]:
    """Configurations that are ways of reducing the base's false positives; None where one does not apply."""
    is_base = base.removesuffix(SUFFIX) != CASCADE
    return {
        "cascade": CASCADE if CASCADE in plan.configurations and is_base else None,
        "second_label": None if base.endswith(SUFFIX) else base + SUFFIX,
    }


def compare_false_positives(
    paths: Paths, plan: Plan, base: str, learning: LearningSettings = _DEFAULT_LEARNING
) -> FalsePositiveComparison:
    """Compare all ways on the cases that `base` held out, and write the comparison.

    Args:
        paths: of the dataset.
        plan: of all configurations.
        base: configuration whose false positives are to be reduced.
        learning: when a component is true and a lesion found, and how rules are fitted.

    Raises:
        UsageError: no cross-validation fold of `base` is trained.
        ModelError: files of a trained fold are missing.
        DataError: an image or a reference cannot be read.
    """
    held_out = find_held_out(paths, plan)
    if base not in held_out:
        raise UsageError(
            f"No cross-validation fold of {base} is trained with plan {plan.name}, so its false positives are not "
            f"known. Run `autoseg train DATASET {base}` first, or add --train."
        )
    cases, how = sorted(held_out[base].folders), painting(plan.labels)
    dataset = read_record(paths.dataset, Dataset)

    def rows_of(name: str) -> Rows:
        tracked = console.track(cases, len(cases), f"components of {name}")
        return joined(
            [
                held_out_rows(case, [held_out[name]], dataset, plan, name, ComponentSettings(), learning)
                for case in tracked
            ]
        )

    own = rows_of(base)
    rows = [measured(own, how, as_they_are(own), "none", configuration=base)]
    rows += _on_components(own, how, base, learning)
    for method, name in rivals(plan, base).items():
        reason = _absence(method, name, held_out, cases)
        if name is None or reason:
            rows.append(MethodRow(method=method, configuration=name or "", note=reason))
            continue
        other = rows_of(name)
        row = measured(other, how, as_they_are(other), method, configuration=name)
        rows.append(compared(row, other, untouched(other), own, how))
    comparison = FalsePositiveComparison(
        plan=plan.name,
        configuration=base,
        num_cases=len(cases),
        num_patients=len(set(own.groups)),
        objective=learning.objective,
        lesions=learning.lesions,
        rows=tuple(rows),
        verdict=verdict(rows, learning.sensitivity_margin),
    )
    write_record(paths.false_positives, comparison)
    return comparison


def _on_components(rows: Rows, how: Painting, base: str, learning: LearningSettings) -> list[MethodRow]:
    """Rules and classifiers on the base's components, classifiers also against the best rule."""
    problems = problems_of(rows, how, learning)
    found: dict[tuple[Method, str], Decisions] = {}
    absent: dict[tuple[Method, str], str] = {}
    for method, variant in console.track(VARIANTS, len(VARIANTS), "rules and classifiers"):
        decisions = decide_nested(rows, problems, variant)
        if isinstance(decisions, str):
            absent[method, variant] = decisions
        else:
            found[method, variant] = decisions
    sides: dict[Method, dict[str, Decisions]] = {"rule": {}, "learned": {}}
    for (method, variant), decisions in found.items():
        sides[method][variant] = decisions
    better = advantages(rows, how, sides["learned"], sides["rule"], learning.sensitivity_margin) if found else {}
    result = []
    for method, variant in VARIANTS:
        if reason := absent.get((method, variant)):
            result.append(MethodRow(method=method, variant=variant, configuration=base, note=reason))
            continue
        decisions = found[method, variant]
        row = compared(measured(rows, how, decisions, method, variant, base), rows, decisions.keep, rows, how)
        result.append(row.model_copy(update={"over_best_rule": better.get(variant, {})}))
    return result


def _absence(method: Method, name: str | None, held_out: Mapping[str, HeldOut], cases: Sequence[str]) -> str:
    """Why a rival has no numbers; empty where it has."""
    if name is None:
        return f"does not apply: {_DOES_NOT_APPLY[method]}"
    if name not in held_out:
        return "not trained; --train trains it"
    missing = sum(case not in held_out[name].folders for case in cases)
    if missing:
        return (
            f"not comparable: {missing} of the {len(cases)} cases are not held out yet; --train trains the other folds"
        )
    return ""


_DOES_NOT_APPLY = {
    "cascade": "the plan has no cascade for it",
    "second_label": "it is itself taught its false positives",
}

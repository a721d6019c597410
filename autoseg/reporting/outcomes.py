"""Evaluations, selection and predictions in, report sections out: how good, which was chosen, what to do next."""

from collections.abc import Mapping, Sequence

from autoseg.metrics.build import case_mean
from autoseg.records.calibration import Calibration
from autoseg.records.results import Evaluation, PostprocessingRule, Selection
from autoseg.records.trust import Trust
from autoseg.reporting.choice import candidate_name, candidate_table, choice_blocks
from autoseg.reporting.examples import Example
from autoseg.reporting.figures import draw_means, draw_scores
from autoseg.reporting.html import Block, Command, Drawing, Folded, Gallery, Paragraph, Picture, Section, Table
from autoseg.reporting.intervals import mean_text

_LISTED = 200
_METRICS = {"dice": "Dice", "iou": "IoU", "nsd": "NSD", "sensitivity": "Sensitivity", "precision": "Precision"}


def scores_section(dataset: str, evaluations: Mapping[str, Evaluation], colours: Mapping[str, str]) -> Section:
    """Out-of-fold scores of each trained configuration (name -> evaluation merged over its folds)."""
    if not evaluations:
        why = "No fold has been trained and validated yet; the plan above lists the configurations:"
        hint = Command(f"autoseg train {dataset} CONFIGURATION", why)
        return Section("scores", "Scores on held-out cases", (hint,))
    blocks: list[Block] = [
        Paragraph(
            "Every case was predicted, as a whole volume, by a model that never saw it. Means over cases with "
            "bootstrap 95 % intervals; a case in which a target is in neither reference nor prediction does not count."
        )
    ]
    for name, evaluation in evaluations.items():
        values = {target: _defined(evaluation, target) for target in evaluation.targets}
        means = {target: aggregates["dice"] for target, aggregates in evaluation.targets.items()}
        caption = f"{name}: Dice of each case (dots) and mean with interval (diamond); {len(evaluation.cases)} cases."
        blocks.append(Drawing(draw_scores(values, means, colours, "Dice"), caption))
        blocks.append(_metric_table(name, evaluation))
        blocks.append(Folded(f"Every case, {name}", (_case_table(evaluation),)))
        if evaluation.failed:
            failed = tuple(evaluation.failed.items())
            blocks.append(Table(("Case that could not be scored", "Why"), failed, num_text_columns=2))
    return Section("scores", "Scores on held-out cases", tuple(blocks))


def selection_section(
    dataset: str,
    selection: Selection | None,
    rule: PostprocessingRule | None,
    calibration: Calibration | None = None,
    trust: Trust | None = None,
) -> Section:
    """What was compared, what predicts from now on, what is known about it, and how its output is cleaned."""
    if selection is None:
        hint = Command(f"autoseg select {dataset}", "Trained folds with held-out cases have not been compared yet:")
        return Section("selection", "Chosen model", (hint,))
    rows = {candidate_name(candidate): candidate.dice for candidate in selection.candidates}
    chosen = " + ".join(selection.configurations)
    blocks: list[Block] = [Paragraph(f"{chosen} predicts from now on (plan {selection.plan}).")]
    if rows:
        caption = "Mean foreground Dice over held-out cases with 95 % interval; the chosen one is coloured."
        blocks.append(Drawing(draw_means(rows, "Dice", chosen), caption))
        blocks.append(candidate_table(selection))
    blocks += choice_blocks(selection, calibration, trust)
    if rule is not None and rule.components is None:
        if rule.reasons:
            reasons = tuple((reason,) for reason in rule.reasons)
            blocks.append(Table(("Post-processing rules that were tried",), reasons))
        if rule.changes_nothing:
            blocks.append(Paragraph("No component is removed from predictions."))
    return Section("selection", "Chosen model", tuple(blocks))


def examples_section(examples: Sequence[Example], colours: Mapping[str, str], configuration: str) -> Section:
    """Pictures of the worst, middle and best held-out cases."""
    pictures = []
    for example in examples:
        scores = ", ".join(
            f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in example.scores.items()
        )
        caption = f"{example.rank}: {example.case}, {example.where}. Dice: {scores}."
        pictures.append(Picture(example.uri, caption, f"Slice of {example.case} with contours"))
    blocks: tuple[Block, ...] = (
        Paragraph(
            f"Held-out cases of {configuration}, ordered by mean Dice. Solid and coloured: prediction; dashed and "
            "white: reference. Shown is the slice with the most wrong voxels, counting a quarter of the labelled ones."
        ),
        Gallery(tuple(pictures), tuple(colours.items())),
    )
    return Section("cases", "Worst, middle and best cases", blocks)


def predictions_section(dataset: str, names: Sequence[str], num_test: int) -> Section | None:
    """Segmentations of the test cases; None for a dataset that has none."""
    if not names and not num_test:
        return None
    if not names:
        hint = Command(
            f"autoseg predict -i IMAGES -o OUT {dataset}", f"Test cases that have not been predicted yet, {num_test}:"
        )
        return Section("predictions", "Predictions", (hint,))
    rows = tuple((name,) for name in names[:_LISTED])
    more = f" The first {_LISTED} are listed." if len(names) > _LISTED else ""
    blocks = (
        Paragraph(f"{len(names)} segmentations lie in the folder predictions beside this report.{more}"),
        Folded("Files", (Table(("File",), rows),)),
    )
    return Section("predictions", "Predictions", blocks)


def provenance_section(commands: Sequence[tuple[str, str]], facts: Sequence[tuple[str, str]]) -> Section:
    """How to make the same again: commands (text, why) and versions (name, value)."""
    blocks: list[Block] = [Command(text, why) for text, why in commands]
    blocks.append(Table(("", ""), tuple(facts), num_text_columns=2))
    return Section("provenance", "How this was made", tuple(blocks))


def next_section(steps: Sequence[tuple[str, str]]) -> Section:
    """What the reader can do next: (command, why)."""
    return Section("next", "What next", tuple(Command(command, why) for command, why in steps))


def _defined(evaluation: Evaluation, target: str) -> list[float]:
    scores = (case[target].dice for case in evaluation.cases.values() if target in case)
    return [score for score in scores if score is not None]


def _metric_table(name: str, evaluation: Evaluation) -> Table:
    used = [metric for metric in _METRICS if metric in evaluation.foreground_mean]
    rows = [
        (target, str(aggregates["dice"].num_cases), *(mean_text(aggregates[metric]) for metric in used))
        for target, aggregates in evaluation.targets.items()
    ]
    mean = evaluation.foreground_mean
    rows.append(("mean of targets", str(mean["dice"].num_cases), *(mean_text(mean[metric]) for metric in used)))
    return Table((name, "Cases", *(_METRICS[metric] for metric in used)), tuple(rows))


def _case_table(evaluation: Evaluation) -> Table:
    targets = list(evaluation.targets)
    means = {case: case_mean(scores) for case, scores in evaluation.cases.items()}
    ordered = sorted(evaluation.cases, key=lambda case: (means[case] is None, means[case] or 0.0, case))
    rows = tuple(
        (case, _number(means[case]), *(_number(evaluation.cases[case][target].dice) for target in targets))
        for case in ordered
    )
    return Table(("Case", "Mean Dice", *targets), rows, "Worst first.")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

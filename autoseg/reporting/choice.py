"""Selection, calibration and trust in, lines for the terminal and blocks of the report out."""

from collections.abc import Sequence
from math import exp

from autoseg.records.calibration import Calibration
from autoseg.records.results import Aggregate, Candidate, Selection
from autoseg.records.selection import Cost
from autoseg.records.trust import QualityModel, Trust
from autoseg.reporting.figures import draw_risk_coverage
from autoseg.reporting.html import Block, Drawing, Paragraph, Table
from autoseg.reporting.intervals import mean_text

_COST_NOTE = (
    "Seconds a case: time in the networks of all folds, on the device of the training; with ~ it is estimated from the "
    "time of a training step."
)


def choice_lines(selection: Selection, calibration: Calibration, trust: Trust) -> list[str]:
    """What `select` prints: candidates with their cost, the reasons of the choice, calibration and quality."""
    name = selection.objective.name
    rows = [
        f"{candidate_name(c):45s} {name} {mean_text(_compared(c))}"
        + ("" if name == "dice" else f"  Dice {mean_text(c.dice)}")
        + f"  {cost_text(c.cost)} s a case"
        + ("   <- chosen" if c.configurations == selection.configurations else "")
        for c in selection.candidates
    ]
    return [*rows, *selection.reasons, *_calibration_lines(calibration), *_trust_lines(trust)]


def candidate_table(selection: Selection) -> Table:
    """Every candidate with objective, Dice of each target, and cost."""
    candidates, name = selection.candidates, selection.objective.name
    targets = list(candidates[0].targets)
    with_objective = name != "dice"
    rows = tuple(
        (
            candidate_name(c),
            *((mean_text(_compared(c)),) if with_objective else ()),
            mean_text(c.dice),
            *(mean_text(c.targets[t]) for t in targets),
            cost_text(c.cost),
        )
        for c in candidates
    )
    columns = ("Candidate", *((name,) if with_objective else ()), "Mean Dice", *targets, "Seconds a case")
    return Table(columns, rows, _COST_NOTE)


def choice_blocks(selection: Selection, calibration: Calibration | None, trust: Trust | None) -> list[Block]:
    """Why this candidate, how calibrated it is, and what is known about single predictions."""
    blocks: list[Block] = []
    if selection.reasons:
        blocks.append(Table(("How it was chosen",), tuple((reason,) for reason in selection.reasons)))
    if calibration is not None and calibration.plan == selection.plan:
        blocks.append(_calibration_table(calibration))
    if trust is not None and trust.decided_by == selection.decided_by:
        blocks += _trust_blocks(trust)
    return blocks


def candidate_name(candidate: Candidate) -> str:
    """Its configurations."""
    return " + ".join(candidate.configurations)


def cost_text(cost: Cost | None) -> str:
    """Seconds, with ~ where they are estimated."""
    return "-" if cost is None else f"{'' if cost.is_measured else '~'}{cost.seconds:.3g}"


def _compared(candidate: Candidate) -> Aggregate:
    return candidate.dice if candidate.objective is None else candidate.objective


def _calibration_lines(calibration: Calibration) -> list[str]:
    lines = []
    for name, known in calibration.configurations.items():
        temperatures = _temperatures([fold.temperature for fold in known.folds.values()])
        before, after = known.before, known.after
        change = (
            f": ECE {_number(before.ece)} -> {_number(after.ece)}, Brier {_number(before.brier)} -> "
            f"{_number(after.brier)} ({known.num_cases} cases, each with the temperature of others)"
            if known.num_cases
            else "; one held-out case a fold, so what it mends cannot be told"
        )
        lines.append(f"calibration of {name}: temperature {temperatures}{change}")
    return lines


def _calibration_table(calibration: Calibration) -> Table:
    rows = tuple(
        (
            name,
            _temperatures([fold.temperature for fold in known.folds.values()]),
            _number(known.before.ece),
            _number(known.after.ece),
            _number(known.before.brier),
            _number(known.after.brier),
            str(known.num_cases),
        )
        for name, known in calibration.configurations.items()
    )
    columns = ("Calibration", "Temperature", "ECE before", "after", "Brier before", "after", "Cases")
    caption = (
        "Each fold's logits are divided by its temperature before folds and configurations are averaged. Figures are "
        "means over held-out cases and all voxels of their boxes; each case was scored with a temperature that was "
        "fitted on other cases."
    )
    return Table(columns, rows, caption, num_text_columns=2)


def _trust_lines(trust: Trust) -> list[str]:
    lines = list(trust.notes)
    if trust.quality is not None:
        scores = trust.quality.scores
        lines.append(
            f"predicted Dice: area under the risk-coverage curve {scores.predicted.area:.4f} (mean probability "
            f"{scores.mean_probability.area:.4f}, random {scores.random.area:.4f}, perfect {scores.perfect.area:.4f}; "
            f"{scores.num_cases} cases, nested cross-validation); {_learned(trust.quality)}; {_flagged(trust.quality)}"
        )
    return lines


def _trust_blocks(trust: Trust) -> list[Block]:
    blocks: list[Block] = []
    if trust.quality is not None:
        blocks.append(Drawing(draw_risk_coverage(_curves(trust.quality)), _quality_caption(trust.quality)))
    rows = tuple(
        (name, f"{interval.level:.0%}", str(interval.num_cases), _half_width(interval.log_ratio))
        for name, interval in trust.volumes.items()
    )
    caption = (
        "Conformal intervals of volumes: the true volume of a new case lies within these factors of the segmented."
    )
    blocks.append(Table(("Volume", "Level", "Cases", "Factors"), rows, caption))
    return blocks + [Paragraph(note) for note in trust.notes]


def _curves(quality: QualityModel) -> dict[str, Sequence[float]]:
    scores = quality.scores
    return {
        f"predicted Dice ({scores.predicted.area:.3f})": scores.predicted.risks,
        f"mean probability ({scores.mean_probability.area:.3f})": scores.mean_probability.risks,
        f"random ({scores.random.area:.3f})": scores.random.risks,
        f"perfect ({scores.perfect.area:.3f})": scores.perfect.risks,
    }


def _quality_caption(quality: QualityModel) -> str:
    return (
        "Predicted quality: mean of 1 - Dice over the share of held-out cases that is trusted most, in nested "
        "cross-validation; lower is better, in brackets the area under the curve. The Dice is predicted from "
        f"{', '.join(name.replace('_', ' ') for name in quality.features)}, with a mean absolute error of "
        f"{quality.scores.mean_absolute_error:.3f}; {_flagged(quality)}. "
        f"Learned from it: {_learned(quality)}."
    )


def _flagged(quality: QualityModel) -> str:
    if quality.flag_below is None:
        return "no better than chance, so nothing is flagged"
    return f"predictions below {quality.flag_below:.3f} are flagged"


def _learned(quality: QualityModel) -> str:
    gain = mean_text(quality.scores.gain)
    if len(quality.features) > 1:
        return f"all features are better than mean probability alone by {gain}"
    return f"mean probability alone, since all features are better by {gain}, which is not clearly above zero"


def _half_width(log_ratio: float | None) -> str:
    if log_ratio is None:
        return "too few cases"
    return f"{exp(-log_ratio):.2f} to {exp(log_ratio):.2f}"


def _temperatures(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"


def _number(aggregate: Aggregate) -> str:
    return "-" if aggregate.mean is None else f"{aggregate.mean:.4f}"

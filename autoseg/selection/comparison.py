"""Our held-out scores and someone's published per-case scores in, paired comparisons out.

Pairing by case removes what is common to both, the difficulty of the case: a difference of 0.003 Dice is then visible
with a hundred cases, where two unpaired means would need thousands.
"""

from collections.abc import Mapping, Sequence

from autoseg.errors import DataError
from autoseg.metrics.statistics import compare_paired
from autoseg.records.benchmark import PairedRow
from autoseg.records.results import Evaluation, ReferenceScores

MEAN = "mean of targets"


def parse_reference(content: object, targets: Sequence[str], where: str) -> dict[str, ReferenceScores]:
    """Read published per-case Dice values.

    Args:
        content: JSON `{"source": text, "dice": {method: {case: [Dice of each target, or null]}}}`.
        targets: names of the dataset's targets, in label order.
        where: name of the file, for messages.

    Returns:
        Method -> its scores.

    Raises:
        DataError: the content has another form, or another number of targets.
    """
    if not isinstance(content, dict) or not isinstance(content.get("dice"), dict):
        raise DataError(f'{where}: expected {{"source": ..., "dice": {{method: {{case: [Dice of each class]}}}}}}.')
    source = str(content.get("source", where))
    return {
        str(method): ReferenceScores(source=source, cases=_parse_cases(cases, targets, f"{where}, {method}"))
        for method, cases in content["dice"].items()
    }


def compare_with_reference(
    evaluation: Evaluation, reference: ReferenceScores, dataset: str, configuration: str, method: str
) -> list[PairedRow]:
    """Compare case by case: the mean over targets first, then each target.

    A target counts in a case only where both have a Dice for it; a case's mean is over those targets.

    Args:
        evaluation: our scores.
        reference: theirs.
        dataset: name for the rows.
        configuration: name for the rows.
        method: name for the rows.

    Returns:
        Rows; none for a target without a case in common.
    """
    targets = list(evaluation.targets)
    pairs = {case: _common(evaluation, reference, case, targets) for case in sorted(evaluation.cases)}
    columns: dict[str, list[tuple[float, float]]] = {MEAN: [_mean(both) for both in pairs.values() if both]}
    for target in targets:
        columns[target] = [both[target] for both in pairs.values() if target in both]
    rows = []
    for target, values in columns.items():
        if not values:
            continue
        ours, theirs = [a for a, _ in values], [b for _, b in values]
        comparison = compare_paired(ours, theirs)
        rows.append(
            PairedRow(
                dataset=dataset,
                configuration=configuration,
                method=method,
                target=target,
                ours=sum(ours) / len(ours),
                theirs=sum(theirs) / len(theirs),
                difference=comparison.difference,
                p_value=comparison.p_value,
            )
        )
    return rows


def _common(
    evaluation: Evaluation, reference: ReferenceScores, case: str, targets: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Target -> (ours, theirs) where both are defined in a case."""
    theirs, both = reference.cases.get(case, {}), {}
    for target in targets:
        score = evaluation.cases[case].get(target)
        if score is not None and score.dice is not None and target in theirs:
            both[target] = (score.dice, theirs[target])
    return both


def _mean(both: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    ours, theirs = zip(*both.values(), strict=True)
    return sum(ours) / len(ours), sum(theirs) / len(theirs)


def _parse_cases(cases: object, targets: Sequence[str], where: str) -> dict[str, dict[str, float]]:
    if not isinstance(cases, dict):
        raise DataError(f"{where}: expected an object of case -> list of Dice values.")
    parsed = {}
    for case, values in cases.items():
        if not isinstance(values, list) or len(values) != len(targets):
            raise DataError(f"{where}, {case}: expected {len(targets)} values ({', '.join(targets)}), found {values}.")
        if not all(value is None or (isinstance(value, int | float) and 0 <= value <= 1) for value in values):
            raise DataError(f"{where}, {case}: expected Dice values from 0 to 1 or null, found {values}.")
        parsed[str(case)] = {t: float(v) for t, v in zip(targets, values, strict=True) if v is not None}
    return parsed

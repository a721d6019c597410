"""Every candidate's values in every case in, the candidates in order and the reasons of the choice out.

Among single configurations the highest mean of the objective wins; of those within 1e-4 of it, which is far below what
cases scatter, the cheapest. A bigger ensemble must earn its cost: size after size, the best ensemble of that size is
compared with what stands so far, case by case, and takes its place only if the bootstrap 95 % interval of the mean
difference lies above zero (`metrics.statistics.compare_paired`). With a single case there is no interval, so nothing
bigger is taken.
"""

from collections.abc import Mapping, Sequence

from autoseg.metrics.statistics import aggregate, compare_paired
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Aggregate, Candidate
from autoseg.records.selection import Cost, Objective
from autoseg.selection.ensembles import Members
from autoseg.selection.objectives import Scores, objective_value

TIE = 1e-4
_DICE = Objective()


def rank(
    cases: Mapping[str, Mapping[Members, Scores]],
    labels: LabelScheme,
    objective: Objective,
    costs: Mapping[str, Cost | None],
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """Choose among configurations and ensembles by their scores on the same held-out cases.

    Args:
        cases: case id -> subset -> target -> scores.
        labels: scheme with the targets.
        objective: by what they are compared.
        costs: configuration -> what one case costs in seconds; None: unknown.

    Returns:
        All candidates, the chosen one first and the others by falling objective; and the reasons of the choice.
    """
    names = sorted(cases)
    values = {
        members: [objective_value(objective, cases[case][members]) for case in names] for members in cases[names[0]]
    }
    candidates = {
        members: Candidate(
            configurations=members,
            dice=aggregate([objective_value(_DICE, cases[case][members]) for case in names]),
            targets={t.name: aggregate([cases[case][members][t.name].dice for case in names]) for t in labels.targets},
            objective=aggregate(values[members]),
            cost=_total([costs.get(name) for name in members]),
        )
        for members in values
    }
    chosen, reasons = _choose(candidates, values, objective)
    others = sorted((c for members, c in candidates.items() if members != chosen), key=lambda c: -_mean(c))
    return (candidates[chosen], *others), tuple(reasons)


def _choose(
    candidates: Mapping[Members, Candidate], values: Mapping[Members, Sequence[float | None]], objective: Objective
) -> tuple[Members, list[str]]:
    chosen = _best_of_size(candidates, 1)
    reasons = [f"{_name(chosen)}: best single configuration, {objective.name} {_text(candidates[chosen].objective)}"]
    for size in range(2, max(len(members) for members in candidates) + 1):
        bigger = _best_of_size(candidates, size)
        difference = compare_paired(values[bigger], values[chosen]).difference
        change = f"{_name(bigger)} against {_name(chosen)}: {objective.name} {_text(difference, signed=True)}"
        cost = _added_cost(candidates[bigger].cost, candidates[chosen].cost)
        if difference.low is not None and difference.low > 0:
            reasons.append(f"{change}{cost}; taken, the interval lies above zero")
            chosen = bigger
        elif difference.low is None:
            reasons.append(f"{change}{cost}; not taken, one case gives no interval")
        else:
            reasons.append(f"{change}{cost}; not taken, the interval does not lie above zero")
    return chosen, reasons


def _best_of_size(candidates: Mapping[Members, Candidate], size: int) -> Members:
    """The best candidate of so many configurations; of those that are as good, the cheapest."""
    own = {members: candidate for members, candidate in candidates.items() if len(members) == size}
    best = max(_mean(candidate) for candidate in own.values())
    equal = [members for members, candidate in own.items() if _mean(candidate) >= best - TIE]
    return min(equal, key=lambda members: (_seconds(own[members]), -_mean(own[members])))


def _total(costs: Sequence[Cost | None]) -> Cost | None:
    """Cost of an ensemble; None when that of a member is not known."""
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return None
    return Cost(seconds=sum(cost.seconds for cost in known), is_measured=all(cost.is_measured for cost in known))


def _seconds(candidate: Candidate) -> float:
    return float("inf") if candidate.cost is None else candidate.cost.seconds


def _mean(candidate: Candidate) -> float:
    """Mean of the objective; a candidate for which it is defined in no case comes last."""
    assert candidate.objective is not None
    return -1.0 if candidate.objective.mean is None else candidate.objective.mean


def _added_cost(bigger: Cost | None, smaller: Cost | None) -> str:
    if bigger is None or smaller is None:
        return ""
    about = "" if bigger.is_measured and smaller.is_measured else "about "
    return f" for {about}{bigger.seconds:.3g} instead of {smaller.seconds:.3g} s a case"


def _name(members: Members) -> str:
    return " + ".join(members)


def _text(aggregate: Aggregate | None, signed: bool = False) -> str:
    form = "+.4f" if signed else ".4f"
    if aggregate is None or aggregate.mean is None:
        return "not defined"
    if aggregate.low is None or aggregate.high is None:
        return format(aggregate.mean, form)
    return f"{aggregate.mean:{form}} [{aggregate.low:{form}}, {aggregate.high:{form}}]"

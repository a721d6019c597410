"""Ranking: the best single one, and bigger ensembles only where the interval of their gain lies above zero."""

import numpy as np
import pytest

from autoseg.metrics.build import score_counts
from autoseg.metrics.overlap import Counts
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Score
from autoseg.records.selection import Cost, Objective, ObjectiveTerm
from autoseg.selection.ranking import rank

ONE = LabelScheme(class_names=("background", "a"), class_values=(0, 1), num_entries=2)
TWO = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=3)
DICE = Objective()


NOTHING = score_counts(Counts(0, 0, 0, 0), 1.0)


def score(**values: float | None) -> Score:
    """A score of which only the given values matter."""
    return NOTHING.model_copy(update=values)


def cases(**columns):
    """Case -> subset -> scores, from `x=[...]`, `xy=[...]` (one letter a configuration) of Dice of class a."""
    num = len(next(iter(columns.values())))
    return {
        f"case_{n:03d}": {tuple(key): {"a": score(dice=values[n])} for key, values in columns.items()}
        for n in range(num)
    }


def costs(**seconds):
    return {name: Cost(seconds=value, is_measured=True) for name, value in seconds.items()}


def planted(gain: float, scatter: float, num: int = 24, seed: int = 0) -> dict:
    """An ensemble that is better by `gain` on average; cases differ by far more than that."""
    rng = np.random.default_rng(seed)
    single = rng.uniform(0.4, 0.9, num)
    return cases(x=single, y=single - 0.1, xy=single + gain + scatter * rng.standard_normal(num))


def test_the_best_single_one_comes_first_and_the_others_follow_by_their_mean() -> None:
    values = cases(x=[0.5, 0.5], y=[0.9, 0.9], xy=[0.8, 0.8])
    ranked, reasons = rank(values, ONE, DICE, costs(x=1, y=1))
    assert [c.configurations for c in ranked] == [("y",), ("x", "y"), ("x",)]
    assert ranked[0].dice.mean == pytest.approx(0.9)
    assert ranked[0].objective == ranked[0].dice
    assert reasons[0].startswith("y: best single configuration, dice 0.9000")
    assert "not taken" in reasons[1]


def test_a_planted_gain_is_taken_and_its_reason_names_interval_and_cost() -> None:
    ranked, reasons = rank(planted(0.03, 0.03), ONE, DICE, costs(x=2.0, y=3.0))
    assert ranked[0].configurations == ("x", "y")
    assert ranked[0].cost == Cost(seconds=5.0, is_measured=True)
    assert reasons[1].startswith("x + y against x: dice +0.0")
    assert "for 5 instead of 2 s a case; taken, the interval lies above zero" in reasons[1]


def test_a_gain_within_the_scatter_is_not_taken_though_its_mean_is_higher() -> None:
    values = planted(0.01, 0.08, seed=3)
    ranked, reasons = rank(values, ONE, DICE, costs(x=2.0, y=3.0))
    by_name = {c.configurations: c for c in ranked}
    assert by_name["x", "y"].dice.mean > by_name[("x",)].dice.mean
    assert ranked[0].configurations == ("x",)
    assert "not taken, the interval does not lie above zero" in reasons[1]


def test_without_any_true_gain_an_ensemble_is_rarely_taken() -> None:
    """Three configurations, three pairs and the triple, all equally good: the best of each size is picked by luck."""
    taken = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        common = rng.uniform(0.4, 0.9, 20)
        columns = {key: common + 0.05 * rng.standard_normal(20) for key in ("x", "y", "z", "xy", "xz", "yz", "xyz")}
        taken += len(rank(cases(**columns), ONE, DICE, {})[0][0].configurations) > 1
    assert taken <= 4


def test_three_are_compared_with_what_stands_after_two() -> None:
    rng = np.random.default_rng(1)
    single = rng.uniform(0.4, 0.8, 20)
    noise = lambda: 0.005 * rng.standard_normal(20)  # noqa: E731
    columns = dict.fromkeys(("y", "z", "xz", "yz"), single - 0.2)
    columns |= {"x": single, "xy": single + 0.1 + noise(), "xyz": single + 0.1 + noise()}
    ranked, reasons = rank(cases(**columns), ONE, DICE, {})
    assert ranked[0].configurations == ("x", "y")
    assert reasons[2].startswith("x + y + z against x + y: dice")
    assert "not taken" in reasons[2]


def test_one_case_gives_no_interval_so_nothing_bigger_is_taken() -> None:
    ranked, reasons = rank(cases(x=[0.5], xy=[0.9], y=[0.4]), ONE, DICE, {})
    assert ranked[0].configurations == ("x",)
    assert "one case gives no interval" in reasons[1]


def test_of_equal_single_ones_the_cheapest_is_taken() -> None:
    values = cases(x=[0.80005, 0.8], y=[0.8, 0.8], xy=[0.8, 0.8])
    assert rank(values, ONE, DICE, costs(x=9.0, y=2.0))[0][0].configurations == ("y",)
    assert rank(values, ONE, DICE, costs(x=2.0, y=9.0))[0][0].configurations == ("x",)
    assert rank(values, ONE, DICE, {"x": None, "y": None})[0][0].configurations == ("x",)
    assert rank(values, ONE, DICE, costs(x=2.0))[0][1].cost is None


def test_the_objective_decides_not_the_dice() -> None:
    values = {
        f"case_{n}": {
            ("x",): {"a": score(dice=0.9, nsd=0.2), "b": score(dice=0.5, nsd=0.2)},
            ("y",): {"a": score(dice=0.6, nsd=0.9), "b": score(dice=0.7, nsd=0.9)},
            ("x", "y"): {"a": score(dice=0.6, nsd=0.1), "b": score(dice=0.6, nsd=0.1)},
        }
        for n in range(3)
    }

    def best(*terms: ObjectiveTerm) -> tuple[str, ...]:
        return rank(values, TWO, Objective(terms=terms), {})[0][0].configurations

    assert best(ObjectiveTerm(metric="dice")) == ("x",)
    assert best(ObjectiveTerm(metric="nsd")) == ("y",)
    assert best(ObjectiveTerm(metric="dice", target="b")) == ("y",)
    assert best(ObjectiveTerm(metric="dice", target="a"), ObjectiveTerm(metric="dice", target="b", weight=3)) == ("y",)
    chosen = rank(values, TWO, Objective(terms=(ObjectiveTerm(metric="nsd"),)), {})[0][0]
    assert chosen.objective.mean == pytest.approx(0.9)
    assert chosen.dice.mean == pytest.approx(0.65)


def test_cases_in_which_the_objective_is_not_defined_do_not_count() -> None:
    ranked, _ = rank(cases(x=[0.9, None], y=[0.5, 0.1], xy=[0.4, 0.0]), ONE, DICE, {})
    assert ranked[0].dice.num_cases == 1
    assert ranked[0].dice.mean == pytest.approx(0.9)

"""What is said of a table of ways."""

import pytest

from autoseg.postprocessing.verdict import verdict
from autoseg.records.false_positives import Advantage, Change, Method, MethodRow

SURE, UNSURE = Change(mean=-1.0, low=-2.0, high=-0.5), Change(mean=-1.0, low=-2.0, high=0.1)


def row(
    method: Method,
    rate: float | None,
    sensitivity: float = 0.9,
    variant: str = "",
    change: Change = SURE,
    **more: object,
) -> MethodRow:
    given = {"dice": 0.8, **more}
    return MethodRow(
        method=method,
        variant=variant,
        false_positives_per_case=rate,
        lesion_sensitivity=sensitivity,
        false_positives_change=change,
        **given,  # type: ignore[arg-type]
    )


NONE = row("none", 4.0)


def test_the_fewest_false_positives_at_little_cost() -> None:
    rows = [
        NONE,
        row("rule", 2.0, 0.89, "minimum_volume"),
        row("rule", 0.5, 0.5, "keep_largest"),
        row("learned", 1.0, 0.885, "boosting", dice=0.82),
        row("cascade", None),
    ]
    text = verdict(rows, 0.02)
    assert text.startswith(
        "learned (boosting) leaves the fewest false positives of the ways that lose at most 2 points"
    )
    assert "1.00 a case instead of 4.00 (-75 %), lesion sensitivity 0.885 instead of 0.900, Dice 0.820" in text
    assert "The best simple rule, minimum_volume, leaves 2.00. Not compared: cascade." in text
    assert "chance" not in text
    assert verdict(rows, 0.5).startswith("rule (keep_largest)")


def test_what_may_be_chance_and_what_costs_dice_is_said() -> None:
    assert "may be chance" in verdict([NONE, row("cascade", 3.0, change=UNSURE)], 0.02)
    falling = Change(mean=-0.1, low=-0.2, high=-0.01)
    assert "costs Dice, beyond chance" in verdict([NONE, row("cascade", 3.0, dice_change=falling)], 0.02)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([NONE, row("rule", 1.0, 0.5)], "No way leaves fewer false positives without losing more than 2 points"),
        ([NONE, row("rule", 4.0)], "No way leaves fewer"),
        ([row("none", 0.0), row("rule", 0.0)], "There are no false positives to reduce."),
        ([row("none", None)], "Nothing could be compared."),
    ],
)
def test_when_there_is_nothing_to_recommend(rows: list[MethodRow], expected: str) -> None:
    assert verdict(rows, 0.02).startswith(expected)


def test_better_than_the_best_rule_beyond_chance_or_not() -> None:
    rule = row("rule", 1.0, variant="minimum_volume")
    better = Advantage(rule="minimum_volume", change=Change(mean=0.02, low=0.01, high=0.03))
    unsure = Advantage(rule="minimum_volume", change=Change(mean=0.02, low=-0.01, high=0.05))
    learned = row("learned", 1.0, variant="logistic", over_best_rule={"dice": better, "cpm": unsure})
    text = verdict([NONE, rule, learned], 0.02)
    assert "beyond chance: logistic over minimum_volume in Dice by 0.0200 [0.0100, 0.0300]." in text
    learned = row("learned", 1.0, variant="logistic", over_best_rule={"dice": unsure})
    assert "No classifier is better than the best simple rule beyond chance." in verdict([NONE, rule, learned], 0.02)
    # What a way gains by losing lesions is no gain.
    careless = row("learned", 1.0, sensitivity=0.5, variant="logistic", over_best_rule={"dice": better})
    assert "beyond chance" not in verdict([NONE, rule, careless], 0.02)

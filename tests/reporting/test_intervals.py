"""Text of means: with and without an interval, signed, undefined."""

from autoseg.records.results import Aggregate
from autoseg.reporting.intervals import mean_text


def test_a_mean_with_its_interval() -> None:
    score = Aggregate(mean=0.88412, low=0.8719, high=0.8951, num_cases=5)
    assert mean_text(score) == "0.884 [0.872, 0.895]"
    assert mean_text(score, 4, signed=True) == "+0.8841 [+0.8719, +0.8951]"


def test_what_is_not_defined_is_said() -> None:
    assert mean_text(Aggregate(mean=0.5, low=None, high=None, num_cases=1)) == "0.500"
    nothing = Aggregate(mean=None, low=None, high=None, num_cases=0)
    assert (mean_text(nothing), mean_text(nothing, undefined="not defined")) == ("-", "not defined")

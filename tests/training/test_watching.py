"""Which cases are watched, and the rule of the plateau by hand; their Dice itself is tested in `tests/pipeline`."""

import pytest

from autoseg.errors import UsageError
from autoseg.records.course import Watch
from autoseg.records.results import EpochRecord
from autoseg.training.watching import choose_watched, has_plateaued, warn_of_few_looks

CASES = tuple(f"case_{number}" for number in range(10))


def test_watched_cases_are_some_and_the_same_for_a_seed() -> None:
    chosen = choose_watched(CASES, Watch(cases=3), 5)
    assert len(set(chosen)) == 3
    assert set(chosen) < set(CASES)
    assert choose_watched(CASES, Watch(cases=3), 5) == chosen
    assert any(choose_watched(CASES, Watch(cases=3), seed) != chosen for seed in range(6, 9))
    assert choose_watched(CASES, Watch(), 5) == choose_watched((), Watch(), 5) == ()


@pytest.mark.parametrize("count", [10, 11])
def test_something_must_be_left_to_train_on(count: int) -> None:
    with pytest.raises(UsageError, match="10 training cases"):
        choose_watched(CASES, Watch(cases=count), 5)


@pytest.mark.parametrize(("cases", "advice"), [(CASES[:1], "cases=0`"), (CASES[:2], "cases=1`")])
def test_what_is_advised_would_be_accepted(cases: tuple[str, ...], advice: str) -> None:
    with pytest.raises(UsageError, match=advice):
        choose_watched(cases, Watch(cases=len(cases)), 5)


def _history(looks: list[float | None]) -> list[EpochRecord]:
    return [
        EpochRecord(epoch=n, steps=n + 1, train_loss=0.5, learning_rate=0.1, seconds=1.0, watch_dice=look)
        for n, look in enumerate(looks)
    ]


def test_the_plateau_by_hand() -> None:
    watch = Watch(cases=2, window=1, patience=2, min_gain=0.01)
    assert not has_plateaued(_history([]), watch)
    assert not has_plateaued(_history([0.5, 0.5]), watch)  # patience needs two looks after the best
    assert has_plateaued(_history([0.5, 0.5, 0.505]), watch)
    assert not has_plateaued(_history([0.5, 0.5, 0.511]), watch)
    assert not has_plateaued(_history([0.5, 0.52, 0.5]), watch)
    assert has_plateaued(_history([0.5, 0.52, 0.5, 0.5]), watch)
    assert has_plateaued(_history([0.5, None, 0.4, None, 0.4]), watch)  # epochs without a look do not count


def test_a_lucky_look_is_averaged_away() -> None:
    looks = [0.5, 0.5, 0.5, 0.56, 0.5, 0.5, 0.5]
    assert has_plateaued(_history(looks), Watch(cases=2, window=3, patience=4, min_gain=0.03))
    assert not has_plateaued(_history(looks), Watch(cases=2, window=1, patience=4, min_gain=0.03))


def test_too_few_looks_for_a_plateau_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(cases=2, every_epochs=5, window=3, patience=5)
    warn_of_few_looks(40, watch)
    assert capsys.readouterr().err == ""
    assert not has_plateaued(_history([0.5] * 7), watch)
    assert has_plateaued(_history([0.5] * 8), watch)
    warn_of_few_looks(39, watch)
    assert "7 times in 39 epochs" in capsys.readouterr().err

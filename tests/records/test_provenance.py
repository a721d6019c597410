"""What is told of a training's inputs when some of them changed."""

from autoseg.records.provenance import TrainingInputs, describe_changes

THEN = TrainingInputs(cases={"a": "1", "b": "2", "c": "3"}, preprocessing="p", previous_stage="w")


def test_nothing_changed() -> None:
    assert describe_changes(THEN, THEN) == []


def test_each_change_is_told() -> None:
    now = TrainingInputs(cases={"a": "1", "b": "x", "c": "y"}, preprocessing="q", previous_stage="v")
    assert describe_changes(THEN, now) == [
        "files of b, c changed",
        "cases are preprocessed otherwise",
        "its previous stage was trained anew",
    ]


def test_many_cases_are_counted() -> None:
    then = THEN.model_copy(update={"cases": {f"c{n:02d}": "1" for n in range(12)}})
    now = then.model_copy(update={"cases": dict.fromkeys(then.cases, "2")})
    assert describe_changes(then, now)[0].endswith("c08, c09 and 2 more changed")


def test_what_is_not_there_now_is_no_change() -> None:
    """Cases that went are refused elsewhere; a previous stage that is not trained is asked for when it is opened."""
    now = THEN.model_copy(update={"cases": {"a": "1"}, "previous_stage": None})
    assert describe_changes(THEN, now) == []

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autoseg.records.recipe import LossTerm, Mirroring, Recipe, Sampling, loss_as_text


@pytest.mark.parametrize(
    "fields",
    [{"axes": ()}, {"axes": (1, 2)}, {"axes": (2, 0), "swap_axis": 2, "swap_pairs": ((1, 2), (4, 3))}],
)
def test_sound_mirroring(fields: dict[str, object]) -> None:
    assert Mirroring.model_validate(fields).model_dump(include=set(fields)) == fields


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"axes": (3,)}, "each once"),
        ({"axes": (1, 1)}, "each once"),
        ({"axes": (-1,)}, "each once"),
        ({"axes": (0, 1), "swap_axis": 2, "swap_pairs": ((1, 2),)}, "swap_axis 2 must be one of the axes"),
        ({"swap_axis": 2, "swap_pairs": ((0, 1),)}, "foreground classes"),
        ({"swap_axis": 2, "swap_pairs": ((1, 2), (2, 3))}, "foreground classes"),
    ],
)
def test_mirroring_that_makes_no_sense_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Mirroring.model_validate(fields)


def test_loss_is_read_from_text() -> None:
    recipe = Recipe.model_validate({"loss": "soft_dice+ 0.5*focal( gamma = 3,smooth=1e-5) + 2 * boundary()"})
    assert recipe.loss == (
        LossTerm(name="soft_dice"),
        LossTerm(name="focal", weight=0.5, parameters={"gamma": 3.0, "smooth": 1e-5}),
        LossTerm(name="boundary", weight=2.0),
    )
    assert loss_as_text(recipe.loss) == "soft_dice + 0.5*focal(gamma=3, smooth=1e-05) + 2*boundary"


numbers = st.floats(allow_nan=False, allow_infinity=False)
names = st.from_regex(r"[a-z_]\w{0,9}", fullmatch=True).filter(str.isascii)
terms = st.builds(LossTerm, name=names, weight=numbers, parameters=st.dictionaries(names, numbers, max_size=3))


@given(st.lists(terms, min_size=1, max_size=4))
def test_loss_survives_as_text(loss: list[LossTerm]) -> None:
    assert Recipe.model_validate({"loss": loss_as_text(loss)}).loss == tuple(loss)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no term of a loss"),
        ("soft_dice+", "is no term of a loss"),
        ("soft_dice focal", "'soft_dice focal' in .* is no term of a loss"),
        ("half*focal", "'half' in 'half.focal' is no number"),
        ("focal(gamma)", "'' in .* is no number"),
        ("nan*focal", "'nan' in .* is no number"),
        ("focal(gamma=2", "is no term of a loss"),
        ("focal((gamma=2))", "is no term of a loss"),
        ("2*3*focal", "is no term of a loss"),
    ],
)
def test_text_that_is_no_loss_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate({"loss": text})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"optimizer": {"name": "schedule_free"}, "ema_decay": 0.99}, "ema_decay must be null"),
        ({"optimizer": {"name": "schedule_free", "momentum": 0}}, "momentum above 0"),
        ({"schedule": {"ends": "plateau"}}, "cases to watch"),
        ({"ema_decay": 1.5}, "less than 1"),
        ({"ema_decay": 0.0}, "greater than 0"),
        ({"gradient_clip": -1.0}, "greater than 0"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"augmentation": {"spatial": {"rotation_probability": 1.5}}}, "less than or equal to 1"),
        ({"augmentation": {"spatial": {"scaling": [-1.0, 1.0]}}}, "factor above 0"),
        ({"augmentation": {"spatial": {"scaling": [1.4, 0.7]}}}, "scaling must rise"),
        ({"augmentation": {"spatial": {"rotation_degrees": [30, -30]}}}, "rotation_degrees must rise"),
        ({"augmentation": {"cascade": {"drop_probability": -0.1}}}, "greater than or equal to 0"),
    ],
)
def test_courses_that_make_no_sense_are_refused(content: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(content)


@pytest.mark.parametrize(
    ("older", "class_balanced", "hard_ratio"),
    [
        ({"cases": "uniform", "hard_ratio": 3.0}, False, 1.0),
        ({"cases": "class_balanced", "hard_ratio": 3.0}, True, 1.0),
        ({"cases": "hard", "hard_ratio": 5.0}, False, 5.0),
        ({"cases": "hard"}, False, 3.0),
        ({"class_balanced": True, "hard_ratio": 3.0}, True, 3.0),
    ],
)
def test_sampling_of_older_plans_is_read(older: dict[str, object], class_balanced: bool, hard_ratio: float) -> None:
    recipe = Recipe.model_validate({"sampling": {"foreground_fraction": 0.5, **older}})
    assert recipe.sampling == Sampling(foreground_fraction=0.5, class_balanced=class_balanced, hard_ratio=hard_ratio)


@pytest.mark.parametrize("content", [{"cases": "hardest"}, {"cases": "hard", "class_balanced": True}])
def test_a_mixture_of_old_and_new_sampling_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"is no longer a value: set class_balanced=true .* hard_ratio=3"):
        Recipe.model_validate({"sampling": content})

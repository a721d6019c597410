import pytest
from pydantic import ValidationError

from autoseg.records.recipe import Mirroring


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

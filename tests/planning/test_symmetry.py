import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.planning.symmetry import left_right_pairs


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("LeftParotid", "RightParotid"),
        ("Lung-Left", "Lung-Right"),
        ("kidney_l", "kidney_r"),
        ("KIDNEY L", "KIDNEY R"),
        ("Left Lung", "lung (right)"),
        ("Niere links", "Niere rechts"),
        ("linke Niere", "rechte Niere"),
        ("ren sinister", "ren dexter"),
        ("rein gauche", "rein droit"),
        ("leftkidney", "rightkidney"),
        ("kidneyleft", "kidneyright"),
        ("rib_left_1", "rib_right_1"),
        ("L", "R"),
        ("Left-Lateral-Ventricle", "Right-Lateral-Ventricle"),
        ("OpticNerveLT", "OpticNerveRT"),
    ],
)
def test_pairs(left: str, right: str) -> None:
    assert left_right_pairs(["background", right, "liver", left]) == ((3, 1),)


@pytest.mark.parametrize(
    "names",
    [
        ["Left Atrium", "liver"],
        ["Left Atrium", "Right Kidney"],
        ["left ventricle", "right ventricle"],
        ["heart_atrium_left", "heart_atrium_right"],
        ["rib_left_1", "rib_right_2"],
        ["cleft", "cright"],
        ["left", "left to right shunt"],
        ["left kidney", "kidney left", "right kidney"],
        ["lung", "rung"],
        ["Anterior", "Posterior"],
    ],
)
def test_no_pairs(names: list[str]) -> None:
    assert left_right_pairs(["background", *names]) == ()


def test_several_pairs_in_order_of_the_left_ones() -> None:
    names = ["background", "eye_right", "eye_left", "ear_left", "ear_right", "nose"]
    assert left_right_pairs(names) == ((2, 1), (3, 4))


@given(st.lists(st.text(max_size=12), max_size=8))
def test_every_class_is_in_one_pair_at_most(names: list[str]) -> None:
    flat = [position for pair in left_right_pairs(names) for position in pair]
    assert len(flat) == len(set(flat))
    assert all(0 <= position < len(names) for position in flat)

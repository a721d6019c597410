import numpy as np
import pytest
from pydantic import ValidationError

from autoseg.errors import DataError
from autoseg.records.labels import LabelScheme, Target, smallest_integer_type


def scheme(**changes: object) -> LabelScheme:
    fields = {
        "class_names": ("background", "organ", "tumour"),
        "class_values": (0, 2, 700),
        "num_entries": 3,
        **changes,
    }
    return LabelScheme.model_validate(fields)


def test_values_are_mapped_inside_and_restored() -> None:
    values = np.array([[[0, 2], [700, 0]]])
    inside = scheme().to_internal(values)
    np.testing.assert_array_equal(inside, [[[0, 1], [2, 0]]])
    outside = scheme().to_file(inside)
    np.testing.assert_array_equal(outside, values)
    assert outside.dtype == np.int16


def test_unknown_values_are_all_named() -> None:
    with pytest.raises(DataError, match=r"case_7: values \[1, 9\] are not among the labels \[0, 2, 700\]"):
        scheme().to_internal(np.array([0, 9, 1]), "case_7")


def test_ignore_label_is_the_highest_internal_value() -> None:
    with_ignore = scheme(ignore_value=255)
    assert with_ignore.ignore_index == 3
    assert with_ignore.to_internal(np.array([255])).tolist() == [3]
    assert scheme().ignore_index is None


def test_regions_decide_heads_and_targets() -> None:
    regions = (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,)))
    by_region = scheme(regions=regions, region_order=(1, 2))
    assert (by_region.num_heads, by_region.has_regions, by_region.targets) == (2, True, regions)
    plain = scheme()
    assert (plain.num_heads, plain.has_regions) == (3, False)
    assert [t.members for t in plain.targets] == [(1,), (2,)]


def test_a_distractor_is_the_last_class_and_moves_the_ignore_label() -> None:
    plain = scheme(ignore_value=701)
    learned = plain.with_distractor()
    assert LabelScheme.model_validate(learned.model_dump()) == learned
    assert learned.class_names == ("background", "organ", "tumour", "distractor")
    assert learned.class_values == (0, 2, 700, 702)  # 701 is taken
    assert (plain.ignore_index, learned.ignore_index) == (3, 4)
    assert (learned.num_heads, learned.targets[-1].members) == (4, (3,))
    assert learned.targets[:-1] == plain.targets


def test_a_distractor_is_a_region_of_its_own() -> None:
    regions = (Target(name="whole", members=(1, 2)), Target(name="distractor", members=(2,)))
    learned = scheme(regions=regions, region_order=(1, 2)).with_distractor()
    assert LabelScheme.model_validate(learned.model_dump()) == learned
    assert learned.regions == (*regions, Target(name="distractor_", members=(3,)))
    assert (learned.region_order, learned.num_heads) == ((1, 2, 3), 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"class_values": (0, 2, 2)},
        {"class_names": ("background",)},
        {"ignore_value": 2},
        {"regions": (Target(name="r", members=(5,)),), "region_order": (1,)},
        {"regions": (Target(name="r", members=(1,)),)},
    ],
)
def test_contradictions_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        scheme(**changes)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [((0, 255), np.uint8), ((0, 256), np.int16), ((-1, 3), np.int16), ((0, 40000), np.uint16), ((0, 70000), np.int32)],
)
def test_smallest_integer_type(values: tuple[int, ...], dtype: type) -> None:
    assert smallest_integer_type(values) == dtype


@pytest.mark.parametrize("values", [(0, 2, 700), (-5, 0, 3), (7, 9, 8), (0, 1, 2_000_000_000), (-2_000_000_000, 0, 1)])
def test_any_integers_can_be_labels(values: tuple[int, ...]) -> None:
    any_scheme = scheme(class_values=values)
    inside = np.random.default_rng(0).integers(0, 3, (3, 4, 5))
    outside = any_scheme.to_file(inside)
    np.testing.assert_array_equal(any_scheme.to_internal(outside), inside)
    outside[0, 0, 0] = 4
    with pytest.raises(DataError, match=r"values \[4\] are not"):
        any_scheme.to_internal(outside)

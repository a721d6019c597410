"""What a target is in heads and classes, by hand."""

from autoseg.postprocessing.target_classes import fallback_class, head_of, painted_class, restorable_classes
from tests.postprocessing.test_find import REGIONS, TWO


def test_regions_fall_back_to_the_region_around_them() -> None:
    assert [fallback_class(REGIONS, t) for t in range(3)] == [0, 1, 2]
    assert [restorable_classes(REGIONS, t) for t in range(3)] == [(0,), (0, 1), (0, 1, 2)]
    assert [fallback_class(TWO, t) for t in range(2)] == [0, 0]
    assert [restorable_classes(TWO, t) for t in range(2)] == [(0,), (0,)]


def test_heads_and_classes_of_a_target_agree() -> None:
    """Classes: one head each, background the first. Regions: one head each, painted with the value of their order."""
    assert [head_of(TWO, t) for t in range(2)] == [painted_class(TWO, t) for t in range(2)] == [1, 2]
    assert [head_of(REGIONS, t) for t in range(3)] == [0, 1, 2]
    assert [painted_class(REGIONS, t) for t in range(3)] == [1, 2, 3]

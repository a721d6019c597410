"""Patches that shrink until they fit and grow while they fit, by hand."""

import math

import numpy as np
import pytest

from autoseg.errors import UsageError
from autoseg.planning.patch_search import grow_patch, shrink_patch
from autoseg.planning.presets import PRESETS
from autoseg.planning.topology import Topology, plan_topology


def test_growing_takes_the_axis_that_covers_least_and_stops_where_nothing_fits() -> None:
    spacing, rule = np.ones(3), PRESETS["default"].network
    first = plan_topology((1, 1, 1), (64, 64, 64))

    def grown(median: tuple[float, ...], most: int) -> tuple[int, ...]:
        def fits(found: Topology) -> bool:
            return math.prod(found.patch_size) <= most

        return grow_patch(rule, spacing, np.array(median), first, fits).patch_size

    # 64 is pooled four times, so a step is 16: y, x, y, x, and then no axis fits; or x cannot follow, and y grows.
    assert grown((100.0, 200.0, 200.0), 64 * 96 * 96) == (64, 96, 96)
    assert grown((100.0, 200.0, 200.0), 64 * 96 * 96 - 1) == (64, 112, 80)
    assert grown((100.0, 200.0, 200.0), 64**3) == (64, 64, 64)
    assert grown((60.0, 90.0, 64.0), 10**9) == (64, 96, 64), "what covers the median case is left alone"


def test_shrinking_shortens_the_axis_that_covers_most_and_stops_where_it_fits() -> None:
    def shrunk(most: int) -> tuple[int, ...]:
        def too_large(found: Topology) -> bool:
            return math.prod(found.patch_size) > most

        rule = PRESETS["default"].network
        return shrink_patch(rule, np.ones(3), np.array([64.0, 96.0, 96.0]), too_large).patch_size

    # Steps of 16 (four poolings); at first every axis covers its median: x before y before z.
    assert shrunk(64 * 96 * 96) == (64, 96, 96)
    assert shrunk(64 * 96 * 96 - 1) == (64, 96, 80)
    assert shrunk(64 * 96 * 80 - 1) == (64, 80, 80)


def test_no_patch_at_all_is_said_with_what_to_do() -> None:
    with pytest.raises(UsageError, match="plan for more GPU memory"):
        shrink_patch(PRESETS["default"].network, np.ones(3), np.array([64.0, 96.0, 96.0]), lambda _: True)

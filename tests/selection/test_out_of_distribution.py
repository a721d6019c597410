"""Unusual scans: the margins at their edges, every storage order, and never a training case."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.records.geometry import Geometry
from autoseg.records.results import PreprocessedCase
from autoseg.selection.out_of_distribution import known_ranges, unusual_properties


def case(spacing_mm=(2.0, 1.0, 1.0), size=(20, 30, 40), intensities=((-1.0, 0.0, 2.0),), planar=False, axes=(0, 1, 2)):
    stored = tuple(spacing_mm[axes.index(a)] for a in range(3))
    geometry = Geometry(
        shape=tuple(size[axes.index(a)] + 10 for a in range(3)),
        spacing_mm=stored,
        affine=((0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0)),
        planar=planar,
    )
    return PreprocessedCase(
        id="x",
        geometry=geometry,
        axes=axes,
        flips=(False, False, False),
        crop=tuple((5, 5 + n) for n in size),
        shape_before_crop=tuple(n + 10 for n in size),
        spacing_before_mm=spacing_mm,
        shape=size,
        spacing_mm=(1.0, 1.0, 1.0),
        intensities=intensities,
    )


TRAINING = [case(), case(spacing_mm=(3.0, 1.0, 1.0), intensities=((-1.2, 0.2, 2.4),)), case(size=(24, 30, 40))]
KNOWN = known_ranges(TRAINING)


def test_spacing_and_field_of_view_by_the_factor() -> None:
    assert unusual_properties(case(spacing_mm=(2.0 / 1.25, 1.0, 1.0), size=(25, 30, 40)), KNOWN) == ()
    (coarse,) = unusual_properties(case(spacing_mm=(2.0, 1.0, 1.3), size=(20, 30, 32)), KNOWN)
    assert coarse == "spacing along x in mm 1.3 is unlike the training cases (1 to 1)"
    (short,) = unusual_properties(case(size=(20, 23, 40)), KNOWN)
    assert short == "field of view along y in mm 23 is unlike the training cases (30 to 30)"
    assert unusual_properties(case(size=(20, 24, 50)), KNOWN) == ()


def test_intensities_by_half_the_range() -> None:
    assert unusual_properties(case(intensities=((-1.29, 0.29, 2.59),)), KNOWN) == ()
    found = unusual_properties(case(intensities=((-1.0, 0.35, 2.61),)), KNOWN)
    assert [sentence.split(" is unlike")[0] for sentence in found] == [
        "50th percentile of the normalised intensity of channel 0 0.35",
        "95th percentile of the normalised intensity of channel 0 2.61",
    ]


def test_the_storage_order_does_not_matter() -> None:
    for axes in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        assert unusual_properties(case(axes=axes), KNOWN) == ()


def test_the_axis_across_a_2d_image_is_left_out() -> None:
    known = known_ranges([case(spacing_mm=(999.0, 1.0, 1.0), size=(1, 30, 40), planar=True)])
    assert not any("along z" in name for name in known)
    assert unusual_properties(case(spacing_mm=(5.0, 1.0, 1.0), size=(1, 30, 40), planar=True), known) == ()


def test_what_was_not_measured_is_not_compared() -> None:
    known = known_ranges([*TRAINING, case(intensities=())])
    assert not any("intensity" in name for name in known)
    assert unusual_properties(case(intensities=((50.0, 60.0, 70.0),)), known) == ()
    assert known_ranges([]) == {}
    assert unusual_properties(case(spacing_mm=(50.0, 50.0, 50.0)), {}) == ()


@given(st.lists(st.tuples(st.floats(0.1, 9), st.integers(1, 500), st.floats(-9, 9)), min_size=1, max_size=12))
def test_no_training_case_is_ever_unusual(values) -> None:
    cases = [
        case(spacing_mm=(s, s, s), size=(n, n, n), intensities=(tuple(np.sort([v, v / 2, 1.0])),)) for s, n, v in values
    ]
    known = known_ranges(cases)
    assert all(unusual_properties(one, known) == () for one in cases)


def test_a_range_tells_what_was_seen() -> None:
    seen = KNOWN["spacing along z in mm"]
    assert (seen.smallest, seen.largest) == (2.0, 3.0)
    assert (seen.low, seen.high) == (pytest.approx(1.6), pytest.approx(3.75))

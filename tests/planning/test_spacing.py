import numpy as np
import pytest

from autoseg.planning.spacing import coarsen, coarsest_first, median_shape, slices_first, target_spacing


def _rows(*rows: tuple[float, float, float]) -> np.ndarray:
    return np.array(rows, dtype=np.float64)


def test_isotropic_data_takes_the_median() -> None:
    spacings = _rows((1, 1, 1), (2, 1, 1), (3, 1, 1))
    assert target_spacing(spacings, _rows(*[(50, 50, 50)] * 3)).tolist() == [2, 1, 1]


def test_coarse_axis_with_few_slices_takes_the_tenth_percentile() -> None:
    spacings = np.column_stack([np.arange(4.0, 15.0), np.ones(11), np.ones(11)])  # z 4 ... 14, median 9
    shapes = np.tile([10.0, 200.0, 200.0], (11, 1))
    assert target_spacing(spacings, shapes).tolist() == [5, 1, 1]


def test_coarse_axis_with_many_slices_takes_the_median() -> None:
    spacings = np.column_stack([np.arange(4.0, 15.0), np.ones(11), np.ones(11)])
    shapes = np.tile([67.0, 200.0, 200.0], (11, 1))  # 67 * 3 is not below 200
    assert target_spacing(spacings, shapes).tolist() == [9, 1, 1]


def test_coarse_axis_never_becomes_finer_than_the_others() -> None:
    spacings = _rows((0.5, 2, 1), (9, 2, 1), (9, 2, 1), (9, 2, 1), (9, 2, 1), (9, 2, 1), (0.5, 2, 1))
    assert target_spacing(spacings, np.tile([10.0, 200.0, 200.0], (7, 1))).tolist() == [2 + 1e-5, 2, 1]


def test_three_times_is_not_yet_coarse() -> None:
    spacings = _rows((3, 1, 1), (3, 1, 1), (1, 1, 1))
    assert target_spacing(spacings, np.tile([10.0, 200.0, 200.0], (3, 1)))[0] == 3


@pytest.mark.parametrize(
    ("spacing", "order"),
    [((1, 1, 1), (0, 1, 2)), ((1, 2, 1), (1, 0, 2)), ((1, 2, 3), (2, 0, 1)), ((1, 2, 2), (1, 0, 2))],
)
def test_coarsest_axis_comes_first(spacing: tuple[float, ...], order: tuple[int, ...]) -> None:
    assert coarsest_first(np.array(spacing, dtype=float)) == order


@pytest.mark.parametrize(
    ("spacing", "shape", "order"),
    [
        ((0.5, 1, 1), (1, 64, 64), (0, 1, 2)),
        ((1, 1, 0.5), (64, 64, 1), (2, 0, 1)),
        ((5, 1, 1), (1, 64, 64), (0, 1, 2)),
        ((1, 2, 0.5), (64, 1, 1), (1, 0, 2)),
        ((0.5, 1, 1), (2, 64, 64), (1, 0, 2)),
    ],
)
def test_an_axis_of_one_voxel_comes_before_a_coarser_one(
    spacing: tuple[float, ...], shape: tuple[int, ...], order: tuple[int, ...]
) -> None:
    assert slices_first(np.array(spacing, dtype=float), _rows(shape, shape, (9, 64, 64))) == order


def test_median_shape_rounds_each_case_half_to_even_and_keeps_halves() -> None:
    spacings, shapes = _rows((1, 1, 1), (0.5, 1, 1)), _rows((5, 10, 10), (5, 11, 10))
    # 5 * 1 = 5 and 5 * 0.5 = 2.5 -> 2, median 3.5
    assert median_shape(spacings, shapes, np.ones(3)).tolist() == [3.5, 10.5, 10]


def test_coarsening_starts_with_the_fine_axes() -> None:
    assert coarsen(np.array([5.0, 1.0, 3.0])).tolist() == [5.0, 1.03, 3.0]
    assert coarsen(np.array([2.0, 1.0, 1.0])).tolist() == [2.06, 1.03, 1.03]

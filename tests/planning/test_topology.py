import math

from hypothesis import given
from hypothesis import strategies as st

from autoseg.planning.topology import fixed_topology, plan_topology


def test_isotropic_cube() -> None:
    found = plan_topology((1, 1, 1), (128, 128, 128))
    assert found.patch_size == (128, 128, 128)
    assert found.strides == ((1, 1, 1),) + ((2, 2, 2),) * 5
    assert found.kernel_sizes == ((3, 3, 3),) * 6
    assert found.divisor == (32, 32, 32)


def test_thick_slices_are_pooled_late_and_have_flat_kernels() -> None:
    found = plan_topology((5, 1, 1), (20, 160, 160))
    # In-plane spacing 1, 2, 4: only at 4 is 5 less than twice the finest.
    assert found.strides[:4] == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert found.kernel_sizes[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))


def test_fractional_sizes_are_rounded_up() -> None:
    # 36.5 -> 19 -> 10 -> 5: three poolings (10 is at least 8, 5 is not), and 36.5 is padded to 40
    assert plan_topology((1, 1, 1), (36.5, 40, 40)).patch_size == (40, 40, 40)


def test_lone_axis_needs_three_times_the_smallest_edge() -> None:
    assert plan_topology((1, 1), (4, 11)).strides == ((1, 1),)
    assert plan_topology((1, 1), (4, 12)).strides == ((1, 1), (1, 2))


def test_nothing_to_pool_leaves_one_stage() -> None:
    found = plan_topology((1, 1, 1), (3, 5, 7))
    assert found.strides == ((1, 1, 1),)
    assert found.kernel_sizes == ((3, 3, 3),)
    assert found.patch_size == (3, 5, 7)


@given(
    st.lists(st.tuples(st.floats(0.1, 20), st.integers(1, 600)), min_size=2, max_size=3),
)
def test_patch_is_padded_to_what_the_strides_divide(axes: list[tuple[float, int]]) -> None:
    spacing, patch = [a[0] for a in axes], [a[1] for a in axes]
    found = plan_topology(spacing, patch)
    for axis, wished in enumerate(patch):
        assert math.prod(s[axis] for s in found.strides) == found.divisor[axis]
        assert found.patch_size[axis] % found.divisor[axis] == 0
        assert wished <= found.patch_size[axis] < wished + found.divisor[axis]
        assert found.patch_size[axis] // found.divisor[axis] >= min(4, wished)
    assert len(found.kernel_sizes) == len(found.strides)


def test_a_fixed_depth_halves_every_axis_of_isotropic_voxels() -> None:
    found = fixed_topology((1.0, 1.2, 0.9), (100, 128, 17), 5, 3)
    assert found.strides == ((1, 1, 1), *(((2, 2, 2),) * 4))
    assert found.kernel_sizes == ((3, 3, 3),) * 5
    assert (found.patch_size, found.divisor) == ((112, 128, 32), (16, 16, 16))


def test_thick_slices_are_halved_later_or_never() -> None:
    found = fixed_topology((5.0, 0.8, 0.8), (20, 320, 250), 5, 5)
    assert found.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert (found.patch_size, found.kernel_sizes[0]) == ((20, 320, 256), (5, 5, 5))
    assert fixed_topology((99.0, 1.0, 1.0), (3, 64, 64), 5, 3).divisor == (1, 16, 16)
    assert fixed_topology((1.0, 1.0), (60, 64), 5, 3).patch_size == (64, 64)

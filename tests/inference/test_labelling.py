"""The class of each voxel: against float64, and the same whether or not heads that cannot win are left out."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.inference import labelling
from autoseg.inference.labelling import deciding_bytes, logits_to_labels, logits_to_labels_into
from autoseg.records.labels import LabelScheme, Target
from autoseg.spatial import linear
from autoseg.spatial.linear import Scratch, Window, linear_windows
from autoseg.spatial.resampling import axis_operator
from autoseg.spatial.workers import Workers
from tests.spatial.threads import torch_threads


def scheme(num_heads: int, order: tuple[int, ...] = ()) -> LabelScheme:
    """Classes, or with an `order` as many regions as it has entries."""
    num_classes = num_heads + bool(order)
    names = tuple(map(str, range(num_classes)))
    regions = tuple(Target(name=str(number), members=(number,)) for number in order)
    return LabelScheme(
        class_names=names,
        class_values=tuple(range(num_classes)),
        num_entries=num_classes,
        regions=regions,
        region_order=order,
    )


def labels_of(logits: torch.Tensor, shape, labels: LabelScheme, threshold: float = 0.0, separate=None) -> np.ndarray:
    found = np.full(shape, -1, np.int16)
    with Workers() as workers:
        for window in linear_windows([logits], logits.shape[1:], shape, separate):
            logits_to_labels_into(found, window, labels, threshold, workers)
    return found


def in_float64(logits: torch.Tensor, shape, separate=None) -> np.ndarray:
    values = logits.double().numpy()
    for axis, (before, after) in enumerate(zip(logits.shape[1:], shape, strict=True)):
        operator = axis_operator(before, after, 0 if axis == separate else 1)
        values = np.moveaxis(np.tensordot(operator, values, (1, axis + 1)), 0, axis + 1)
    return values


def check(logits: torch.Tensor, shape, labels: LabelScheme, separate=None) -> None:
    """By float64 but where values are as close as float32 rounding; the same when nothing is left out."""
    found, values = labels_of(logits, shape, labels, separate=separate), in_float64(logits, shape, separate)
    close = 3e-6 * np.abs(logits.numpy()).max()
    if labels.has_regions:
        wanted = np.zeros(shape, np.int16)
        for region, painted in zip(values, labels.region_order, strict=True):
            wanted[region > 0] = painted
        differs = (found != wanted) & (np.abs(values).min(0) > close)
    else:
        differs = np.take_along_axis(values, found[None].astype(int), 0)[0] < values.max(0) - close
        same = [next(i for i in range(n + 1) if torch.equal(logits[i], logits[n])) for n in range(len(logits))]
        assert set(np.unique(found)) <= set(same), "the second of equal heads won"
    assert not differs.any()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labelling, "_ROUNDING", np.inf)
        np.testing.assert_array_equal(labels_of(logits, shape, labels, separate=separate), found)


SHAPES = [((6, 9, 8), (9, 13, 15)), ((6, 9, 8), (6, 9, 8)), ((9, 13, 15), (4, 9, 8)), ((1, 20, 30), (1, 41, 50))]


def organs(shape, num_heads: int, seed: int) -> torch.Tensor:
    """As a network that is sure: a flat background, each head high in a ball of its own; float32 `H Z Y X`."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij"))
    logits = np.full((num_heads, *shape), -8.0)
    logits[0] = 8.0
    for head in range(1, num_heads):
        distance = np.sqrt(((grid - rng.random((3, 1, 1, 1))) ** 2).sum(0))
        logits[head] = np.clip((0.2 - distance) * 100, -10, 12)
    return torch.from_numpy(logits + 0.1 * rng.standard_normal(logits.shape)).float()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(SHAPES),
    st.integers(2, 7),
    st.sampled_from(["noise", "ties", "constant", "organs", "copies"]),
    st.sampled_from([None, 0, 1, 2]),
    st.sampled_from([1, 40, 300, 2**18]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_leaving_out_changes_nothing(shapes, num_heads, kind, separate, strip, has_regions, seed) -> None:
    before, after = shapes
    logits = torch.randn((num_heads, *before), generator=torch.Generator().manual_seed(seed))
    if kind == "ties":
        logits = logits.round()
    elif kind == "constant":
        logits = logits[:, :1, :1, :1].round().expand(logits.shape).contiguous()
    elif kind == "organs":
        logits = organs(before, num_heads, seed)
    elif kind == "copies":
        logits[num_heads // 2 :] = logits[num_heads // 2]
    order = tuple(np.random.default_rng(seed).permutation(num_heads) + 1) if has_regions else ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "_STRIP_VOXELS", strip)
        check(logits, after, scheme(num_heads, tuple(map(int, order))), separate)


def test_few_heads_are_resampled_where_one_is_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 balls in an image each is resampled around itself only; the background never is."""
    taken: dict[int, int] = {}
    original = Window.values

    def counted(self, channels, across, minus=None, scratch=None):
        values = original(self, channels, across, minus, scratch)
        taken[channels.start] = taken.get(channels.start, 0) + values[0].numel()
        return values

    monkeypatch.setattr(Window, "values", counted)
    monkeypatch.setattr(linear, "_STRIP_VOXELS", 2**11)
    shape, num_heads = (64, 64, 64), 21
    logits = organs((40, 40, 40), num_heads, seed=0)
    found = labels_of(logits, shape, scheme(num_heads))
    assert set(np.unique(found)) == set(range(num_heads))
    assert 0 not in taken
    assert sum(taken.values()) < 0.15 * num_heads * found.size
    taken.clear()
    assert labels_of(logits[1:] + 20, shape, scheme(20, tuple(range(1, 21)))).min() > 0
    taken.clear()
    assert labels_of(logits[1:] - 30, shape, scheme(20, tuple(range(1, 21)))).max() == 0
    assert not taken


@pytest.mark.parametrize("fault", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_switches_leaving_out_off_around_it(fault: float) -> None:
    """Networks' values are refused before they come here; elsewhere the answer is as without one faulty voxel."""
    logits = organs((12, 12, 12), 4, seed=1)
    faulty = logits.clone()
    faulty[2, 5, 5, 5] = fault
    found, clean = (labels_of(one, (24, 24, 24), scheme(4)) for one in (faulty, logits))
    away = np.ones(found.shape, bool)
    away[8:14, 8:14, 8:14] = False
    np.testing.assert_array_equal(found[away], clean[away])


def test_all_heads_in_memory_are_decided_alike() -> None:
    values = torch.rand((5, 6, 7, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits_to_labels(values, scheme(5), 0.5), values.argmax(0).short())
    painted = logits_to_labels(values, scheme(5, (3, 1, 2, 5, 4)), 0.5)
    wanted = torch.zeros((6, 7, 8), dtype=torch.int16)
    for region, number in zip(values, (3, 1, 2, 5, 4), strict=True):
        wanted[region > 0.5] = number
    assert torch.equal(painted, wanted)
    assert painted.dtype == torch.int16


@pytest.mark.parametrize("order", [(), (4, 2, 6, 1, 3, 5)], ids=["classes", "regions"])
@pytest.mark.parametrize("kind", ["noise", "ties", "organs"])
def test_labels_are_the_same_whatever_the_number_of_threads(monkeypatch, kind: str, order: tuple[int, ...]) -> None:
    before, shape, labels = (20, 40, 50), (31, 90, 100), scheme(6, order)
    logits = torch.randn((6, *before), generator=torch.Generator().manual_seed(0))
    logits = organs(before, 6, 0) if kind == "organs" else logits.round() if kind == "ties" else logits
    whole = torch.nn.functional.interpolate(logits[None], shape, mode="trilinear")[0]
    monkeypatch.setattr(linear, "_STRIP_VOXELS", 2**11)
    found = []
    for threads in (1, 2, 5):
        with torch_threads(threads):
            found.append((labels_of(logits, shape, labels), logits_to_labels(whole, labels, 0.0).numpy()))
    assert len(np.unique(found[0][0])) > 5
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_two_strips_are_decided_at_a_time(monkeypatch) -> None:
    """Each waits for the other."""
    meeting, original = threading.Barrier(2, timeout=30), labelling._decided

    def together(*given):
        meeting.wait()
        return original(*given)

    monkeypatch.setattr(labelling, "_decided", together)
    monkeypatch.setattr(linear, "_STRIP_VOXELS", 2 * 6 * 10)
    with torch_threads(2):
        assert (labels_of(torch.zeros(2, 2, 12, 10), (2, 12, 10), scheme(2)) == 0).all()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((20, 40, 50), (40, 90, 110)),
        ((40, 90, 110), (20, 40, 50)),
        ((10, 60, 200), (40, 60, 70)),
        ((1, 300, 300), (1, 700, 800)),
    ],
)
@pytest.mark.parametrize("order", [(), (1, 2, 3, 4, 5)], ids=["classes", "regions"])
def test_scratch_is_no_more_than_what_is_counted(monkeypatch, before, after, order) -> None:
    """Of one thread, on noise, where all heads are needed everywhere; nor is much more counted."""
    monkeypatch.setattr(linear, "_STRIP_VOXELS", 2**12)
    monkeypatch.setattr(labelling, "num_workers", lambda: 1)
    held: list[Scratch] = []
    original = Scratch.take

    def noted(self: Scratch, *given, **named):
        if self not in held:
            held.append(self)
        return original(self, *given, **named)

    monkeypatch.setattr(Scratch, "take", noted)
    labels_of(torch.randn(5, *before), after, scheme(5, order))
    most = max(sum(buffer.nbytes for buffer in scratch.buffers.values()) for scratch in held)
    assert most < deciding_bytes(5, before, after) < 4 * most

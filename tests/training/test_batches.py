"""What a batch holds is a function of its place; patches lie where the rules say."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from autoseg.augmentation.policies import nnunet_augmentation
from autoseg.augmentation.spatial import outside_label
from autoseg.records.geometry import IntTriple
from autoseg.records.recipe import Mirroring, Sampling
from autoseg.training.batches import Sampler, assemble, batches, draw_batch, prepare_sample, wants_foreground
from autoseg.training.rng import sample_rng
from autoseg.training.source import Source, TrainingCase
from tests.training.tools import LABELS, RECIPE, always_foreground, make_sampler, make_source

AUGMENTED = RECIPE.model_copy(
    update={"augmentation": nnunet_augmentation(False, (8, 8, 8)), "mirroring": Mirroring(axes=(0, 1, 2))}
)


def _starts(sampler: Sampler, count: int) -> list[tuple[int, IntTriple]]:
    draws = [draw for step in range(count) for draw in draw_batch(sampler, (0, step))]
    return [(d.case, tuple(c - p // 2 for c, p in zip(d.centre, sampler.patch_zyx, strict=True))) for d in draws]


def test_a_crop_shows_the_voxels_it_was_drawn_at() -> None:
    sampler = make_sampler(make_source([(12, 11, 10)]))
    draws = draw_batch(sampler, (3, 5))
    batch = assemble(sampler, [(draw, prepare_sample(sampler, draw)) for draw in draws])
    assert batch.images.shape == (2, 1, 8, 8, 8)
    assert batch.labels.shape == (2, 8, 8, 8)
    for draw, image in zip(draws, batch.images, strict=True):
        z, y, x = (c - 4 for c in draw.centre)
        flat = np.arange(12 * 11 * 10).reshape(12, 11, 10)
        assert np.array_equal(image[0].numpy(), flat[z : z + 8, y : y + 8, x : x + 8])


def test_order_of_making_does_not_matter() -> None:
    sampler = make_sampler(make_source([(12, 11, 10), (9, 14, 10)]), AUGMENTED)
    places = [(0, 0), (0, 1), (1, 0)]
    forwards = list(batches(sampler, places))
    backwards = list(batches(sampler, places[::-1]))[::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert one.cases == other.cases
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert not torch.equal(forwards[0].images, forwards[1].images)


@given(st.tuples(*[st.integers(1, 20)] * 3), st.booleans(), st.integers(0, 1000))
def test_patches_lie_inside_or_hold_the_whole_axis(shape: IntTriple, foreground: bool, step: int) -> None:
    shape = (shape[0], shape[1], max(shape[2], 3))
    recipe = always_foreground() if foreground else RECIPE
    for _, start in _starts(make_sampler(make_source([shape]), recipe), 1 + step % 3):
        for first, size, patch in zip(start, shape, (8, 8, 8), strict=True):
            if size >= patch:
                assert 0 <= first <= size - patch
            else:
                assert first <= 0
                assert first + patch >= size
                assert abs((first + patch - size) - (-first)) <= 1  # in the middle


def test_random_patches_reach_every_position() -> None:
    recipe = RECIPE.model_copy(update={"sampling": Sampling(foreground_fraction=0.0)})
    starts = _starts(make_sampler(make_source([(10, 8, 9)]), recipe), 200)
    assert {start for _, start in starts} == {(z, 0, x) for z in range(3) for x in range(2)}


def test_foreground_samples_hold_a_voxel_of_a_target_and_targets_take_turns() -> None:
    sampler = make_sampler(make_source([(20, 20, 20)]), always_foreground())
    drawn = [batch.labels for batch in batches(sampler, [(0, step) for step in range(30)])]
    assert all((labels.flatten(1) > 0).any(1).all() for labels in drawn)
    wide = make_sampler(make_source([(4, 4, 40)]), always_foreground(), patch=(4, 4, 2))
    centres = Counter(draw.centre[2] for step in range(200) for draw in draw_batch(wide, (0, step)))
    assert set(centres) == {1, 2}
    assert min(centres.values()) > 140  # of 400


def test_class_weights_decide_which_target() -> None:
    recipe = always_foreground(class_weights=(0.0, 1.0))
    sampler = make_sampler(make_source([(4, 4, 40)]), recipe, patch=(4, 4, 2))
    assert {draw.centre[2] for step in range(20) for draw in draw_batch(sampler, (0, step))} == {2}


def test_a_case_without_targets_gives_random_patches() -> None:
    starts = _starts(make_sampler(make_source([(10, 8, 8)], targets=[()]), always_foreground()), 60)
    assert {start for _, start in starts} == {(0, 0, 0), (1, 0, 0), (2, 0, 0)}


def test_with_an_ignore_label_all_patches_show_annotated_voxels() -> None:
    """One annotated slice at z = 17, foreground in a corner of it, in one case of two."""
    source = make_source([(20, 16, 16)] * 2, targets=[(1,), ()])
    plane = np.arange(17 * 256, 18 * 256, dtype=np.int32)
    cases = tuple(replace(case, locations=(*case.locations, plane)) for case in source.cases)
    labels = LABELS.model_copy(update={"ignore_value": 9})
    for recipe, share in ((RECIPE, 0.5), (always_foreground(), 1.0)):
        sampler = replace(make_sampler(replace(source, cases=cases), recipe, patch=(4, 2, 2)), labels=labels)
        draws = [draw for step in range(200) for draw in draw_batch(sampler, (0, step))]
        on_plane = [draw for draw in draws if draw.centre[0] == 17]
        assert all(draw.centre[0] == 17 or draw.case == 0 for draw in draws)
        # The foreground's own voxel lies at z = 10, in case 0 alone: half of its samples, or all.
        assert 1 - len(on_plane) / len(draws) == pytest.approx(share / 2, abs=0.08)
        assert len({draw.centre for draw in on_plane}) > 50


def test_cases_are_drawn_uniformly() -> None:
    counts = Counter(case for case, _ in _starts(make_sampler(make_source([(8, 8, 8)] * 4)), 500))
    assert set(counts) == {0, 1, 2, 3}
    assert all(abs(count - 250) < 60 for count in counts.values())  # 4.4 standard deviations


@pytest.mark.parametrize(
    ("batch_size", "expected"),
    [(1, [False]), (2, [False, True]), (4, [False] * 3 + [True]), (9, [False] * 6 + [True] * 3)],
)
def test_nnunets_rounding(batch_size: int, expected: list[bool]) -> None:
    rng = sample_rng(0, 0, 0, 0)
    assert [wants_foreground(Sampling(), batch_size, number, rng) for number in range(batch_size)] == expected


def test_probabilistic_rounding_holds_on_average() -> None:
    sampling = Sampling(foreground_fraction=0.3, rounding="probabilistic")
    share = np.mean([wants_foreground(sampling, 1, 0, sample_rng(0, 0, step, 0)) for step in range(2000)])
    assert share == pytest.approx(0.3, abs=0.04)


def test_planar_patches_come_from_slices() -> None:
    sampler = make_sampler(make_source([(5, 12, 12)]), AUGMENTED, patch=(1, 8, 8))
    (batch,) = batches(sampler, [(0, 0)])
    assert batch.images.shape == (2, 1, 1, 8, 8)


def test_previous_stage_enters_as_one_hot_channels_that_move_with_the_labels() -> None:
    quiet = RECIPE.augmentation.cascade.model_copy(update={"morphology_probability": 0.0, "drop_probability": 0.0})
    policy = RECIPE.augmentation.model_copy(update={"cascade": quiet})
    recipe = always_foreground().model_copy(update={"augmentation": policy, "mirroring": Mirroring()})
    source = make_source([(12, 12, 12)], maps=2)
    sampler = Sampler(source, recipe, LABELS, (8, 8, 8), 2, 7, torch.device("cpu"), previous_labels=LABELS)
    for batch in batches(sampler, [(0, step) for step in range(8)]):
        assert batch.images.shape == (2, 3, 8, 8, 8)
        # The source's second map says 1 where the first says background, and 2 where it says 1.
        assert torch.equal(batch.images[:, 1], (batch.labels == 0).float())
        assert torch.equal(batch.images[:, 2], (batch.labels == 1).float())


def test_previous_stage_is_corrupted_differently_in_each_sample() -> None:
    loud = RECIPE.augmentation.cascade.model_copy(update={"morphology_probability": 1.0})
    policy = RECIPE.augmentation.model_copy(update={"cascade": loud})
    recipe = RECIPE.model_copy(update={"augmentation": policy})
    source = make_source([(8, 8, 8)], maps=2)
    sampler = Sampler(source, recipe, LABELS, (8, 8, 8), 2, 7, torch.device("cpu"), previous_labels=LABELS)
    first, again, second = batches(sampler, [(0, 0), (0, 0), (0, 1)])
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images[:, 1:], second.images[:, 1:])


def test_balanced_classes_are_seen_alike_however_few_cases_have_them() -> None:
    # Class 1 in three cases of four, class 2 in one, which lies at other voxels.
    source = make_source([(8, 8, 8)] * 4, targets=[(1,), (1,), (1,), (2,)])
    counts = {}
    for balanced in (False, True):
        sampler = make_sampler(source, always_foreground(class_balanced=balanced))
        counts[balanced] = Counter(draw.case for step in range(500) for draw in draw_batch(sampler, (0, step)))
    assert counts[False][3] / 1000 == pytest.approx(1 / 4, abs=0.05)
    assert counts[True][3] / 1000 == pytest.approx(1 / 2, abs=0.05)
    assert counts[True][0] / 1000 == pytest.approx(1 / 6, abs=0.05)


def test_balanced_samples_that_need_no_foreground_come_from_all_cases_alike() -> None:
    source = make_source([(20, 8, 8)] * 4, targets=[(), (), (), (2,)])
    recipe = RECIPE.model_copy(update={"sampling": Sampling(class_balanced=True)})
    draws = [draw_batch(make_sampler(source, recipe, (4, 4, 4)), (0, step)) for step in range(400)]
    first = Counter(one.case for one, _ in draws)  # of two samples the second shows foreground
    assert all(abs(first[case] - 100) < 45 for case in range(4))
    assert {(second.case, second.centre) for _, second in draws} == {(3, (10, 4, 2))}


def test_odds_of_cases_hold_within_the_class_that_was_drawn() -> None:
    # Class 1 in the first three cases, class 2 in the last; the first of two samples need not show any.
    source = make_source([(8, 8, 8)] * 4, targets=[(1,), (1,), (1,), (2,)])
    recipe = RECIPE.model_copy(update={"sampling": Sampling(class_balanced=True, hard_ratio=4.0)})
    sampler = replace(make_sampler(source, recipe), case_odds=lambda _: np.array([0.1, 0.2, 0.3, 0.4]))
    draws = [draw_batch(sampler, (0, step)) for step in range(1500)]
    for number, expected in enumerate(([0.1, 0.2, 0.3, 0.4], [1 / 12, 1 / 6, 1 / 4, 1 / 2])):
        counts = Counter(draw[number].case for draw in draws)
        np.testing.assert_allclose([counts[case] / 1500 for case in range(4)], expected, atol=0.055)  # 4.3 sd
    weighted = always_foreground(class_balanced=True, class_weights=(3.0, 1.0))
    counts = Counter(one.case for step in range(750) for one in draw_batch(make_sampler(source, weighted), (0, step)))
    np.testing.assert_allclose([counts[case] / 1500 for case in range(4)], [0.25] * 4, atol=0.05)


def test_without_any_foreground_balanced_samples_come_from_anywhere() -> None:
    source = make_source([(8, 8, 8)] * 3, targets=[(), (), ()])
    sampler = make_sampler(source, always_foreground(class_balanced=True))
    assert {case for case, _ in _starts(sampler, 100)} == {0, 1, 2}


@pytest.mark.parametrize("policy", ["crop", "nnunet"])
def test_voxels_held_small_make_the_same_patches_up_to_their_rounding(policy: str) -> None:
    source = make_source([(12, 11, 10)])
    sampler = make_sampler(source, AUGMENTED if policy == "nnunet" else RECIPE)

    def read(number: int, box: tuple[slice, slice, slice]) -> tuple[torch.Tensor, torch.Tensor]:
        image, labels = source.read(number, box)
        return image.half(), labels.to(torch.uint8)

    places = [(0, step) for step in range(12)]
    small = batches(replace(sampler, source=replace(source, read=read)), places)
    for one, other in zip(batches(sampler, places), small, strict=True):
        assert torch.equal(one.labels, other.labels)
        assert other.labels.dtype == one.labels.dtype == torch.int16
        assert other.images.dtype == torch.float32
        # Flat indices up to 1319: float16 steps by 1 above 1024, transforms of the range make a little more of it.
        assert (one.images - other.images).abs().max() < 3


@pytest.mark.parametrize("masked", [(), (0,)])
def test_masked_channels_are_zero_outside_the_mask_and_beyond_the_volume(masked: tuple[int, ...]) -> None:
    outside = outside_label(LABELS.num_classes)
    labels = torch.zeros((1, 6, 12, 12), dtype=torch.uint8)
    labels[0, :, :, :5], labels[0, :, :, 9] = outside if masked else 0, 2
    image = torch.ones((2, 6, 12, 12))
    case = TrainingCase("one", (6, 12, 12), (np.empty(0, np.int32), np.empty(0, np.int32)))
    source = Source((case,), 2, "memory", lambda _, box: (image[:, *box], labels[:, *box]))
    seen = set()

    def noise(images: torch.Tensor, maps: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        seen.update(maps.unique().tolist())
        return images + 1, maps

    sampler = replace(make_sampler(source, patch=(8, 12, 12)), plugins=noise, masked_channels=masked)
    batch = next(batches(sampler, [(0, 0)]))
    assert seen == ({-1, 0, 2} if masked else {0, 2})
    assert set(batch.labels.unique().tolist()) == {0, 2}
    expected = torch.zeros((8, 12, 12))
    expected[1:7, :, 5:] = 2
    untouched = torch.ones((8, 12, 12))
    untouched[1:7] = 2  # beyond the volume is noise alone
    for sample in batch.images:
        assert torch.equal(sample[0], expected if masked else untouched)
        assert torch.equal(sample[1], untouched)


def test_what_a_transform_marks_as_beyond_becomes_background() -> None:
    labels = torch.full((1, 6, 6, 6), 2, dtype=torch.uint8)
    case = TrainingCase("one", (6, 6, 6), (np.empty(0, np.int32), np.empty(0, np.int32)))
    source = Source((case,), 2, "memory", lambda _, box: (torch.ones((2, 6, 6, 6))[:, *box], labels[:, *box]))

    def shifted(images: torch.Tensor, maps: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        return images, functional.pad(maps[..., :-1], (1, 0), value=-1)

    batch = next(batches(replace(make_sampler(source, patch=(6, 6, 6)), plugins=shifted), [(0, 0)]))
    assert set(batch.labels[..., 0].unique().tolist()) == {0}
    assert set(batch.labels[..., 1:].unique().tolist()) == {2}

"""Sliding window: tile order and batch size do not matter, mirrors and networks are averaged, sides are swapped."""

import pytest
import torch
from torch import Tensor, nn

from autoseg.errors import ModelError
from autoseg.inference import sliding_window
from autoseg.inference.mirroring import mirror_flips
from autoseg.inference.padding import PaddedImage
from autoseg.inference.sliding_window import SlidingWindow, predict_rows, prediction_precision
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.recipe import Mirroring, Recipe
from autoseg.spatial.tiles import gaussian_weights
from tests.inference.whole import predict_logits

CPU = torch.device("cpu")
LABELS = LabelScheme(class_names=("background", "left", "right"), class_values=(0, 1, 2), num_entries=3)
NO_MIRRORING = Mirroring(in_prediction=False)


class Pointwise(nn.Module):
    """Logits that depend on each voxel alone: a tiling must give exactly them."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat([x[:, :1], -x[:, :1], x[:, :1] ** 2], dim=1) * self.factor,)


class Smoothing(nn.Module):
    """A random convolution: sees neighbours, zero outside the patch."""

    def __init__(self, seed: int, channels: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(3, channels, 3, 3, 3, generator=generator)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (nn.functional.conv3d(x, self.weight, padding=1),)


def volume(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(9, 12, 7), (3, 5, 8), (2, 2, 2), (17, 8, 9)])
@pytest.mark.parametrize("mirroring", [Mirroring(), NO_MIRRORING])
def test_pointwise_networks_are_reproduced(shape: tuple[int, ...], mirroring: Mirroring) -> None:
    image = volume(1, *shape)
    found = predict_logits([Pointwise()], image, SlidingWindow((4, 8, 6), LABELS, mirroring), CPU).logits
    torch.testing.assert_close(found, Pointwise()(image[None])[0][0], rtol=1e-5, atol=1e-5)


def test_batch_size_and_tile_order_change_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    image, networks = volume(1, 11, 13, 9), [Smoothing(1), Smoothing(2)]
    first = predict_logits(networks, image, SlidingWindow((4, 6, 4), LABELS, Mirroring(), tile_batch=1), CPU).logits
    second = predict_logits(networks, image, SlidingWindow((4, 6, 4), LABELS, Mirroring(), tile_batch=7), CPU).logits
    forwards = sliding_window.tile_starts
    monkeypatch.setattr(sliding_window, "tile_starts", lambda *args: forwards(*args)[::-1])
    third = predict_logits(networks, image, SlidingWindow((4, 6, 4), LABELS, Mirroring()), CPU).logits
    for other in (second, third):
        torch.testing.assert_close(first, other, rtol=1e-5, atol=1e-5)
        assert torch.equal(first.argmax(0), other.argmax(0))


def test_networks_are_averaged() -> None:
    image = volume(1, 6, 6, 6)
    pair = predict_logits(
        [Pointwise(1.0), Pointwise(3.0)], image, SlidingWindow((4, 4, 4), LABELS, NO_MIRRORING), CPU
    ).logits
    torch.testing.assert_close(pair, Pointwise(2.0)(image[None])[0][0], rtol=1e-5, atol=1e-5)
    twice = predict_logits([Smoothing(1)] * 2, image, SlidingWindow((4, 4, 4), LABELS, Mirroring()), CPU).logits
    once = predict_logits([Smoothing(1)], image, SlidingWindow((4, 4, 4), LABELS, Mirroring()), CPU).logits
    torch.testing.assert_close(twice, once, rtol=1e-5, atol=1e-5)


def test_mirrors_are_averaged() -> None:
    """One tile that holds the image: the mean over all eight flips, written down."""
    image, network = volume(1, 4, 6, 4), Smoothing(3)
    flips = mirror_flips(Mirroring(), (4, 6, 4))
    assert len(flips) == 8
    axes = [[a + 1 for a in flip] for flip in flips]
    wanted = torch.stack([network(image.flip(a)[None])[0][0].flip(a) for a in axes]).mean(0)
    found = predict_logits([network], image, SlidingWindow((4, 6, 4), LABELS, Mirroring()), CPU).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def probabilities_of_mirrorings(image: Tensor, network: nn.Module, patch: tuple[int, int, int]) -> list[Tensor]:
    """Softmax `H Z Y X` of every mirroring, turned back, the unflipped one first."""
    axes = [[a + 1 for a in flip] for flip in mirror_flips(Mirroring(), patch)]
    return [network(image.flip(a)[None])[0][0].flip(a).softmax(0) for a in axes]


def test_disagreement_is_the_mean_total_variation_to_the_image_as_it_is() -> None:
    """One tile that holds the image: written down."""
    image, network = volume(1, 4, 6, 4), Smoothing(3)
    first, *others = probabilities_of_mirrorings(image, network, (4, 6, 4))
    wanted = torch.stack([(other - first).abs().sum(0) / 2 for other in others]).mean(0)
    found = predict_logits([network], image, SlidingWindow((4, 6, 4), LABELS, Mirroring()), CPU).disagreement
    assert found is not None
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert 0.05 < float(found.mean()) < 1


def test_disagreement_does_not_depend_on_the_batch_and_is_nothing_without_cause() -> None:
    image, networks = volume(1, 11, 13, 9), [Smoothing(1), Smoothing(2)]
    found = [
        predict_logits(
            networks, image, SlidingWindow((4, 6, 4), LABELS, Mirroring(), tile_batch=size), CPU
        ).disagreement
        for size in (1, 3, 64)
    ]
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-5, atol=1e-5)
    same = predict_logits([Pointwise()], image, SlidingWindow((4, 6, 4), LABELS, Mirroring()), CPU).disagreement
    assert same is not None
    assert float(same.max()) < 1e-6
    assert (
        predict_logits([Pointwise()], image, SlidingWindow((4, 6, 4), LABELS, NO_MIRRORING), CPU).disagreement is None
    )


def test_disagreement_of_regions_is_the_largest_of_one() -> None:
    regions = tuple(Target(name=str(i), members=(1,)) for i in range(3))
    labels = LABELS.model_copy(update={"regions": regions, "region_order": (1, 1, 1)})
    image, network = volume(1, 4, 6, 4), Smoothing(3)
    flipped = network(image.flip(3)[None])[0][0].flip(3).sigmoid()
    wanted = (flipped - network(image[None])[0][0].sigmoid()).abs().amax(0)
    found = predict_logits([network], image, SlidingWindow((4, 6, 4), labels, Mirroring(axes=(2,))), CPU).disagreement
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_flip_across_the_swap_axis_exchanges_left_and_right() -> None:
    """A mirrored image gives the mirrored answer with sides exchanged, whatever the network."""
    mirroring = Mirroring(axes=(0, 1, 2), swap_axis=2, swap_pairs=((1, 2),))
    image, network = volume(1, 4, 6, 4), Smoothing(4)
    found = predict_logits([network], image, SlidingWindow((4, 6, 4), LABELS, mirroring), CPU).logits
    mirrored = predict_logits([network], image.flip(3), SlidingWindow((4, 6, 4), LABELS, mirroring), CPU).logits
    torch.testing.assert_close(mirrored.flip(3)[[0, 2, 1]], found, rtol=1e-5, atol=1e-5)
    plain = predict_logits([network], image, SlidingWindow((4, 6, 4), LABELS, Mirroring()), CPU).logits
    assert not torch.allclose(plain, found, atol=1e-2)


def test_previous_stage_channels_follow_their_classes() -> None:
    mirroring = Mirroring(axes=(2,), swap_axis=2, swap_pairs=((1, 2),))
    classes = torch.randint(0, 3, (1, 4, 6, 4), generator=torch.Generator().manual_seed(1)).float()
    image, network = volume(1, 4, 6, 4), Smoothing(5, channels=3)
    found = predict_logits(
        [network], torch.cat([image, classes]), SlidingWindow((4, 6, 4), LABELS, mirroring, has_previous=True), CPU
    ).logits
    whole = torch.cat([image, classes == 1, classes == 2])
    mirrored = whole.flip(3)[[0, 2, 1]]
    wanted = (network(whole[None])[0][0] + network(mirrored[None])[0][0].flip(3)[[0, 2, 1]]) / 2
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_mixed_precision_accumulates_in_float32() -> None:
    image = volume(1, 6, 6, 6)
    exact = predict_logits([Smoothing(6)], image, SlidingWindow((4, 4, 4), LABELS, NO_MIRRORING), CPU).logits
    found = predict_logits(
        [Smoothing(6)], image, SlidingWindow((4, 4, 4), LABELS, NO_MIRRORING, precision="bfloat16"), CPU
    ).logits
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.2)


@pytest.mark.parametrize(
    ("wanted", "cpu", "cuda"),
    [("auto", "float32", "float32"), ("bfloat16", "float32", "bfloat16"), ("float16", "float32", "float16")],
)
def test_held_out_and_new_cases_are_predicted_in_one_arithmetic(wanted: str, cpu: str, cuda: str) -> None:
    recipe = Recipe(precision=wanted)
    assert prediction_precision(recipe, CPU) == cpu
    assert prediction_precision(recipe, torch.device("cuda")) == cuda


def test_values_that_are_not_finite_are_refused() -> None:
    image = volume(1, 4, 4, 4)
    image[0, 3, 3, 3] = torch.inf
    with pytest.raises(ModelError, match="not finite"):
        predict_logits([Pointwise()], image, SlidingWindow((4, 4, 4), LABELS, NO_MIRRORING), CPU)
    with pytest.raises(ModelError, match="not finite"):
        predict_logits(
            [Pointwise(float("nan"))], volume(1, 4, 4, 4), SlidingWindow((4, 4, 4), LABELS, NO_MIRRORING), CPU
        )


class Counting(Smoothing):
    """Counts the tiles that it is asked about."""

    def __init__(self, seed: int, channels: int = 1) -> None:
        super().__init__(seed, channels)
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.asked += list(x)
        return super().forward(x)


def plainly(network: nn.Module, image: Tensor, patch: tuple[int, int, int], mirroring: Mirroring) -> Tensor:
    """Every tile in every mirroring, one by one into whole volumes; all that the module does is left out."""
    total, seen = torch.zeros((3, *image.shape[1:])), torch.zeros(image.shape[1:])
    weights = gaussian_weights(patch)
    for start in sliding_window.tile_starts(image.shape[1:], patch):
        where = tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))
        tile, flips = image[(slice(None), *where)], mirror_flips(mirroring, patch)
        axes = [[a + 1 for a in flip] for flip in flips]
        answers = [network(tile.flip(a)[None])[0][0].flip(a) if a else network(tile[None])[0][0] for a in axes]
        total[(slice(None), *where)] += torch.stack(answers).mean(0) * weights
        seen[where] += weights
    return total / seen


def airy(*shape: int) -> Tensor:
    """Air of one value, a body in the middle of z, something else constant at its end."""
    image = torch.full((1, *shape), -1.5)
    image[:, shape[0] // 3 : shape[0] // 2, 3:9, 3:9] = volume(1, shape[0] // 2 - shape[0] // 3, 6, 6)
    image[:, -5:] = 0.25
    return image


@pytest.mark.parametrize("mirroring", [Mirroring(), NO_MIRRORING])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_tiles_of_air_are_asked_about_once_and_no_label_differs(
    mirroring: Mirroring, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, patch = airy(30, 14, 15), (4, 6, 6)
    networks = [Counting(1), Counting(2)]
    found = predict_logits(networks, image, SlidingWindow(patch, LABELS, mirroring, tile_batch=batch), CPU)
    constant = [bool((tile == tile.flatten()[0]).all()) for tile in networks[0].asked]
    assert 1 <= sum(constant) <= 3  # air before and after the body, and the other constant
    assert len(networks[0].asked) == len(networks[1].asked)
    skipped = len(networks[0].asked)
    monkeypatch.setattr(sliding_window, "_constant", lambda scene, start: None)
    everything = predict_logits(networks, image, SlidingWindow(patch, LABELS, mirroring, tile_batch=batch), CPU)
    assert len(networks[0].asked) - skipped > 2 * skipped
    torch.testing.assert_close(found.logits, everything.logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.logits.argmax(0), everything.logits.argmax(0))
    if mirroring.in_prediction:
        torch.testing.assert_close(found.disagreement, everything.disagreement, rtol=1e-5, atol=1e-5)
    both = (plainly(networks[0], image, patch, mirroring) + plainly(networks[1], image, patch, mirroring)) / 2
    torch.testing.assert_close(found.logits, both, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.logits.argmax(0), both.argmax(0))


def test_a_constant_class_of_the_previous_stage_that_has_two_sides_is_not_skipped() -> None:
    """Its one-hot channel changes with a flip, so one answer does not do for all mirrorings."""
    mirroring = Mirroring(axes=(2,), swap_axis=2, swap_pairs=((1, 2),))
    image = torch.zeros(2, 4, 6, 8)
    for number in (0, 1):
        image[1] = number
        network = Counting(5, channels=3)
        found = predict_logits(
            [network], image, SlidingWindow((4, 6, 4), LABELS, mirroring, has_previous=True), CPU
        ).logits
        assert len(network.asked) == (1 if number == 0 else 6)
        whole = torch.cat([image[:1], image[1:] == 1, image[1:] == 2])
        mirrored = network(whole.flip(3)[[0, 2, 1]][None])[0][0].flip(3)[[0, 2, 1]]
        wanted = (network(whole[None])[0][0] + mirrored) / 2
        torch.testing.assert_close(found[:, 1:3, 1:5, 1], wanted[:, 1:3, 1:5, 1], rtol=1e-5, atol=1e-5)


def test_a_tile_with_one_voxel_that_is_not_a_number_is_not_air() -> None:
    image = torch.zeros(1, 4, 4, 4)
    image[0, 1, 1, 1] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        predict_logits([Smoothing(1)], image, SlidingWindow((4, 4, 4), LABELS, NO_MIRRORING), CPU)


@pytest.mark.parametrize(("shape", "patch"), [((23, 9, 8), (4, 6, 4)), ((9, 8, 8), (1, 8, 8)), ((2, 5, 9), (4, 6, 4))])
def test_rows_leave_as_soon_as_no_later_tile_touches_them(
    shape: tuple[int, int, int], patch: tuple[int, int, int]
) -> None:
    image, network = volume(1, *shape), Counting(3)
    whole = predict_logits([network], image, SlidingWindow(patch, LABELS, NO_MIRRORING, tile_batch=1), CPU)
    needed, first, network.asked = len(network.asked), 0, []
    starts = sliding_window.tile_starts(tuple(max(s, p) for s, p in zip(shape, patch, strict=True)), patch)
    for part in predict_rows([network], image, SlidingWindow(patch, LABELS, NO_MIRRORING, tile_batch=1), CPU):
        assert torch.equal(part, whole.logits[:, first : first + part.shape[1]])
        first += part.shape[1]
        below = sum(start[0] < first for start in starts)
        assert first == shape[0] or len(network.asked) <= below + 1
    assert (first, len(network.asked)) == (shape[0], needed)


def test_the_callers_code_runs_outside_of_inference_mode() -> None:
    for _ in predict_rows([Smoothing(1)], volume(1, 9, 4, 4), SlidingWindow((4, 4, 4), LABELS, Mirroring()), CPU):
        assert not torch.is_inference_mode_enabled()


def test_what_was_copied_to_a_device_is_neither_copied_nor_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    choose_layout = sliding_window.choose_layout
    monkeypatch.setattr(
        sliding_window,
        "choose_layout",
        lambda channels, *rest: (counted.append(channels), choose_layout(channels, *rest))[1],
    )
    image = volume(2, 3, 9, 5)
    padded = PaddedImage(image, (4, 8, 6))
    monkeypatch.setattr(padded, "lies_on", lambda device: bool(counted))
    found = [
        predict_logits([Smoothing(1, 2)], one, SlidingWindow((4, 8, 6), LABELS, Mirroring()), CPU)
        for one in (padded, padded)
    ]
    assert counted == [2, 0]
    expected = predict_logits([Smoothing(1, 2)], image, SlidingWindow((4, 8, 6), LABELS, Mirroring()), CPU)
    for one in found:
        assert torch.equal(one.logits, expected.logits)

"""What a case will need is counted before it is begun: sums of its networks, and bytes a voxel after them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from autoseg.inference.labelling import deciding_bytes
from autoseg.inference.memory import blending_bytes
from autoseg.records.geometry import IntTriple
from autoseg.records.postprocessing import TargetRule
from autoseg.records.recipe import Mirroring
from autoseg.records.results import PostprocessingRule
from autoseg.selection import memory_check
from autoseg.selection.memory_check import memory_shortage
from autoseg.selection.predictor import Predictor
from tests.pipeline.fakes import oblique_grid
from tests.postprocessing.test_apply import meta_of, rule_of

FILE: IntTriple = (100, 200, 300)
GRID: IntTriple = (50, 80, 90)
PATCH: IntTriple = (16, 32, 100)
CPU = torch.device("cpu")


def predictor(
    rule: PostprocessingRule = PostprocessingRule(),
    device: torch.device = CPU,
    axes=(),
    tile_weights="symmetric",
    previous=None,
) -> Predictor:
    settings = SimpleNamespace(
        tile_weights=tile_weights, patch_zyx=PATCH, recipe=SimpleNamespace(mirroring=Mirroring(axes=axes))
    )
    plan = SimpleNamespace(labels=SimpleNamespace(num_heads=7))
    model = SimpleNamespace(configuration="3d", settings=settings, plan=plan, networks=(0, 1, 2), previous=previous)
    return Predictor((model,), rule, device)


COARSE: IntTriple = (40, 60, 200)
GRIDS = {
    name: SimpleNamespace(meta=meta_of(oblique_grid(FILE)).model_copy(update={"shape": shape}))
    for name, shape in {"3d": GRID, "coarse": COARSE}.items()
}


def needed(chosen: Predictor, monkeypatch: pytest.MonkeyPatch) -> int:
    """The least that is enough, found by halving."""
    low, high = 0, 1 << 40
    while high - low > 1:
        middle = (low + high) // 2
        monkeypatch.setattr(memory_check, "available_memory_bytes", lambda enough=middle: enough)
        low, high = (low, middle) if memory_shortage(chosen, GRIDS) is None else (middle, high)
    return high


def test_needs_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grid is padded to the patch along x; one stream of sums, or one a fold; then bytes of each rule a voxel."""
    monkeypatch.setattr(memory_check, "deciding_bytes", lambda *_: 0)
    sums = 4 * (7 + 1) * 31 * 80 * 100
    assert sums == blending_bytes(7, (50, 80, 100), PATCH)
    voxels = 100 * 200 * 300
    assert needed(predictor(), monkeypatch) == sums + 4 * voxels
    assert needed(predictor(device=torch.device("cuda")), monkeypatch) == 4 * voxels
    assert needed(replace(predictor(), saves_probabilities=True), monkeypatch) == 3 * sums + 4 * voxels
    assert needed(predictor(tile_weights="nnunet"), monkeypatch) == 3 * sums + 4 * voxels
    assert needed(predictor(axes=(2,)), monkeypatch) == sums * 9 // 8 + 4 * voxels
    assert needed(predictor(PostprocessingRule(keep_largest=(1,))), monkeypatch) == sums + 7 * voxels
    small = rule_of(TargetRule(target="a", method="minimum_volume", feature="volume_mm3", minimum=9.0))
    unsure = rule_of(TargetRule(target="a", method="probability_mean", feature="probability_mean", minimum=0.5))
    assert needed(predictor(PostprocessingRule(components=small)), monkeypatch) == sums + 13 * voxels
    assert needed(predictor(PostprocessingRule(components=unsure)), monkeypatch) == 3 * sums + 16 * voxels


def test_the_threads_that_decide_count(monkeypatch: pytest.MonkeyPatch) -> None:
    both = deciding_bytes(7, GRID, FILE)
    assert both > 10 * 2**18
    with_them = needed(predictor(), monkeypatch)
    monkeypatch.setattr(memory_check, "deciding_bytes", lambda *_: 0)
    assert with_them - needed(predictor(), monkeypatch) == both


def test_the_stage_before_a_cascade_counts_where_it_needs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done, and its sums are gone, before the cascade's own begin; all its folds are blended together."""
    monkeypatch.setattr(memory_check, "deciding_bytes", lambda *_: 0)
    after = 4 * 100 * 200 * 300
    own, earlier = 4 * (7 + 1) * 31 * 80 * 100, 4 * (7 + 1) * 31 * 60 * 200
    stage = SimpleNamespace(**{**vars(predictor().models[0]), "configuration": "coarse"})
    assert needed(predictor(previous=stage), monkeypatch) == earlier + after
    assert needed(replace(predictor(previous=stage), saves_probabilities=True), monkeypatch) == 3 * own + after
    imported = SimpleNamespace(**{**vars(predictor(tile_weights="nnunet").models[0]), "configuration": "coarse"})
    assert needed(predictor(previous=imported), monkeypatch) == 3 * earlier + after
    assert needed(predictor(device=torch.device("cuda"), previous=imported), monkeypatch) == after


def test_it_says_what_is_needed_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "available_memory_bytes", lambda: 90 << 20)
    unsure = rule_of(TargetRule(target="a", method="probability_mean", feature="probability_mean", minimum=0.5))
    message = memory_shortage(predictor(PostprocessingRule(components=unsure)), GRIDS)
    assert "0.0 GiB are needed to blend tiles and 0.1 GiB for 6 million voxels after that, 0.1 GiB are free" in message
    assert "--fast" in message
    monkeypatch.setattr(memory_check, "available_memory_bytes", lambda: 1 << 20)
    assert "--fast" not in memory_shortage(predictor(), GRIDS)

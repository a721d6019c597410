"""A case with a learned rule that needs probabilities: its memory does not grow with the number of classes."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autoseg.inference import export
from autoseg.inference.export import native_windows, probability_depth
from autoseg.postprocessing import apply
from autoseg.postprocessing.features import CaseGrid
from autoseg.records.labels import LabelScheme
from autoseg.records.postprocessing import ComponentRule, ComponentSettings, LearningSettings, TargetRule
from autoseg.records.results import PostprocessingRule
from autoseg.selection.case_segmentation import CaseSegmentation, segment_case
from autoseg.selection.predictor import Predictor
from tests.pipeline.fakes import oblique_grid
from tests.postprocessing.test_apply import meta_of

SHAPE = (48, 64, 64)


def logit_rows(heads: int, seed: int) -> Iterator[torch.Tensor]:
    """Blobs of 16 x 16 x 16 voxels, each of one of five classes whatever the number of heads, two rows at a time."""
    classes = torch.from_numpy(np.random.default_rng(3).integers(0, 5, (3, 4, 4))).repeat_interleave(16, 1)
    classes, noise = classes.repeat_interleave(16, 2), torch.Generator().manual_seed(seed)
    for start in range(0, SHAPE[0], 2):
        rows = torch.rand((heads, 2, *SHAPE[1:]), generator=noise)
        yield rows.scatter_add_(0, classes[start // 16].expand(1, 2, -1, -1), torch.full((1, 2, *SHAPE[1:]), 8.0))


def answered(heads: int, folder: Path) -> CaseSegmentation:
    labels = LabelScheme(
        class_names=("background", *(f"class {n}" for n in range(1, heads))),
        class_values=tuple(range(heads)),
        num_entries=heads,
    )
    least = TargetRule(target="class 1", method="probability_mean", feature="probability_mean", minimum=0.99999)
    components = ComponentRule(
        components=ComponentSettings(),
        learning=LearningSettings(),
        targets=(least,),
        num_cases=5,
        num_groups=5,
        counts={},
        scores=(),
    )
    model = SimpleNamespace(plan=SimpleNamespace(labels=labels), networks=(0, 1))
    predictor = Predictor((model,), PostprocessingRule(components=components), torch.device("cpu"))
    meta = meta_of(oblique_grid(SHAPE, (1.0, 1.0, 1.0)))
    depth = probability_depth(heads, SHAPE)
    windows = zip(*(native_windows(logit_rows(heads, seed), meta, depth) for seed in (1, 2)), strict=True)
    grid = CaseGrid(np.zeros((1, *SHAPE), np.int16), ((0.0, 1.0),), (1.0, 1.0, 1.0), False)
    return segment_case(predictor, meta, windows, lambda: grid, folder, lambda _: None)


def test_memory_does_not_grow_with_the_number_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_VALUES_PER_SLAB", 1 << 18)  # a row of 60 heads
    monkeypatch.setattr(apply, "_ROWS_AT_A_TIME", 1 << 14)
    peaks = {}
    answered(6, tmp_path)  # what is imported on the way must not count
    for heads in (6, 60):
        peaks[heads] = np.inf
        for _ in range(3):  # the least of three, since threads that other tests left are measured too
            tracemalloc.start()
            found = answered(heads, tmp_path)
            peaks[heads] = min(peaks[heads], tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert {change.target for change in found.changes} == {"class 1"}
        assert not (found.classes == 1).any()
        assert set(np.unique(found.classes)) == {0, 2, 3, 4}
    assert peaks[60] < 1.3 * peaks[6]
    assert peaks[60] < 60 * np.prod(SHAPE)  # bytes: half of what all heads of one fold would take in float16
    assert not any(tmp_path.iterdir())

"""What is known before a fold's first step."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from autoseg.records.course import PatchGrowth, PatchStage
from autoseg.training.task import Task, batch_shapes, planned_gpu_bytes
from tests.training.tools import LABELS, RECIPE, make_sampler, make_source


@pytest.mark.parametrize(
    ("planned_for", "gib"), [("cuda 8 GiB", 8), ("cuda 12.5 GiB", 12.5), ("cpu", 0), ("unknown", 0), ("cuda", 0)]
)
def test_memory_of_the_planned_gpu(planned_for: str, gib: float) -> None:
    assert planned_gpu_bytes(planned_for) == gib * 2**30


@pytest.mark.parametrize(
    ("fractions", "keeps_voxels", "shapes"),
    [
        ((), False, [(2, 4, 16, 16, 16)]),
        ((0.5,), False, [(2, 4, 16, 16, 16), (2, 4, 8, 8, 8)]),
        ((0.5,), True, [(2, 4, 16, 16, 16), (16, 4, 8, 8, 8)]),
        ((0.5, 0.5, 0.99), False, [(2, 4, 16, 16, 16), (2, 4, 8, 8, 8)]),
    ],
)
def test_shapes_of_all_batches_the_whole_patch_first(
    fractions: tuple[float, ...], keeps_voxels: bool, shapes: list[tuple[int, ...]]
) -> None:
    """Of a cascade: two channels and two foreground classes of the stage before."""
    stages = tuple(PatchStage(until=(n + 1) / 9, fraction=fraction) for n, fraction in enumerate(fractions))
    recipe = RECIPE.model_copy(update={"patch_growth": PatchGrowth(stages=stages, keeps_voxels=keeps_voxels)})
    task = SimpleNamespace(
        plan=SimpleNamespace(channel_names=("a", "b"), labels=LABELS),
        configuration=SimpleNamespace(recipe=recipe, num_previous_channels=lambda labels: labels.num_classes - 1),
        sampler=make_sampler(make_source([(20, 20, 20)]), recipe, patch=(16, 16, 16)),
    )
    assert batch_shapes(cast("Task", cast("Any", task))) == shapes

"""A plan that names a user's own transforms trains with them, in threads; what fails in them ends it by name."""

import threading
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import numpy as np
import pytest

from autoseg import console
from autoseg.errors import UsageError
from autoseg.pipeline.train import train
from autoseg.records.plan import Plan
from autoseg.records.workspace import Paths
from autoseg.training import custom_transforms
from tests.pipeline.tiny import RECIPE, SHORT, make_plan

pytest.importorskip("batchgenerators")

SEEN: list[tuple[str, tuple[int, ...], set[int]]] = []


class Noted:
    """Notes its thread, the shape of the data and the labels."""

    def __call__(self, data: Any, seg: Any, keys: Any, rng: np.random.Generator) -> dict[str, Any]:
        SEEN.append((threading.current_thread().name, data.shape, set(np.unique(seg).tolist())))
        return {"data": data + np.float32(0.01 * rng.normal()), "seg": seg, "keys": keys}


class Failing:
    def __call__(self, **sample: Any) -> dict[str, Any]:
        raise KeyError("no such thing")


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    group = custom_transforms.ENTRY_POINTS
    installed = EntryPoints([EntryPoint(n, f"{__name__}:{n.title()}", group) for n in ("noted", "failing")])
    monkeypatch.setattr(custom_transforms, "entry_points", lambda group: installed.select(group=group))


def _plan(prepared: Paths, *names: str) -> Plan:
    augmentation = RECIPE.augmentation.model_copy(update={"plugins": names})
    return make_plan(prepared, name="_".join(names), recipe=RECIPE.model_copy(update={"augmentation": augmentation}))


def test_samples_pass_in_the_thread_of_a_cpus_training(prepared: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "say", said.append)
    SEEN.clear()
    plan = _plan(prepared, "noted")
    trained = train(prepared, plan, "3d_fullres", "0", SHORT)
    configuration = plan.configurations["3d_fullres"]
    steps = trained.epochs * trained.iterations_per_epoch
    assert len(SEEN) >= steps * configuration.batch_size  # more where steps are measured first
    assert {thread for thread, _, _ in SEEN} == {"MainThread"}, "a network may draw from the same generators"
    assert {shape for _, shape, _ in SEEN} == {(1, 1, *configuration.patch_zyx)}
    assert set().union(*(labels for _, _, labels in SEEN)) == set(range(plan.labels.num_classes))
    assert "Patches are changed on the CPU by the transforms noted." in said
    assert not any("prepare batches ahead" in line for line in said)


def test_a_failing_one_ends_it(prepared: Paths) -> None:
    with pytest.raises(UsageError, match=r"Case \S+: the transform 'failing' .* raised KeyError: 'no such thing'"):
        train(prepared, _plan(prepared, "noted", "failing"), "3d_fullres", "0", SHORT)


def test_one_that_is_not_installed_is_refused(prepared: Paths) -> None:
    with pytest.raises(UsageError, match=r"\['absent'\], installed are: failing, noted"):
        train(prepared, _plan(prepared, "absent"), "3d_fullres", "0", SHORT)

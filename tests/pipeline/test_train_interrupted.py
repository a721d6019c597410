"""Trainings and validations that were stopped go on where they were, and a budget holds all of it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from autoseg import console
from autoseg.errors import Preempted
from autoseg.pipeline.train import TrainOptions, is_trained, train
from autoseg.records.base import write_record
from autoseg.records.course import PatchGrowth, PatchStage, Watch
from autoseg.records.recipe import Optimizer, Sampling, Schedule
from autoseg.records.workspace import Paths
from tests.pipeline.tiny import RECIPE, SHORT, make_plan, weights_of


@pytest.mark.slow
def test_half_a_minute_holds_everything(prepared: Paths) -> None:
    started = time.monotonic()
    options = TrainOptions(budget_seconds=30.0, device="cpu")
    train(prepared, make_plan(prepared, name="budget"), "3d_fullres", "0", options)
    assert 20 <= time.monotonic() - started <= 33


@pytest.mark.parametrize(("name", "last"), [("stopped", "scores.json"), ("headless_stopped", "probabilities.b2nd")])
def test_a_validation_that_was_interrupted_goes_on(
    prepared: Paths, monkeypatch: pytest.MonkeyPatch, name: str, last: str
) -> None:
    plan, folder = make_plan(prepared, name=name), prepared.fold(name, "3d_fullres", "0")
    monkeypatch.setattr("autoseg.training.validation.has_image_libraries", lambda: name == "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(console, "track", _signalled_after_one_case)
        with pytest.raises(Preempted):
            train(prepared, plan, "3d_fullres", "0", SHORT)
    (done,) = folder.glob(f"validation/*.{last}")
    before = done.stat().st_mtime_ns
    assert not is_trained(prepared, plan, "3d_fullres", "0")
    record = train(prepared, plan, "3d_fullres", "0", SHORT)
    assert len(list(folder.glob(f"validation/*.{last}"))) == len(record.validation_cases) == 2
    assert done.stat().st_mtime_ns == before


def test_a_training_goes_on_with_the_seed_it_was_begun_with(prepared: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says to call it without --seed; patches and watched cases must not change then."""
    plan = make_plan(prepared, name="seeded")
    begun = SHORT.model_copy(update={"seed": 77})
    whole = train(prepared, plan, "3d_fullres", "0", begun)
    folder = prepared.fold("seeded", "3d_fullres", "0")
    expected = weights_of(folder)
    shutil.rmtree(folder)

    def stopping(items, total, what):  # type: ignore[no-untyped-def]
        for number, item in enumerate(items):
            if what.endswith("fold 0") and number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(console, "track", stopping)
        with pytest.raises(Preempted):
            train(prepared, plan, "3d_fullres", "0", begun)
    assert train(prepared, plan, "3d_fullres", "0", SHORT.model_copy(update={"seed": None})).epochs == whole.epochs
    assert all(torch.equal(expected[name], value) for name, value in weights_of(folder).items())


def _signalled_after_one_case(items, total, what):  # type: ignore[no-untyped-def]
    for number, item in enumerate(items):
        if what == "validation" and number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        yield item


WATCH = Watch(cases=1, every_epochs=2, window=1, patience=3)
GROWTH = PatchGrowth(stages=(PatchStage(until=0.3, fraction=0.5), PatchStage(until=0.6, fraction=0.75)))
SURVIVORS: dict[str, dict[str, object]] = {
    "plain": {"ema_decay": None},
    "average": {"ema_decay": 0.9},
    "schedule_free": {
        "ema_decay": None,
        "optimizer": Optimizer(name="schedule_free", momentum=0.9),
        "schedule": Schedule(name="wsd", warmup_fraction=0.1, cooldown_fraction=0.4),
    },
    "hard_watched": {"sampling": Sampling(class_balanced=True, hard_ratio=3.0), "watch": WATCH},
    "growth": {"patch_growth": GROWTH},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SURVIVORS)
def test_a_killed_training_resumes_to_the_same_weights(prepared: Paths, name: str) -> None:
    options = TrainOptions(epochs=14, iterations=4, seed=5, device="cpu")
    plan = make_plan(prepared, name=name, recipe=RECIPE.model_copy(update=SURVIVORS[name]))
    write_record(prepared.plan(name), plan)
    program = (
        "from pathlib import Path; from autoseg.records.workspace import Paths; from autoseg.records.plan import Plan;"
        "from autoseg.records.base import read_record; from autoseg.pipeline.train import *; "
        f"p = Paths(folder=Path({str(prepared.folder)!r})); "
        f"train(p, read_record(p.plan({name!r}), Plan), '3d_fullres', '2', TrainOptions(**{options.model_dump()}))"
    )
    folder = prepared.fold(name, "3d_fullres", "2")
    for at_epoch in (2, 6):
        process = subprocess.Popen([sys.executable, "-c", program])
        while not (folder / "history.jsonl").is_file() or _num_lines(folder) < at_epoch:
            time.sleep(0.05)
            assert process.poll() is None, "the training ended before it could be killed"
        process.kill()
        process.wait()
    train(prepared, plan, "3d_fullres", "2", options)
    resumed = weights_of(folder)
    shutil.rmtree(folder)
    train(prepared, plan, "3d_fullres", "2", options)
    whole = weights_of(folder)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(whole[key], value) for key, value in resumed.items())


def _num_lines(folder: Path) -> int:
    return len((folder / "history.jsonl").read_text().splitlines())

"""The one call for a GPU machine: a part's failure is told and ends no other; in small all of it runs on a CPU."""

import importlib.util
import itertools
import json
import math
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from autoseg.inference import memory
from tests import fake_gpu
from tests.conftest import PROJECT

GPU = PROJECT / "benchmarks" / "gpu"
GOOD = 'print(\'{"name": "step", "ours": 2.0, "unit": "ms"}\')'


def load_program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", GPU / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run with these parts (name -> program, seconds), seconds to spare, and a limit for all parts instead of theirs;
    the exit code and the lines by name."""

    def run(
        parts: dict[str, tuple[str, float]], spare: float = 60.0, limit: float | None = None
    ) -> tuple[int, dict[str, dict]]:
        module = load_program("run")
        for name, (program, _) in parts.items():
            (tmp_path / f"{name}.py").write_text(program)
        monkeypatch.setattr(module, "HERE", tmp_path)
        known = {name: module.Part(name, seconds, (), name == "peer") for name, (_, seconds) in parts.items()}
        monkeypatch.setattr(module, "PARTS", known)
        seconds = spare + sum(limit for _, limit in parts.values())
        monkeypatch.setattr(module, "CALLS", {"first": (seconds, tuple(parts))})
        monkeypatch.setattr(module, "START_SECONDS", 0.0)
        if limit is not None:
            monkeypatch.setattr(module, "limit_of", lambda coming, left: limit)
        monkeypatch.setattr(module, "PEER_NEEDS", ("sys",))
        monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"])
        code = module.main()
        lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
        assert set(lines[0]) >= {"date", "machine", "versions", "command"}
        return code, {line["name"]: line for line in lines[1:]}

    return run


def test_both_sides_of_a_line_are_joined(call) -> None:
    peer = 'print("noise"); print(\'{"name": "step", "peer": 5.0, "peer_workers": 3}\')'
    code, lines = call({"speed": (GOOD, 30), "peer": (peer, 30)})
    assert code == 0
    assert lines["step"] == {"name": "step", "ours": 2.0, "unit": "ms", "peer": 5.0, "peer_workers": 3, "ratio": 2.5}


def test_failures_are_told_and_the_others_go_on(call, tmp_path: Path) -> None:
    failing = GOOD.replace("step", "before") + '\nraise ValueError("no such kernel")'
    late = f"{GOOD.replace('step', 'early')}\nimport sys, time; sys.stdout.flush(); time.sleep(60)"
    code, lines = call({"checks": (failing, 1), "speed": (late, 1), "data": (GOOD, 1)}, limit=5)
    assert code == 1
    assert lines["part checks"]["failed"] == "exit code 1: ValueError: no such kernel"
    assert "not done in 5 s" in lines["part speed"]["failed"]
    assert {"before", "early", "step"} <= set(lines), "what a part found before it failed is kept"
    found = [json.loads(line)["name"] for line in (tmp_path / "out" / "found.jsonl").read_text().splitlines()]
    assert found == ["before", "early", "step"], "in a file as it is found"
    assert "no such kernel" in (tmp_path / "out" / "log.txt").read_text()


def test_a_part_whose_time_is_not_there_does_not_begin(call) -> None:
    """What comes before the parts takes longer than the 0.1 s that are to spare."""
    code, lines = call({"train_fold": (GOOD, 40), "speed": (GOOD, 0.1)}, spare=0)
    assert code == 1
    assert lines["part train_fold"]["failed"].startswith("not begun: it needs 40 s, ")
    assert lines["step"]["ours"] == 2.0, "a later one that needs less does"


def test_limits_grow_with_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_program("run")
    monkeypatch.setattr(run, "PARTS", {"a": run.Part("a", 10), "b": run.Part("b", 30)})
    assert run.limit_of(["a", "b"], 40) == 10
    assert run.limit_of(["a", "b"], 80) == 20
    assert run.limit_of(["a", "b"], 12) == 10, "no less than its own"
    assert run.limit_of(["b"], 72.5) == 72.5, "the last takes what there is"
    assert run.limit_of(["b"], 29) is None


def test_the_limits_of_a_call_fit_into_its_seconds() -> None:
    run = load_program("run")
    for name, (seconds, parts) in run.CALLS.items():
        assert run.needed_seconds(parts) <= seconds <= 580, name
    both = sum(run.CALLS[name][0] for name in ("first", "second"))
    assert both <= 660, "a loan of fifteen minutes, less what its start and transfers take"
    assert {part for _, parts in run.CALLS.values() for part in parts} == set(run.PARTS)
    assert all((GPU / f"{part.program}.py").is_file() for part in run.PARTS.values())


def test_a_call_that_cannot_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_program("run")
    given = ["run.py", str(tmp_path), "--out", str(tmp_path), "--parts", "data", "checks", "--seconds"]
    monkeypatch.setattr(sys, "argv", [*given, "100"])
    with pytest.raises(SystemExit):
        run.main()
    assert "(data 30, checks 45, and 30 to begin)" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*given, "110"])
    assert run.parse().seconds == 110


def test_every_budget_fits_into_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tenth more for each but the last, and 10 s in which the program begins."""
    monkeypatch.syspath_prepend(str(GPU))
    run, fold = load_program("run"), load_program("train_fold")
    for part in (part for part in run.PARTS.values() if part.program == "train_fold"):
        budgets = [float(text) for text in part.arguments[1:]]
        time_left = part.seconds - run._GRACE_SECONDS - fold._SPARE_SECONDS - 10
        assert 1.1 * sum(budgets[:-1]) + budgets[-1] <= time_left


def test_every_program_is_told_of() -> None:
    text = (GPU / "README.md").read_text()
    parts = set(load_program("run").PARTS)
    assert [p.name for p in GPU.glob("*.py") if p.stem not in parts and p.name not in text] == []


def test_both_sides_are_paired_by_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(GPU))
    scoring = load_program("scoring")
    ours = {"a": {"dice": 0.9}, "b": {"dice": 0.8, "nsd": 1.0}, "only ours": {"dice": 0.0}}
    theirs = {"a": {"dice": 0.8}, "b": {"dice": 0.8}, "only theirs": {"dice": 0.0}}
    found = scoring.paired(ours, theirs, "dice")
    assert (found["ours"], found["peer"], found["cases"]) == (0.85, 0.8, 2)
    assert found["difference"] == pytest.approx(0.05)
    assert found["low"] <= 0.05 <= found["high"]
    assert scoring.paired(ours, theirs, "nsd") == {}, "no case has it on both sides"


def test_the_peers_step_is_timed_before_and_after_it_is_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    """A call that ends while it is being compiled has the first line; else the second takes its place."""
    peer, plain, used = load_program("peer"), object(), []
    compiled = SimpleNamespace(_orig_mod=plain)
    trainer = SimpleNamespace(network=compiled, dataloader_train=itertools.count(), dataloader_val=None)
    trainer.train_step = lambda batch: used.append(trainer.network)
    peer.time_training(trainer, peer.Clock("cpu", 0.0, 1), smoke=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    steps = [line for line in lines if line["name"] == "training step, batch on the device"]
    assert [line["peer_compiled"] for line in steps] == [False, True]
    assert steps[1]["peer_eager_ms"] == steps[0]["peer"]
    assert used == [plain] * 3 + [compiled] * (3 + 2), "a first step, one more, one that is timed; then an epoch"
    assert lines[-1]["name"] == "epoch of 250 steps, data included"


@pytest.mark.parametrize("name", ["losses", "convolutions", "sliding_window", "resampling"])
def test_checks_pass_on_a_cpu_and_see_a_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(GPU))
    checks = load_program("checks")
    results = list(getattr(checks, name)(torch.device("cpu")))
    assert results
    assert [what for what, error, allowed in results if not error <= allowed] == []
    assert checks.relative(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1])) > 0.01
    assert checks.relative(torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0])) == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sliding_window", "optimizers", "losses"])  # others need values on the CPU's side
def test_checks_run_as_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they do on a GPU, without values: a fault in them would cost the one call that there is."""
    monkeypatch.syspath_prepend(str(GPU))
    checks, modes = load_program("checks"), []
    monkeypatch.setattr(memory, "free_gpu_bytes", lambda device: 2**33)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: None)  # there is no engine for a GPU
    with fake_gpu.fake_gpu(patient=True):
        results = list(getattr(checks, name)(fake_gpu.GPU))
    assert results
    assert all(error == 1 for _, error, _ in results), "what is asked for a value is told 1"
    assert modes == (["error", "default"] * 3 * 4 if name == "optimizers" else [])


@pytest.mark.slow
def test_all_of_it_in_small_on_a_cpu(
    tmp_path: Path, shared_data: Path, shared_reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = shared_reference / "nnunet_percase_dice" / "Dataset004_Hippocampus.json"
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    given = [str(shared_data / "Task04_Hippocampus"), str(reference), str(bundle), "--no-wheels"]
    given += ["--openkbp", str(shared_data / "Task14_OpenKBP")]
    monkeypatch.setattr(sys, "argv", ["prepare.py", *given])
    assert load_program("prepare").main() == 0
    parts = ["data", "checks", "speed", "compiled", "fold_2min", "hippocampus", "data_openkbp", "openkbp"]
    if "AUTOSEG_PEER_PYTHON" in os.environ:
        parts += ["peer", "peer_50", "peer_openkbp", "score"]
    arguments = [str(bundle), "--out", str(out), "--device", "cpu", "--smoke", "--parts", *parts]
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    assert load_program("run").main() == 0
    lines = {line["name"]: line for line in map(json.loads, (out / "results.jsonl").read_text().splitlines()[1:])}
    assert lines["checks that failed"]["ours"] == 0
    assert lines["Dice after 1 s"]["cases"] == 2
    assert lines["training step, batch on the device"]["ours"] > 0
    assert "skipped" in lines["training step, compilation graphs"]
    assert len(lines["training step, compilation off"]["losses"]) > 1
    assert lines["Task04_Hippocampus, 5 folds: Dice"]["cases"] == 10
    assert lines["Task14_OpenKBP, fold 0: surface Dice at 1 mm"]["cases"] == 2
    if "AUTOSEG_PEER_PYTHON" in os.environ:
        assert lines["training step, batch on the device"]["peer"] > 0
        assert lines["Task04_Hippocampus, nnU-Net, its 50 epochs: Dice"]["cases"] == 2
        assert 0 <= lines["Task14_OpenKBP, nnU-Net in the same time: Dice"]["peer"] < 1

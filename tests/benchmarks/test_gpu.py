"""The one call for a GPU machine: a part's failure is told and ends no other; in small all of it runs on a CPU."""

import importlib.util
import json
import math
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from autoseg.inference import memory
from tests import fake_gpu
from tests.conftest import PROJECT

GPU = PROJECT / "benchmarks" / "gpu"
GOOD = 'print(\'{"name": "step", "ours": 2.0, "unit": "ms"}\')'


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", GPU / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run with these parts (name -> program, seconds); returns the exit code and the written lines by name."""

    def run(parts: dict[str, tuple[str, float]]) -> tuple[int, dict[str, dict]]:
        module = _load("run")
        for name, (program, _) in parts.items():
            (tmp_path / f"{name}.py").write_text(program)
        monkeypatch.setattr(module, "HERE", tmp_path)
        known = {name: module.Part(name, seconds, (), name == "peer") for name, (_, seconds) in parts.items()}
        monkeypatch.setattr(module, "PARTS", known)
        monkeypatch.setattr(module, "CALLS", {"device": tuple(parts)})
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


def test_failures_are_told_and_the_others_go_on(call) -> None:
    failing = GOOD.replace("step", "before") + '\nraise ValueError("no such kernel")'
    late = f"{GOOD.replace('step', 'early')}\nimport sys, time; sys.stdout.flush(); time.sleep(60)"
    code, lines = call({"checks": (failing, 30), "speed": (late, 3), "data": (GOOD, 30)})
    assert code == 1
    assert lines["part checks"]["failed"] == "exit code 1: ValueError: no such kernel"
    assert "not done in 3 s" in lines["part speed"]["failed"]
    assert {"before", "early", "step"} <= set(lines), "what a part found before it failed is kept"


def test_the_limits_leave_time_within_ten_minutes() -> None:
    module = _load("run")
    for parts in module.CALLS.values():
        assert sum(module.PARTS[part].seconds for part in parts) <= 580
    assert {part for parts in module.CALLS.values() for part in parts} == set(module.PARTS)
    assert all((GPU / f"{part.program}.py").is_file() for part in module.PARTS.values())


def test_every_budget_fits_into_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tenth more for each, and what the program takes to begin."""
    monkeypatch.syspath_prepend(str(GPU))
    run, fold = _load("run"), _load("train_fold")
    time_left = run.PARTS["train_fold"].seconds - run._GRACE_SECONDS - fold._SPARE_SECONDS
    assert 1.1 * sum(fold.BUDGETS[:-1]) + fold.BUDGETS[-1] <= time_left


def test_every_program_is_told_of() -> None:
    text = (GPU / "README.md").read_text()
    parts = set(_load("run").PARTS)
    assert [p.name for p in GPU.glob("*.py") if p.stem not in parts and p.name not in text] == []


def test_both_sides_are_paired_by_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(GPU))
    scoring = _load("scoring")
    ours = {"a": {"dice": 0.9}, "b": {"dice": 0.8, "nsd": 1.0}, "only ours": {"dice": 0.0}}
    theirs = {"a": {"dice": 0.8}, "b": {"dice": 0.8}, "only theirs": {"dice": 0.0}}
    found = scoring.paired(ours, theirs, "dice")
    assert (found["ours"], found["peer"], found["cases"]) == (0.85, 0.8, 2)
    assert found["difference"] == pytest.approx(0.05)
    assert found["low"] <= 0.05 <= found["high"]
    assert scoring.paired(ours, theirs, "nsd") == {}, "no case has it on both sides"


@pytest.mark.parametrize("name", ["losses", "sliding_window", "resampling"])
def test_checks_pass_on_a_cpu_and_see_a_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(GPU))
    checks = _load("checks")
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
    checks, modes = _load("checks"), []
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
    assert _load("prepare").main() == 0
    parts = ["data", "checks", "speed", "compiled", "train_fold", "hippocampus", "data_openkbp", "openkbp"]
    if "AUTOSEG_PEER_PYTHON" in os.environ:
        parts += ["peer_50", "peer_openkbp", "score"]
    arguments = [str(bundle), "--out", str(out), "--device", "cpu", "--smoke", "--parts", *parts]
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    assert _load("run").main() == 0
    lines = {line["name"]: line for line in map(json.loads, (out / "results.jsonl").read_text().splitlines()[1:])}
    assert lines["checks that failed"]["ours"] == 0
    assert lines["Dice after 1 s"]["cases"] == 2
    assert lines["training step, batch on the device"]["ours"] > 0
    assert "skipped" in lines["training step, compilation graphs"]
    assert len(lines["training step, compilation off"]["losses"]) > 1
    assert lines["Task04_Hippocampus, 5 folds: Dice"]["cases"] == 10
    assert lines["Task14_OpenKBP, fold 0: surface Dice at 1 mm"]["cases"] == 2
    if "AUTOSEG_PEER_PYTHON" in os.environ:
        assert lines["Task04_Hippocampus, nnU-Net, its 50 epochs: Dice"]["cases"] == 2
        assert 0 <= lines["Task14_OpenKBP, nnU-Net in the same time: Dice"]["peer"] < 1

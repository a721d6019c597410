"""What nnU-Net chose among several models becomes the selection; what cannot be taken over is told and left out."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from autoseg import console
from autoseg.cli.main import main
from autoseg.errors import ModelError
from autoseg.interop.checkpoints import CheckpointFacts
from autoseg.interop.nnunet_choice import Member, read_choice
from autoseg.interop.nnunet_plans import import_plan
from autoseg.records.results import PostprocessingRule
from autoseg.selection.predictor import load_predictor
from tests.differential import nnunet_models as nn
from tests.interop.nnunet_folder import checkpoint, folder_name, results_folder, write_choice

NAMES = ("3d_lowres", "3d_fullres")
OWN = PostprocessingRule(keep_largest_together=((2,),))


def members(tmp_path: Path, folds: tuple[str, ...] = ("0", "1")) -> dict[str, Member]:
    settings = nn.configuration((1, 1, 1), (8, 8, 8), nn.architecture("PlainConvUNet", *nn.ISOTROPIC))
    found = {}
    for name in NAMES:
        facts = CheckpointFacts(configuration=name, trainer="nnUNetTrainer", mirror_axes=(), epochs=1)
        plan, ours = import_plan(nn.plans({name: settings}), nn.dataset(nn.LABELS), facts, tmp_path)
        found[folder_name(name)] = Member(plan, ours, folds, OWN)
    return found


def test_both_are_selected_with_their_own_rule(tmp_path: Path) -> None:
    selection, rule = read_choice(write_choice(tmp_path, NAMES, [0, 1], [1, 2], 1), members(tmp_path))
    assert (selection.plan, selection.configurations) == ("nnUNetPlans", NAMES)
    assert selection.folds == dict.fromkeys(NAMES, ("0", "1"))
    assert rule.keep_largest_together == ((1, 2), (1,))
    assert rule.decided_by == selection.decided_by != ""


def test_one_is_selected_with_the_rule_beside_it(tmp_path: Path) -> None:
    selection, rule = read_choice(write_choice(tmp_path, ["3d_fullres"], [0]), members(tmp_path))
    assert (selection.configurations, selection.folds) == (("3d_fullres",), {"3d_fullres": ("0",)})
    assert rule.keep_largest_together == OWN.keep_largest_together
    assert rule.decided_by == selection.decided_by


@pytest.mark.parametrize(
    ("names", "folds", "message"),
    [
        (("2d", "3d_fullres"), [0, 1], "nnUNetTrainer__nnUNetPlans__2d is not imported"),
        (NAMES, [0, 1, 2], "folds 0, 1, 2, of which some are not imported"),
        (NAMES, [0], "post-processing of the ensemble is not there"),
        ((), [0], "names no models"),
        (("3d_lowres", "3d_lowres"), [0], "names no models"),
        (NAMES, [], "no folds"),
        (NAMES, 5, "not as nnU-Net writes it"),
    ],
)
def test_why_it_is_not_taken_over(names: Sequence[str], folds: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        read_choice(write_choice(tmp_path, names, folds), members(tmp_path))


def test_plans_that_differ(tmp_path: Path) -> None:
    known = members(tmp_path)
    first = known[folder_name("3d_lowres")]
    known[folder_name("3d_lowres")] = first._replace(plan=first.plan.model_copy(update={"name": "another"}))
    with pytest.raises(ModelError, match="of different plans; import them with one --name"):
        read_choice(write_choice(tmp_path, NAMES, [0], 1), known)


def two_models(folder: Path) -> None:
    """A dataset's results of nnU-Net with two configurations of one network, one fold each."""
    model = results_folder(folder)
    other = folder / folder_name("3d_lowres")
    shutil.copytree(model, other)
    plans: Mapping[str, Any] = json.loads((other / "plans.json").read_text())
    settings = {**plans["configurations"]["3d_fullres"], "spacing": [2.0, 2.0, 2.0]}
    (other / "plans.json").write_text(json.dumps({**plans, "configurations": {"3d_lowres": settings}}))
    content = {**checkpoint(5), "init_args": {"configuration": "3d_lowres"}}
    torch.save(content, other / "fold_0" / "checkpoint_final.pth")


@pytest.mark.slow
def test_the_dataset_predicts_with_the_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_models(tmp_path / "results")
    write_choice(tmp_path / "results", NAMES, [0], [1, 2])
    console.configure(quiet=False)
    assert main(["import", "nnunet", str(tmp_path / "results"), "--work", str(tmp_path / "work")]) == 0
    said, dataset = capsys.readouterr(), tmp_path / "work" / "Dataset901_Made"
    assert f"autoseg predict --model {dataset} -i" in said.out
    assert "keep the largest component of organ + tumour" in said.err
    archive = tmp_path / "model.zip"
    assert main(["pack", str(dataset), str(archive), "-q"]) == 0
    for model in (dataset, archive):
        predictor = load_predictor(model, None, torch.device("cpu"))
        assert [one.configuration for one in predictor.models] == list(NAMES)
        assert predictor.rule.keep_largest_together == ((1, 2),)
    for target, reason in ((["-o", str(tmp_path / "apart")], "without -o"), (["--name", "again"], "is there already")):
        command = ["import", "nnunet", str(tmp_path / "results"), "--work", str(tmp_path / "work"), *target]
        assert main([*command, "-q"]) == 0
        assert reason in " ".join(capsys.readouterr().err.split())

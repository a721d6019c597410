"""nnU-Net's post-processing of a model: what its JSON says becomes our rule; anything else is told and left out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoseg import console
from autoseg.cli.main import main
from autoseg.interop.nnunet_postprocessing import KEEP_LARGEST, import_postprocessing
from autoseg.postprocessing.rules import apply_rule
from autoseg.records.base import read_record
from autoseg.records.labels import LabelScheme
from autoseg.records.results import PostprocessingRule
from autoseg.selection.predictor import load_predictor
from tests.interop.models import LABELS
from tests.interop.nnunet_folder import results_folder

FOLDS = ("0", "1")


def write(model: Path, *steps: Any, folder: str = "crossval_results_folds_0_1", function: str = KEEP_LARGEST) -> None:
    content = {
        "input_folder": {"mean": {"1": {"Dice": 0.5}}},
        "postprocessing_fns": [function] * len(steps),
        "postprocessing_kwargs": [{"labels_or_regions": step} for step in steps],
    }
    (model / folder).mkdir(parents=True)
    (model / folder / "postprocessing.json").write_text(json.dumps(content))
    (model / folder / "postprocessing.pkl").write_bytes(b"never opened")


@pytest.fixture(autouse=True)
def _speaking() -> None:
    console.configure(quiet=False)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (([1, 2],), ((1, 2),)),
        (([1, 2], 2), ((1, 2), (2,))),
        (([[1, 2], 1], [2]), ((1, 2), (2,))),
        ((), ()),
    ],
)
def test_its_steps_become_ours(steps: Any, expected: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "model", *steps)
    rule = import_postprocessing(tmp_path / "model", FOLDS, LABELS)
    assert rule.keep_largest_together == expected
    assert rule.changes_nothing == (not steps)
    said = capsys.readouterr().err
    assert ("organ + tumour" in said) == bool(steps)
    assert "warning" not in said


def test_values_are_not_class_numbers(tmp_path: Path) -> None:
    labels = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 5, 3), num_entries=3)
    write(tmp_path / "model", [3, 5], 5)
    assert import_postprocessing(tmp_path / "model", FOLDS, labels).keep_largest_together == ((1, 2), (1,))


@pytest.mark.parametrize(
    ("steps", "more", "message"),
    [
        ((3,), {}, "labels are [1, 2]"),
        ((0,), {}, "labels are [1, 2]"),
        ((True,), {}, "labels are [1, 2]"),
        (([[]],), {}, "labels are [1, 2]"),
        (("1",), {}, "labels are [1, 2]"),
        ((1,), {"function": "os.system"}, "names os.system"),
        ((1,), {"folder": "crossval_results_folds_0_1_2"}, "other folds than 0, 1"),
    ],
)
def test_what_is_not_taken_over_is_told(
    steps: Any, more: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "model", *steps, **more)
    assert import_postprocessing(tmp_path / "model", FOLDS, LABELS).changes_nothing
    said = capsys.readouterr().err
    assert "warning: model: nnU-Net's post-processing is not taken over" in said
    assert "nnUNetv2_apply_postprocessing -pp_pkl_file" in said
    assert message in said


def test_a_pickle_alone_is_not_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "model", 1)
    (tmp_path / "model" / "crossval_results_folds_0_1" / "postprocessing.json").unlink()
    assert import_postprocessing(tmp_path / "model", FOLDS, LABELS).changes_nothing
    assert "postprocessing.json is missing" in capsys.readouterr().err


def test_none_was_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_postprocessing(tmp_path, FOLDS, LABELS).changes_nothing
    assert "chose no post-processing" in capsys.readouterr().err


def test_steps_follow_one_another() -> None:
    classes = np.array([[[1, 2, 0, 2, 2, 0, 1, 1, 1, 2]]], np.int16)
    rule = PostprocessingRule(keep_largest_together=((1, 2), (2,)))
    # The last four stay of both classes together; of what is left, class 2 is one voxel.
    np.testing.assert_array_equal(apply_rule(classes, rule), [[[0, 0, 0, 0, 0, 0, 1, 1, 1, 2]]])
    # The other way round, the pair of class 2 is its largest component, and goes in the next step.
    turned = PostprocessingRule(keep_largest_together=((2,), (1, 2)))
    np.testing.assert_array_equal(apply_rule(classes, turned), [[[0, 0, 0, 0, 0, 0, 1, 1, 1, 0]]])


def test_an_imported_model_predicts_and_is_packed_with_it(tmp_path: Path) -> None:
    model = results_folder(tmp_path / "results", FOLDS)
    write(model, [1, 2])
    assert main(["import", "nnunet", str(model), "-o", str(tmp_path / "ours"), "-q"]) == 0
    folder, device = tmp_path / "ours" / "3d_fullres", torch.device("cpu")
    rule = read_record(folder / "postprocessing.json", PostprocessingRule)
    assert rule.keep_largest_together == ((1, 2),)
    assert load_predictor(folder, None, device).rule == rule
    assert load_predictor(folder / "fold_0", None, device).rule == rule
    assert main(["pack", str(folder), str(tmp_path / "model.zip"), "-q"]) == 0
    assert load_predictor(tmp_path / "model.zip", None, device).rule == rule

"""Trust, end to end on a fake network: what is learned from held-out cases is said about new ones, and rightly."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from autoseg.cli.main import main
from autoseg.errors import UsageError
from autoseg.images.writing import write_image, write_label
from autoseg.inference.model import load_model
from autoseg.inference.predictor import segment
from autoseg.inference.store import read_disagreement, read_probabilities
from autoseg.pipeline.flow import choose
from autoseg.pipeline.predict import predict
from autoseg.pipeline.report import report
from autoseg.pipeline.trust import learn_trust, measure_features
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Case, Dataset
from autoseg.records.plan import Plan
from autoseg.records.prediction_folder import read_finished
from autoseg.records.recipe import Mirroring
from autoseg.records.results import Evaluation, PostprocessingRule
from autoseg.records.trust import Trust
from autoseg.records.workspace import Paths
from autoseg.selection.features import FeatureSums
from autoseg.selection.held_out import HeldOut, calibrated_probabilities, find_held_out
from autoseg.selection.predictor import Predictor, load_predictor, prepare
from tests.inference.whole import (
    case_rows,
    native_disagreement,
    native_probabilities,
    predict_folds_at_once,
    write_disagreement,
    write_probabilities,
)
from tests.pipeline.fakes import LABELS, blobs, image_of, make_plan, make_workspace, oblique_grid, write_fold

CPU = torch.device("cpu")
NAMES = ("3d_fullres", "3d_lowres")
IDS = tuple(f"case_{number:02d}" for number in range(15))
FOLDS = {str(fold): IDS[fold::3] for fold in range(3)}


def noisy(classes: np.ndarray, noise: float, seed: int) -> np.ndarray:
    return (image_of(classes) + noise * np.random.default_rng(seed).standard_normal(classes.shape)).astype(np.float32)


def noise_of(case: str) -> float:
    return 12.0 + 4.0 * (7 * IDS.index(case) % len(IDS))


def make_mirrored_plan() -> Plan:
    plan = make_plan(names=NAMES, patch=(4, 6, 8))
    mirrored = {
        name: settings.model_copy(
            update={"recipe": settings.recipe.model_copy(update={"mirroring": Mirroring(axes=(1, 2))})}
        )
        for name, settings in plan.configurations.items()
    }
    return plan.model_copy(update={"configurations": mirrored})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Paths, Plan]:
    """Two configurations, three folds; held-out cases are predicted as validation does it."""
    folder, plan = tmp_path_factory.mktemp("trust"), make_mirrored_plan()
    cases = tuple(Case(id=case, images=(f"imagesTr/{case}.nii.gz",), label=f"labelsTr/{case}.nii.gz") for case in IDS)
    paths = make_workspace(folder, cases)
    write_record(paths.plan(plan.name), plan)
    for number, case in enumerate(IDS):
        classes = blobs(seed=number)
        grid = oblique_grid(classes.shape)
        write_image(folder / "data" / cases[number].images[0], noisy(classes, noise_of(case), number), grid)
        write_label(folder / "data" / str(cases[number].label), LABELS.to_file(classes), grid)
    for name in NAMES:
        for fold, held_out in FOLDS.items():
            offset = 8.0 * int(fold)
            target = write_fold(paths.fold("plan", name, fold), plan, name, fold, offset, validation=held_out)
            validate(target, folder / "data", [case for case in cases if case.id in held_out])
    return paths, plan


def validate(fold: Path, root: Path, cases: list[Case]) -> None:
    model = load_model([fold], CPU)
    for case in cases:
        grids = prepare(predictor_of(model), root, case)
        rows, meta = case_rows(model, grids, CPU), grids[model.configuration].meta
        write_probabilities(fold / "validation", meta, native_probabilities(rows, meta, LABELS))
        disagreement = native_disagreement(rows, meta, LABELS.num_heads)
        write_disagreement(fold / "validation", meta, disagreement)


def predictor_of(*models):
    return Predictor(tuple(models), PostprocessingRule(), CPU)


@pytest.fixture(scope="module")
def chosen(workspace: tuple[Paths, Plan]):
    paths, plan = workspace
    return choose(paths, plan.name, "cpu")


def test_what_is_learned(workspace, chosen) -> None:
    paths, _ = workspace
    trust = read_record(paths.trust, Trust)
    assert trust == chosen.trust
    assert trust.decided_by == chosen.selection.decided_by
    assert trust.quality.scores.num_cases == len(IDS)
    areas = trust.quality.scores
    assert areas.perfect.area <= areas.predicted.area < areas.random.area
    evaluation = read_record(paths.evaluation, Evaluation)
    risks = [1 - np.mean([score.dice for score in scores.values()]) for scores in evaluation.cases.values()]
    assert areas.random.area == pytest.approx(np.mean(risks))
    assert areas.perfect.area == pytest.approx(np.mean(np.cumsum(np.sort(risks)) / np.arange(1, len(IDS) + 1)))
    assert set(trust.volumes) == {"a", "b"}
    assert all(interval.num_cases == len(IDS) for interval in trust.volumes.values())
    assert any("intensity" in name for name in trust.known)
    assert not trust.notes


def test_learning_is_skipped_until_the_scores_change(workspace, chosen, monkeypatch) -> None:
    paths, plan = workspace
    with monkeypatch.context() as patch:
        patch.setattr("autoseg.pipeline.trust.measure_features", lambda *_: pytest.fail("measured again"))
        assert learn_trust(paths, plan) == chosen.trust
    before = paths.evaluation.read_bytes()
    evaluation = read_record(paths.evaluation, Evaluation)
    write_record(paths.evaluation, evaluation.model_copy(update={"title": "another"}))
    assert learn_trust(paths, plan).inputs != chosen.trust.inputs
    paths.evaluation.write_bytes(before)
    assert learn_trust(paths, plan) == chosen.trust


def test_prediction_applies_the_same_temperatures_and_is_what_was_stored(workspace, chosen) -> None:
    """One fold's network on a case it held out: what `predict` sees is what was stored, calibrated."""
    paths, plan = workspace
    case = read_case(paths, IDS[0])
    fold = next(fold for fold, held_out in FOLDS.items() if case.id in held_out)
    name = chosen.selection.configurations[0]
    temperature = chosen.calibration.configurations[name].folds[fold].temperature
    assert temperature != 1
    held = find_held_out(paths, plan)[name]
    same = HeldOut(held.folds, held.folders, held.digest, {case.id: temperature})
    model = load_model([paths.fold(plan.name, name, fold)], CPU, [temperature])
    root = Path(read_root(paths))
    seen = []
    segment(
        [model],
        prepare(predictor_of(model), root, case),
        CPU,
        lambda probabilities, apart: seen.append((probabilities[0].numpy().copy(), apart[0].copy())),
    )
    found = np.concatenate([one for one, _ in seen], axis=1)
    wanted = calibrated_probabilities(same, case.id, LABELS)
    difference = np.abs(found.astype(np.float32) - wanted.astype(np.float32))
    assert difference.max() < 2e-2  # what float16 rounded to 0 comes back a little
    assert difference.mean() < 5e-4
    uncalibrated = find_stored(same, case.id)
    assert np.abs(found.astype(np.float32) - uncalibrated).max() > 0.1
    apart = np.concatenate([one for _, one in seen])
    np.testing.assert_array_equal(apart, read_disagreement(same.folders[case.id], case.id))
    features = measure_features(case.id, [same], LABELS)
    assert {"mirroring_disagreement", "expected_dice", "log10_volume"} <= set(features)


def test_folds_and_ensembles_show_the_same_to_the_watcher(workspace, chosen) -> None:
    """Two configurations: the watcher sees both, and the segmentation is that without a watcher."""
    paths, plan = workspace
    case, root = read_case(paths, IDS[1]), Path(read_root(paths))
    models = [load_model([paths.fold(plan.name, name, "0")], CPU) for name in NAMES]
    grids = prepare(predictor_of(*models), root, case)
    seen = []
    watched = segment(models, grids, CPU, lambda probabilities, apart: seen.append((len(probabilities), len(apart))))
    np.testing.assert_array_equal(watched, segment(models, grids, CPU))
    assert set(seen) == {(2, 2)}
    single: list = []
    np.testing.assert_array_equal(
        segment(models[:1], grids, CPU, lambda *shown: single.append(shown)), segment(models[:1], grids, CPU)
    )
    assert single


def test_asked_fold_by_fold_a_model_shows_the_same(workspace, chosen, tmp_path: Path) -> None:
    """Post-processing that needs probabilities predicts fold by fold; what is measured is the same but for rounding."""
    paths, plan = workspace
    case, root = read_case(paths, IDS[2]), Path(read_root(paths))
    models = [load_model([paths.fold(plan.name, name, fold) for fold in FOLDS], CPU) for name in NAMES]
    for asked in (models[:1], models):
        grids = prepare(predictor_of(*asked), root, case)
        together, one_by_one = FeatureSums(LABELS, 3.0), FeatureSums(LABELS, 3.0)
        found = segment(asked, grids, CPU, together.add)
        folder = tmp_path / str(len(asked))
        folder.mkdir()
        np.testing.assert_array_equal(predict_folds_at_once(asked, grids, CPU, folder, one_by_one.add).labels, found)
        assert one_by_one.result() == pytest.approx(together.result(), abs=5e-3)


def test_predict_says_which_new_cases_to_look_at(workspace, chosen, tmp_path: Path, capsys) -> None:
    paths, _ = workspace
    images = tmp_path / "images"
    levels = {"clear": 12.0, "fair": 35.0, "bad": 90.0}
    for number, (name, noise) in enumerate(levels.items()):
        classes = blobs(seed=100 + number)
        write_image(images / f"{name}.nii.gz", noisy(classes, noise, 200 + number), oblique_grid(classes.shape))
    coarse = oblique_grid(blobs().shape, spacing_mm=(9.0, 1.5, 1.0))
    write_image(images / "coarse.nii.gz", noisy(blobs(), 12.0, 1), coarse)
    bright = 40.0 * noisy(blobs(), 12.0, 1)
    write_image(images / "bright.nii.gz", bright, oblique_grid(blobs().shape))
    predict(paths, images, tmp_path / "out", device="cpu")
    judged = read_finished(tmp_path / "out").judged
    assert set(judged) == {*levels, "coarse", "bright"}
    assert judged["clear"].predicted_dice > judged["fair"].predicted_dice > judged["bad"].predicted_dice
    assert judged["clear"].reasons == ()
    assert any("predicted Dice" in reason for reason in judged["bad"].reasons)
    assert any(reason.startswith("spacing along z in mm 9 is unlike") for reason in judged["coarse"].reasons)
    assert any("intensity of channel 0" in reason for reason in judged["bright"].reasons)
    told = capsys.readouterr().err
    assert "bad: look at it:" in told
    assert "clear: look at it:" not in told
    with (tmp_path / "out" / "quality.csv").open(newline="") as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream)}
    assert {case: row["look_at_it"] for case, row in rows.items() if case != "fair"} == {
        "clear": "no", "bad": "yes", "coarse": "yes", "bright": "yes",
    }  # fmt: skip
    volume = float(rows["clear"]["a mm3"])
    assert float(rows["clear"]["a low mm3"]) <= volume <= float(rows["clear"]["a high mm3"])
    assert volume == pytest.approx(judged["clear"].volumes["a"].volume_mm3, abs=0.01)


def test_training_cases_are_usual_and_their_order_is_foretold(workspace, chosen, tmp_path: Path) -> None:
    paths, _ = workspace
    root = Path(read_root(paths))
    predict(paths, root / "imagesTr", tmp_path / "out", device="cpu")
    judged = read_finished(tmp_path / "out").judged
    assert not any("unlike" in reason for judgement in judged.values() for reason in judgement.reasons)
    predicted = [judged[case].predicted_dice for case in IDS]
    assert stats.spearmanr(predicted, [-noise_of(case) for case in IDS]).statistic > 0.7


def test_kept_cases_keep_what_was_said_and_another_model_says_nothing(workspace, chosen, tmp_path: Path) -> None:
    paths, plan = workspace
    images = tmp_path / "images"
    for number in range(2):
        write_image(images / f"{number}.nii.gz", noisy(blobs(), 20.0, number), oblique_grid(blobs().shape))
    predict(paths, images / "0.nii.gz", tmp_path / "out", device="cpu")
    first = read_finished(tmp_path / "out").judged
    predict(paths, images, tmp_path / "out", device="cpu", keep_finished=True)
    both = read_finished(tmp_path / "out").judged
    assert set(both) == {"0", "1"}
    assert both["0"] == first["0"]
    predict(paths.configuration(plan.name, NAMES[0]), images, tmp_path / "other", device="cpu")
    assert not read_finished(tmp_path / "other").judged
    assert not (tmp_path / "other" / "quality.csv").exists()


def test_what_was_said_of_an_earlier_segmentation_goes_with_it(workspace, chosen, tmp_path: Path) -> None:
    paths, plan = workspace
    write_image(tmp_path / "images" / "0.nii.gz", noisy(blobs(), 20.0, 0), oblique_grid(blobs().shape))
    predict(paths, tmp_path / "images", tmp_path / "out", device="cpu")
    assert (tmp_path / "out" / "quality.csv").is_file()
    alone = paths.configuration(plan.name, NAMES[0])
    predict(alone, tmp_path / "images", tmp_path / "out", device="cpu", keep_finished=True)  # says nothing
    assert not read_finished(tmp_path / "out").judged
    predict(paths, tmp_path / "images", tmp_path / "out", device="cpu")
    predict(alone, tmp_path / "images", tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "quality.csv").exists()


def test_what_belongs_to_another_selection_is_not_used(workspace, chosen) -> None:
    paths, plan = workspace
    before = paths.trust.read_bytes()
    write_record(paths.trust, chosen.trust.model_copy(update={"decided_by": "another"}))
    assert load_predictor(paths, plan.name, CPU).trust is None
    paths.trust.write_bytes(before)
    assert load_predictor(paths, plan.name, CPU).trust == chosen.trust
    names = chosen.selection.configurations
    divisors = [network.temperature for m in load_predictor(paths, None, CPU).models for network in m.networks]
    known = chosen.calibration.configurations
    assert divisors == [known[name].folds[fold].temperature for name in names for fold in sorted(FOLDS)]


def test_the_commands_print_and_return_it(workspace, chosen, tmp_path: Path, capsys) -> None:
    paths, _ = workspace
    where = ["--work", str(paths.folder.parent), "--quiet"]
    assert main(["select", paths.folder.name, "--device", "cpu", *where]) == 0
    printed = capsys.readouterr().out
    for part in ("s a case", "<- chosen", "best single configuration", "temperature", "ECE", "risk-coverage curve"):
        assert part in printed
    assert main(["select", paths.folder.name, "--device", "cpu", "--json", *where]) == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content) == {"selection", "calibration", "postprocessing", "trust"}
    write_image(tmp_path / "in" / "x.nii.gz", noisy(blobs(), 90.0, 5), oblique_grid(blobs().shape))
    arguments = ["predict", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), paths.folder.name, *where]
    assert main([*arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["segmentations"] == [str(tmp_path / "out" / "x.nii.gz")]
    assert content["judged"]["x"]["reasons"]
    assert main(["select", paths.folder.name, "--device", "cpu", "--objective", "dice:nothing", *where]) == 2


def test_the_report_shows_it(workspace, chosen) -> None:
    page = report(workspace[0]).read_text("utf-8")
    for part in (
        'aria-label="Risk by coverage"', "Seconds a case", "How it was chosen", "best single configuration",
        "ECE before", "Conformal intervals of volumes", "mean probability (",
    ):  # fmt: skip
        assert part in page


def test_nothing_selected_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="autoseg select"):
        learn_trust(make_workspace(tmp_path), make_plan())


def find_stored(held: HeldOut, case: str) -> np.ndarray:
    return read_probabilities(held.folders[case], case).astype(np.float32)


def read_case(paths: Paths, case_id: str) -> Case:
    return next(case for case in read_record(paths.dataset, Dataset).training if case.id == case_id)


def read_root(paths: Paths) -> str:
    return read_record(paths.dataset, Dataset).root

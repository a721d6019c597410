"""Fine-tuning from another model: which fold, which weights, what is refused, what is remembered."""

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from autoseg import console
from autoseg.cli.main import main
from autoseg.errors import ModelError, Preempted, UsageError
from autoseg.pipeline.fingerprint import verify_and_fingerprint
from autoseg.pipeline.ingest import ingest
from autoseg.pipeline.pack import pack
from autoseg.pipeline.plan import PlanOptions
from autoseg.pipeline.plan import plan as plan_stage
from autoseg.pipeline.preprocess import preprocess
from autoseg.pipeline.train import train
from autoseg.pipeline.trainings import TrainRequest, train_folds
from autoseg.planning.distractors import plan_distractors
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset, Fold
from autoseg.records.plan import Plan
from autoseg.records.results import TrainedFold
from autoseg.records.workspace import Paths
from autoseg.training.initial_weights import find_start
from autoseg.training.learner import Learner
from autoseg.training.schedule import TrainingSchedule
from tests.pipeline.tiny import FOLDS, SHORT, prepare, weights_of

KERNELS = ((3, 3, 3), (5, 5, 5))


def write_other(folder: Path) -> None:
    """Two channels of which the model knows one, the class `far` that it knows under another number, and `new`."""
    rng = np.random.default_rng(7)
    for number in range(6):
        labels = np.zeros((12, 10, 9), np.uint8)
        labels[3:7, 3:7, 2:5] = 2
        labels[7:10, 3:7, 5:8] = 3
        for room, arrays in (("imagesTr", (labels * 2.0, labels + 1.0)), ("labelsTr", (labels,))):
            (folder / room).mkdir(parents=True, exist_ok=True)
            for channel, array in enumerate(arrays):
                noise = rng.normal(0, 0.1, labels.shape) if room == "imagesTr" else 0
                ending = f"_{channel:04d}" if room == "imagesTr" else ""
                image = nibabel.Nifti1Image((array + noise).astype(np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))
                nibabel.save(image, folder / room / f"other_{number}{ending}.nii.gz")
    content = {
        "channel_names": {"0": "ADC", "1": "MRI"},
        "labels": {"background": 0, "far": 3, "new": 2},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Paths, Plan]:
    paths, plan = prepare(tmp_path_factory.mktemp("base"))
    for fold in FOLDS:
        train(paths, plan, "3d_fullres", fold, SHORT)
    return paths, plan


@pytest.fixture(scope="module")
def model(base: tuple[Paths, Plan], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder, copied elsewhere."""
    paths, plan = base
    return Path(shutil.copytree(paths.configuration(plan.name, "3d_fullres"), tmp_path_factory.mktemp("copy") / "m"))


@pytest.fixture(scope="module")
def other(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Paths, Plan]:
    """Another dataset, planned like the model."""
    folder = tmp_path_factory.mktemp("other")
    write_other(folder / "Other")
    paths = ingest(str(folder / "Other"), folder / "work", num_folds=3)
    verify_and_fingerprint(paths, num_workers=1)
    plan = plan_stage(paths, like=model)
    preprocess(paths, plan, num_workers=1)
    return paths, plan


def first_weights(
    monkeypatch: pytest.MonkeyPatch, paths: Paths, plan: Plan, fold: str, model: Path
) -> tuple[dict[str, torch.Tensor], float]:
    """Weights before the first step, and the peak learning rate."""
    seen: list[Learner] = []

    def stop(learner: Learner, *_: object) -> None:
        seen.append(learner)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("autoseg.pipeline.train.train_network", stop)
        with pytest.raises(KeyboardInterrupt):
            train(paths, plan, "3d_fullres", fold, SHORT.model_copy(update={"start": model}))
    shutil.rmtree(paths.fold(plan.name, "3d_fullres", fold))
    return seen[0].network.state_dict(), seen[0].recipe.optimizer.learning_rate


def test_a_plan_like_the_model_has_its_network_and_the_datasets_labels(
    base: tuple[Paths, Plan], other: tuple[Paths, Plan]
) -> None:
    _, known = base
    paths, plan = other
    theirs, ours = known.configurations["3d_fullres"], plan.configurations["3d_fullres"]
    assert (plan.name, list(plan.configurations)) == ("like_tiny", ["3d_fullres"])
    for field in ("network", "patch_size", "batch_size", "spacing_mm"):
        assert getattr(ours, field) == getattr(theirs, field)
    assert (plan.transpose, plan.orientation) == (known.transpose, known.orientation)
    assert (plan.labels.class_names, plan.channel_names) == (("background", "new", "far"), ("ADC", "MRI"))
    assert ours.normalization == ("zscore", "zscore")
    assert ours.median_shape == pytest.approx((9 * 2 / 1.5, 10, 12))
    assert ours.recipe.optimizer == theirs.recipe.optimizer
    assert read_record(paths.plan("like_tiny"), Plan) == plan
    with pytest.raises(UsageError, match="--like takes preset, memory and orientation from the model"):
        plan_stage(paths, PlanOptions(preset="small"), like=paths.folder)
    with pytest.raises(ModelError, match=f"{paths.plans} holds no trained fold: expected a model"):
        plan_stage(paths, like=paths.plans)


def test_names_decide_what_is_kept(
    base: tuple[Paths, Plan], model: Path, other: tuple[Paths, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, plan = other
    weights, rate = first_weights(monkeypatch, paths, plan, "1", model)
    known = weights_of(model / "fold_1")
    assert rate == pytest.approx(0.3 * plan.configurations["3d_fullres"].recipe.optimizer.learning_rate)
    head, stem = weights["heads.0.weight"], weights["encoder.0.0.conv.weight"]
    # Of the model: background, near, far. Here: background, new, far.
    assert torch.equal(head[[0, 2]], known["heads.0.weight"][[0, 2]])
    assert not torch.equal(head[1], known["heads.0.weight"][1])
    assert torch.equal(stem[:, 1:], known["encoder.0.0.conv.weight"])
    torch.testing.assert_close(stem[:, :1], known["encoder.0.0.conv.weight"])  # the mean of one
    for name, value in weights.items():
        if not name.startswith("heads.") and name != "encoder.0.0.conv.weight":
            assert torch.equal(value, known[name])


def test_what_it_came_from_is_remembered_and_needed_to_go_on(
    model: Path, other: tuple[Paths, Plan], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, plan = other
    options = SHORT.model_copy(update={"start": model})
    folder = paths.fold(plan.name, "3d_fullres", "0")

    def stopping(items, total, what):  # type: ignore[no-untyped-def]
        for number, item in enumerate(items):
            if what.endswith("fold 0") and number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield item

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(console, "track", stopping)
        patch.setattr(console, "say", said.append)
        with pytest.raises(Preempted):
            train(paths, plan, "3d_fullres", "0", options)
    told = "fold 0 of Tiny; new: output new, channel ADC; learning rate times 0.3"
    assert any(line.endswith(told) for line in said)
    schedule = read_record(folder / "schedule.json", TrainingSchedule)
    assert schedule.inputs is not None
    with pytest.raises(UsageError, match="was begun from another model: name it with --from to go on"):
        train(paths, plan, "3d_fullres", "0", SHORT)
    with pytest.raises(UsageError, match="name it with --from, as it was"):
        train(paths, plan, "3d_fullres", "0", SHORT.model_copy(update={"start": model / "fold_2"}))
    record = train(paths, plan, "3d_fullres", "0", options)
    (origin,) = record.origins
    assert (origin.dataset, origin.configuration, origin.fold) == ("Tiny", "3d_fullres", "0")
    assert (origin.weights, origin.kept_heads, origin.kept_channels) == (
        schedule.inputs.origin,
        ("background", "far"),
        ("MRI",),
    )
    resumed = weights_of(folder)
    shutil.rmtree(folder)
    train(paths, plan, "3d_fullres", "0", options)
    whole = weights_of(folder)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert "otherwise than" not in capsys.readouterr().err  # images are prepared as for the model
    train(paths, plan, "3d_fullres", "0", options.model_copy(update={"start": model / "fold_2"}))
    assert "the model that it starts from was trained anew" in capsys.readouterr().err


def test_going_on_without_the_start_it_never_had(base: tuple[Paths, Plan], model: Path, tmp_path: Path) -> None:
    paths, plan = base
    fresh = Paths(folder=tmp_path / "Tiny")
    shutil.copytree(paths.folder, fresh.folder)
    folder = fresh.fold("tiny", "3d_fullres", "1")
    (folder / "fold.json").unlink()
    with pytest.raises(UsageError, match="was begun without --from: call it without to go on"):
        train(fresh, plan, "3d_fullres", "1", SHORT.model_copy(update={"start": model}))


def test_a_fold_never_starts_from_what_saw_its_held_out_cases(base: tuple[Paths, Plan], model: Path) -> None:
    paths, plan = base
    folds = {fold: read_record(model / f"fold_{fold}" / "fold.json", TrainedFold) for fold in FOLDS}
    cases = {fold: Fold(train=r.train_cases, validation=r.validation_cases) for fold, r in folds.items()}
    start = find_start(model, plan, "3d_fullres", "2", cases["2"])
    assert start.origins[-1].fold == "2"
    with pytest.raises(UsageError, match="was trained on cases that this fold holds out"):
        find_start(model / "fold_1", plan, "3d_fullres", "2", cases["2"])
    with pytest.raises(UsageError, match="has no trained fold all; its others were trained on"):
        find_start(model, plan, "3d_fullres", "all", cases["2"])
    with pytest.raises(ModelError, match=f"{paths.plans} holds no trained fold: expected a model"):
        find_start(paths.plans, plan, "3d_fullres", "0", cases["0"])


def test_a_packed_model_is_as_good_as_its_folder(
    model: Path, other: tuple[Paths, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the commands: the same plan, the same first weights, and no trace of the folder that it was unpacked to."""
    paths, plan = other
    zipped, root = tmp_path / "model.zip", read_record(paths.dataset, Dataset).root
    pack(model, zipped)
    work = ["--work", str(paths.folder.parent), "--json"]
    assert main(["plan", root, "--like", str(zipped), "--name", "zipped", *work]) == 0
    assert read_record(paths.plan("zipped"), Plan) == plan.model_copy(update={"name": "zipped"})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    wanted, _ = first_weights(monkeypatch, paths, plan, "1", model)
    found, _ = first_weights(monkeypatch, paths, plan, "1", zipped)
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())
    assert not list((tmp_path / "tmp").iterdir())
    (tmp_path / "empty").mkdir()
    for call in (["plan", root, "--like"], ["train", root, "3d_fullres", "1", "--plan", plan.name, "--from"]):
        assert main([*call, str(tmp_path / "empty"), *work]) == 6, call


def test_whose_cases_are_not_named_never_holds_any_out(base: tuple[Paths, Plan], model: Path, tmp_path: Path) -> None:
    """A packed model names none of its cases; one of nnU-Net's never did."""
    _, plan = base
    record = read_record(model / "fold_0" / "fold.json", TrainedFold)
    cases = Fold(train=record.train_cases, validation=record.validation_cases)
    pack(model, tmp_path / "model.zip")
    nameless = Path(shutil.copytree(model / "fold_0", tmp_path / "fold_0"))
    write_record(nameless / "fold.json", record.model_copy(update={"train_cases": ()}))
    for start in (tmp_path / "model.zip", nameless):
        with pytest.raises(UsageError, match="does not say on which of its cases"):
            find_start(start, plan, "3d_fullres", "0", cases)
        elsewhere = plan.model_copy(update={"dataset": "Elsewhere"})
        assert find_start(start, elsewhere, "3d_fullres", "0", cases).origins[-1].fold == "0"
    for start in (tmp_path / "model.zip", nameless, model):
        found = find_start(start, plan, "3d_fullres", "all", Fold(train=("x",), validation=()))
        assert found.origins[-1].fold == "0", "no fold_all is there, and nothing is held out that another may have seen"


def test_ancestors_count_as_well(
    model: Path, other: tuple[Paths, Plan], base: tuple[Paths, Plan], tmp_path: Path
) -> None:
    """Tiny -> Other -> Tiny: the cases of the first are known in the third."""
    _, tiny = base
    paths, plan = other
    train(paths, plan, "3d_fullres", "2", SHORT.model_copy(update={"start": model / "fold_1"}))
    grandchild = paths.fold(plan.name, "3d_fullres", "2")
    seen = read_record(model / "fold_1" / "fold.json", TrainedFold).train_cases
    with pytest.raises(UsageError, match=f"this fold holds out: {seen[0]}"):
        find_start(grandchild, tiny, "3d_fullres", "0", Fold(train=seen[1:], validation=seen[:1]))
    unseen = find_start(grandchild, tiny, "3d_fullres", "1", Fold(train=seen, validation=("case_unseen",)))
    assert [o.dataset for o in unseen.origins] == ["Tiny", "Other"]


def test_another_dataset_prefers_the_model_of_all_cases(model: Path, other: tuple[Paths, Plan], tmp_path: Path) -> None:
    _, plan = other
    cases = Fold(train=("other_0",), validation=("other_1",))
    both = tmp_path / "m"
    shutil.copytree(model, both)
    assert find_start(both, plan, "3d_fullres", "4", cases).origins[-1].fold == "0"
    shutil.copytree(both / "fold_2", both / "fold_all")
    record = read_record(both / "fold_all" / "fold.json", TrainedFold)
    write_record(both / "fold_all" / "fold.json", record.model_copy(update={"fold": "all"}))
    assert find_start(both, plan, "3d_fullres", "1", cases).origins[-1].fold == "all"


def test_another_network_is_refused_and_other_spacing_is_named(
    base: tuple[Paths, Plan], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, plan = base
    record = read_record(model / "fold_0" / "fold.json", TrainedFold)
    cases = Fold(train=record.train_cases, validation=record.validation_cases)

    def changed(**changes: object) -> Plan:
        settings = plan.configurations["3d_fullres"].model_copy(update=changes)
        return plan.model_copy(update={"configurations": {**plan.configurations, "3d_fullres": settings}})

    network = plan.configurations["3d_fullres"].network
    wide = changed(network=network.model_copy(update={"features_per_stage": (4, 8)}))
    with pytest.raises(
        UsageError, match=r"another network than .*\(features_per_stage\)[^$]*autoseg plan DATASET --like"
    ):
        find_start(model, wide, "3d_fullres", "0", cases)
    find_start(model, changed(network=network.model_copy(update={"kernel_sizes": KERNELS})), "3d_fullres", "0", cases)
    assert "otherwise than" not in capsys.readouterr().err
    find_start(model, changed(spacing_mm=(3.0, 1.0, 1.0)), "3d_fullres", "0", cases)
    assert "prepares images otherwise than" in capsys.readouterr().err


def test_a_larger_kernel_is_trained_from_a_smaller(
    base: tuple[Paths, Plan], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, plan = base
    settings = plan.configurations["3d_fullres"]
    network = settings.network.model_copy(update={"kernel_sizes": KERNELS})
    settings = settings.model_copy(update={"network": network})
    large = plan.model_copy(update={"name": "large", "configurations": {"3d_fullres": settings}})
    weights, _ = first_weights(monkeypatch, paths, large, "0", model)
    assert weights["encoder.1.0.conv.weight"].shape[2:] == (5, 5, 5)
    assert torch.equal(weights["encoder.0.0.conv.weight"], weights_of(model / "fold_0")["encoder.0.0.conv.weight"])


def test_damaged_weights_and_distractors(base: tuple[Paths, Plan], model: Path, tmp_path: Path) -> None:
    paths, plan = base
    broken = shutil.copytree(model, tmp_path / "m")
    for path in (broken / "fold_0" / "weights").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-8])
    root = read_record(paths.dataset, Dataset).root
    cases = Fold(train=(), validation=())
    with pytest.raises(ModelError):
        find_start(broken / "fold_0", plan, "3d_fullres", "0", cases)
    request = TrainRequest(
        configuration="3d_fullres",
        fold="0",
        distractors=True,
        epochs=2,
        iterations=2,
        seed=5,
        device="cpu",
        start=model,
    )
    before = read_record(paths.plan("tiny"), Plan)
    with pytest.raises(UsageError, match="refines the configuration's own weights: leave --from out"):
        train_folds(root, paths.folder.parent, request)
    assert read_record(paths.plan("tiny"), Plan) == before
    changed, name = plan_distractors(plan, "3d_fullres")
    with pytest.raises(
        UsageError, match="starts from the weights of 3d_fullres; fine-tune that one from another model"
    ):
        train(paths, changed, name, "0", SHORT.model_copy(update={"start": model}))

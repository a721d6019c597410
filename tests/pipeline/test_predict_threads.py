"""Predict in threads, and fast: faults stay with their case, an end of the run ends all, less is asked of networks."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.errors import DataError, PartialError, ResourceError
from autoseg.images import contents
from autoseg.images.reading import read_label
from autoseg.inference import export
from autoseg.inference import predictor as inference
from autoseg.inference.store import read_probabilities
from autoseg.pipeline import predict as stage_module
from autoseg.pipeline.predict import predict
from autoseg.records.dataset import Case
from autoseg.records.postprocessing import ComponentRule, TargetRule
from autoseg.records.prediction_folder import read_finished
from autoseg.records.results import PostprocessingRule
from autoseg.records.trust import Trust
from autoseg.selection import case_segmentation, memory_check
from autoseg.selection import predictor as predictor_module
from autoseg.selection.predictor import fast_predictor, load_predictor, prepare
from autoseg.spatial.tiles import tile_starts
from autoseg.storage import large_arrays
from tests.pipeline.fakes import LABELS, ByIntensity, blobs, make_plan, write_fold
from tests.pipeline.test_predict import CLASSES, CPU, put


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / "images"


def put_many(images: Path, ids: str) -> None:
    for number, case in enumerate(ids):
        put(images, f"{case}.nii.gz", blobs(seed=number))


@pytest.mark.parametrize(
    "place", ["read_case_image", "case_windows", "native_windows", "logits_to_labels_into", "write_label"]
)
def test_a_faulty_case_is_named_whichever_thread_it_fails_in(
    tmp_path: Path, images: Path, monkeypatch, place: str
) -> None:
    """Reading, the networks, resampling, deciding, writing of `b` alone; `a` and `c` are right all the same."""
    model = write_fold(tmp_path / "fold_0", make_plan())
    put_many(images, "abc")
    wanted = predict(model, images, tmp_path / "wanted", device="cpu")
    modules = {"read_case_image": predictor_module, "native_windows": inference, "logits_to_labels_into": inference}
    modules["case_windows"] = case_segmentation
    module, calls = modules.get(place, stage_module), []
    original = getattr(module, place)

    def sometimes(*arguments, **named):
        calls.append(place)
        if len(calls) == 2:
            raise DataError("broken")
        return original(*arguments, **named)

    monkeypatch.setattr(module, place, sometimes)
    with pytest.raises(PartialError, match=r"1 of 3 .*\n  b: broken$"):
        predict(model, images, tmp_path / "out", device="cpu")
    for path in wanted:
        found = tmp_path / "out" / path.name
        assert found.is_file() == (path.name != "b.nii.gz")
        if found.is_file():
            np.testing.assert_array_equal(read_label(found).array, read_label(path).array)
    assert set(read_finished(tmp_path / "out").cases) == {"a", "c"}
    assert len(calls) == 3  # once a case, so the second was b


def test_an_error_that_ends_the_run_ends_all_threads(tmp_path: Path, images: Path, monkeypatch) -> None:
    """The disk is full at the second of many cases: no later one is written, and the call returns."""
    model = write_fold(tmp_path / "fold_0", make_plan())
    put_many(images, "abcdefgh")
    before, original, written = set(threading.enumerate()), stage_module.write_label, []

    def fail(path: Path, *rest, **named):
        if written:
            raise ResourceError("nothing left")
        written.append(path)
        return original(path, *rest, **named)

    monkeypatch.setattr(stage_module, "write_label", fail)
    with pytest.raises(ResourceError, match="nothing left"):
        predict(model, images, tmp_path / "out", device="cpu")
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["a.nii.gz"]
    assert set(read_finished(tmp_path / "out").cases) == {"a"}
    assert set(threading.enumerate()) <= before


def test_an_interruption_of_the_networks_hangs_nothing(tmp_path: Path, images: Path, monkeypatch) -> None:
    model = write_fold(tmp_path / "fold_0", make_plan())
    put_many(images, "abc")
    before, calls, original = set(threading.enumerate()), iter(range(9)), case_segmentation.case_windows

    def interrupted(*arguments, **named):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    monkeypatch.setattr(case_segmentation, "case_windows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(model, images, tmp_path / "out", device="cpu")
    assert set(read_finished(tmp_path / "out").cases) == {"a"}  # it was with the exporting thread already
    assert set(threading.enumerate()) <= before


def test_fast_asks_less_of_the_networks_and_is_another_model(tmp_path: Path, images: Path, monkeypatch) -> None:
    plan = make_plan(patch=(4, 6, 8))
    assert plan.configurations["3d_fullres"].recipe.mirroring.axes
    model = write_fold(tmp_path / "fold_0", plan)
    put(images, "case.nii.gz")
    asked = []

    def counted(self: ByIntensity, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        asked.append(len(x))
        return (self.conv(x),)

    monkeypatch.setattr(ByIntensity, "forward", counted)
    numbers = []
    for fast in (False, True):
        (path,) = predict(model, images, tmp_path / "out", device="cpu", keep_finished=True, fast=fast)
        np.testing.assert_array_equal(read_label(path).array[0], LABELS.to_file(CLASSES))
        numbers.append(sum(asked))
        asked.clear()
    shape = prepare(load_predictor(model, None, CPU), images, Case(id="case", images=("case.nii.gz",)))
    tiles = [len(tile_starts(shape["3d_fullres"].image.shape[1:], (4, 6, 8), step)) for step in (0.5, 0.75)]
    assert numbers[0] <= 8 * tiles[0]
    assert numbers[1] <= tiles[1] < tiles[0]
    assert numbers[0] > 8 * numbers[1]


def test_fast_leaves_out_what_was_learned_from_full_predictions(tmp_path: Path, capsys) -> None:
    predictor = load_predictor(write_fold(tmp_path / "fold_0", make_plan()), None, CPU)
    trust = Trust.model_construct(inputs="x")
    components = ComponentRule.model_construct(targets=(TargetRule.model_construct(feature="mirror_mean"),))
    assert components.needs_probabilities
    rule = PostprocessingRule.model_construct(keep_largest=(1,), components=components)
    quick = fast_predictor(replace(predictor, trust=trust, rule=rule))
    assert quick.trust is None
    assert quick.rule.components is None
    assert quick.rule.keep_largest == (1,)
    assert "no post-processing of components and no predicted quality" in capsys.readouterr().err
    assert quick.models[0].digest != predictor.models[0].digest
    assert not quick.models[0].settings.recipe.mirroring.in_prediction
    assert predictor.models[0].settings.recipe.mirroring.in_prediction


def test_a_case_that_will_not_fit_is_named_before_it_is_begun(tmp_path: Path, images: Path, monkeypatch) -> None:
    model = write_fold(tmp_path / "fold_0", make_plan())
    put_many(images, "ab")
    begun: list[str] = []
    monkeypatch.setattr(case_segmentation, "case_windows", lambda *_, **__: begun.append("a case"))
    monkeypatch.setattr(memory_check, "available_memory_bytes", lambda: 1000)
    with pytest.raises(PartialError, match=r"2 of 2 .*\n  a: it does not fit into memory: about .* GiB are needed"):
        predict(model, images, tmp_path / "out", device="cpu")
    assert not begun


def test_a_case_waits_for_the_memory_of_those_before_it(tmp_path: Path, images: Path, monkeypatch) -> None:
    """While `a` and `b` are under way there is no room for the next one; when they are written there is."""
    model = write_fold(tmp_path / "fold_0", make_plan())
    put_many(images, "abc")
    asked: list[tuple[str, bool]] = []

    def lack(_predictor, grids) -> str | None:
        case = next(iter(grids.values())).meta.id
        before = all((tmp_path / "out" / f"{other}.nii.gz").is_file() for other in "abc" if other < case)
        asked.append((case, before))
        return None if before else "no room"

    monkeypatch.setattr(stage_module, "memory_shortage", lack)
    assert len(predict(model, images, tmp_path / "out", device="cpu")) == 3
    assert {case for case, before in asked if before} == set("abc")


def test_arrays_that_lie_in_files_change_nothing(tmp_path: Path, images: Path, monkeypatch) -> None:
    """As if hardly any memory were free: image, grid and labels are mapped; segmentations are the same bytes."""
    model = write_fold(tmp_path / "fold_0", make_plan())
    put_many(images, "ab")
    wanted = predict(model, images, tmp_path / "wanted", device="cpu", save_probabilities=True)
    made: list[np.ndarray] = []
    original = export.large_array

    def noted(*arguments) -> np.ndarray:
        made.append(original(*arguments))
        return made[-1]

    monkeypatch.setattr(export, "large_array", noted)
    monkeypatch.setattr(large_arrays, "available_memory_bytes", lambda: 100)
    monkeypatch.setattr(contents, "_READ_BYTES", 0)
    found = predict(model, images, tmp_path / "out", device="cpu", save_probabilities=True)
    assert len(made) == 2
    assert all(isinstance(labels.base, np.memmap) for labels in made)
    for one, other in zip(wanted, found, strict=True):
        assert one.read_bytes() == other.read_bytes()
    for case in "ab":
        parts = [read_probabilities(tmp_path / name, case) for name in ("wanted", "out")]
        np.testing.assert_array_equal(*parts)


def test_an_interrupt_before_the_first_window_ends_the_export(tmp_path: Path, images: Path, monkeypatch) -> None:
    """The export has the case already and waits for what nobody will make."""
    model = write_fold(tmp_path / "fold_0", make_plan())
    put_many(images, "ab")

    def interrupted(_queue: object, _items: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage_module.BoundedQueue, "fill", interrupted)
    ended: list[bool] = []

    def run() -> None:
        with pytest.raises(KeyboardInterrupt):
            predict(model, images, tmp_path / "out", device="cpu")
        ended.append(True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert ended, "the command hangs"

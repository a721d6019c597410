import json
from pathlib import Path

import pytest

from autoseg import console
from autoseg.errors import UsageError
from autoseg.pipeline.plan import PlanOptions, choose_plan, plan, plan_from_files, plateau_settings
from autoseg.records.base import read_record, write_record
from autoseg.records.plan import Plan
from autoseg.records.workspace import Paths
from tests.planning.examples import dataset, fingerprint, scheme


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(folder=tmp_path / "Example")
    found.folder.mkdir()
    write_record(found.dataset, dataset(scheme(("left eye", "right eye"))))
    write_record(found.fingerprint, fingerprint())
    return found


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was said or warned of."""
    lines: list[str] = []
    monkeypatch.setattr(console, "say", lines.append)
    monkeypatch.setattr(console, "warn", lines.append)
    return lines


def test_plan_is_written_and_then_skipped(paths: Paths, said: list[str]) -> None:
    made = plan(paths, PlanOptions("small", settings=["2d.batch_size=3"]))
    assert made.name == "small"
    assert read_record(paths.plan("small"), Plan) == made
    written = paths.plan("small").stat().st_mtime_ns
    assert plan(paths, PlanOptions("small", settings=["2d.batch_size=3"])) == made
    assert paths.plan("small").stat().st_mtime_ns == written
    assert said[-1] == "plan small: unchanged, skipped"


def test_a_plan_edited_by_hand_is_kept_unless_overwritten(paths: Paths, said: list[str]) -> None:
    made = plan(paths, PlanOptions("nnunet"))
    path = paths.plan("nnunet")
    path.write_text(path.read_text().replace('"seed": 12345', '"seed": 7'))
    kept = plan(paths, PlanOptions("nnunet"))
    assert kept.configurations["2d"].recipe.seed == 7
    assert "2d.recipe" in said[-1]
    assert "--overwrite" in said[-1]
    assert plan(paths, PlanOptions("nnunet"), overwrite=True) == made


def test_settings_are_applied_to_a_kept_plan(paths: Paths, said: list[str]) -> None:
    plan(paths, PlanOptions("nnunet", settings=["2d.batch_size=3"]))
    changed = plan(paths, PlanOptions("nnunet", settings=["3d_fullres.batch_size=5"]))
    assert changed.configurations["2d"].batch_size == 3
    assert changed.configurations["3d_fullres"].batch_size == 5
    assert read_record(paths.plan("nnunet"), Plan) == changed
    assert "2d.batch_size" in said[-1]


def test_orientation_is_planned_with(paths: Paths) -> None:
    stored = plan(paths, PlanOptions("default", name="mine", settings=["orientation=stored"]))
    assert stored.orientation == "stored"
    assert stored.configurations["3d_fullres"].recipe.mirroring.swap_axis is None
    plan(paths, PlanOptions("default"))
    with pytest.raises(UsageError, match="--overwrite"):
        plan(paths, PlanOptions("default", settings=["orientation=stored"]))
    with pytest.raises(UsageError, match="orientation"):
        plan(paths, PlanOptions("default", name="other", settings=["orientation=upright"]))


def test_choosing_a_plan(paths: Paths) -> None:
    with pytest.raises(UsageError, match="none yet"):
        choose_plan(paths, None)
    plan(paths, PlanOptions("nnunet"))
    assert choose_plan(paths, None).name == "nnunet"
    plan(paths, PlanOptions("nnunet", name="b"))
    with pytest.raises(UsageError, match="b, nnunet"):
        choose_plan(paths, None)
    with pytest.raises(UsageError, match="no plan 'c'"):
        choose_plan(paths, "c")
    plan(paths, PlanOptions("small"))
    assert choose_plan(paths, None, "cpu").name == "small"
    assert choose_plan(paths, "b", "cuda").name == "b"


def test_a_copied_plan_must_be_renamed_inside(paths: Paths) -> None:
    plan(paths, PlanOptions("nnunet"))
    paths.plan("copy").write_text(paths.plan("nnunet").read_text())
    with pytest.raises(UsageError, match="put 'copy'"):
        choose_plan(paths, "copy")


def test_missing_fingerprint_says_what_to_do(paths: Paths) -> None:
    paths.fingerprint.unlink()
    with pytest.raises(UsageError, match=r"does not exist\. Run `autoseg fingerprint`"):
        plan(paths, PlanOptions("small"))


def test_planning_from_files(tmp_path: Path) -> None:
    measured = fingerprint(num_cases=4, with_cases=False).model_dump(mode="json")
    for ours in ("cases", "class_imbalance"):
        del measured[ours]
    (tmp_path / "f.json").write_text(json.dumps(measured))
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "d.json").write_text(json.dumps({**described, "numTraining": 4}))
    few = plan_from_files(tmp_path / "f.json", tmp_path / "d.json", PlanOptions("nnunet_resenc_l"))
    (tmp_path / "d.json").write_text(json.dumps({**described, "numTraining": 400}))
    many = plan_from_files(tmp_path / "f.json", tmp_path / "d.json", PlanOptions("nnunet_resenc_l"))
    assert few.channel_names == ("CT",)
    assert few.labels.num_entries == 2
    plain = plan_from_files(
        tmp_path / "f.json", tmp_path / "d.json", PlanOptions("nnunet", settings=["2d.batch_size=1"])
    )
    assert plain.configurations["2d"].batch_size == 1
    assert few.configurations["2d"].batch_size <= many.configurations["2d"].batch_size


@pytest.mark.parametrize(("num_cases", "watched"), [(1, 1), (10, 1), (11, 2), (30, 3), (31, 4), (1000, 4)])
def test_few_cases_are_watched_in_a_small_dataset(num_cases: int, watched: int) -> None:
    assert f"all.recipe.watch.cases={watched}" in plateau_settings(num_cases)

"""Raters: agreement by hand, fused files in the dataset's format, ties by rule, every faulty case named."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.errors import UsageError
from autoseg.images.fusion import majority, staple
from autoseg.images.reading import read_label
from autoseg.images.writing import write_label
from autoseg.pipeline.raters import raters
from autoseg.records.base import read_record
from autoseg.records.raters import Raters
from tests.pipeline.fakes import oblique_grid

SHAPE = (3, 4, 5)
GRID = oblique_grid(SHAPE)
DATASET = {"labels": {"background": 0, "organ": 3, "lesion": 700, "ignore": 900}, "channel_names": {"0": "CT"}}
DATASET |= {"numTraining": 1, "file_ending": ".nii.gz"}


def write(folder: Path, case: str, values: np.ndarray, ending: str = ".nii.gz") -> None:
    write_label(folder / f"{case}{ending}", values.astype(np.int16), GRID)


def line(*values: int) -> np.ndarray:
    """A label whose first row is given."""
    label = np.zeros(SHAPE, np.int16)
    label[0, 0, : len(values)] = values
    return label


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / name for name in ("anna", "ben", "cleo")]
    for folder, first, second in zip(
        folders,
        (line(3, 3, 3, 700, 0), line(3, 3, 3, 700, 0), line(3, 3, 3, 700, 0)),
        (line(3, 3, 700, 0, 3), line(3, 0, 700, 3, 0), line(3, 0, 0, 700, 0)),
        strict=True,
    ):
        write(folder, "same", first)
        write(folder, "differs", second)
    (tmp_path / "anna" / "dataset.json").write_text(json.dumps(DATASET))
    return folders


def fused_row(out: Path, case: str = "differs") -> list[int]:
    return [int(v) for v in read_label(out / f"{case}.nii.gz").array[0, 0, 0]]


def test_agreement_by_hand(three: list[Path], tmp_path: Path) -> None:
    record = raters(three, tmp_path / "out")
    assert record.raters == ("anna", "ben", "cleo")
    assert [(pair.first, pair.second) for pair in record.pairs] == [("anna", "ben"), ("anna", "cleo"), ("ben", "cleo")]
    # differs, organ: anna has 3 voxels, ben 2, one in common; lesion: both the third voxel
    assert record.pairs[0].cases["differs"] == pytest.approx({"organ": 2 * 1 / 5, "lesion": 1.0})
    assert record.pairs[0].cases["same"] == {"organ": 1.0, "lesion": 1.0}
    organ = record.pairs[0].targets["organ"]
    assert organ.mean == pytest.approx(0.7)
    assert organ.num_cases == 2
    assert organ.low is not None
    assert organ.low <= 0.7
    assert record.pairs[0].foreground_mean.mean == pytest.approx((1.0 + 0.7) / 2)
    assert read_record(tmp_path / "out" / "raters.json", Raters) == record
    rows = list(csv.DictReader((tmp_path / "out" / "raters.csv").read_text().splitlines()))
    assert len(rows) == 3 * 2 * 2
    assert rows[0] == {"first": "anna", "second": "ben", "case": "differs", "target": "organ", "dice": "0.4"}


@pytest.mark.parametrize(
    ("ties", "expected"),
    [("first", [3, 0, 700, 0, 0]), ("background", [3, 0, 700, 0, 0]), ("ignore", [3, 0, 700, 900, 0])],
)
def test_votes_and_ties_by_hand(three: list[Path], tmp_path: Path, ties: str, expected: list[int]) -> None:
    record = raters(three, tmp_path / "out", ties=ties)  # type: ignore[arg-type]
    assert fused_row(tmp_path / "out") == expected
    assert fused_row(tmp_path / "out", "same") == [3, 3, 3, 700, 0]
    assert record.undecided_voxels == {"differs": 1, "same": 0}


def test_a_tie_goes_to_the_rater_named_first(three: list[Path], tmp_path: Path) -> None:
    for order, value in ((three, 0), (three[1:] + three[:1], 3), (three[::-1], 700)):
        raters(order, tmp_path / "out", dataset_json=three[0] / "dataset.json")
        assert fused_row(tmp_path / "out")[3] == value


def test_only_those_tied_decide(tmp_path: Path) -> None:
    """Five raters: two say 1, two say 2, the one named first says 0 and is outvoted."""
    folders = [tmp_path / f"r{number}" for number in range(5)]
    for folder, value in zip(folders, (0, 2, 1, 2, 1), strict=True):
        write(folder, "case", line(value))
    record = raters(folders, tmp_path / "out")
    assert fused_row(tmp_path / "out", "case")[0] == 2
    assert record.undecided_voxels == {"case": 1}


def test_staple_reports_how_reliable_each_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shape = (8, 20, 20)
    grid = oblique_grid(shape)
    truth = np.zeros(shape, np.int16)
    truth[2:6, 5:15, 5:15] = 1
    folders = [tmp_path / name for name in ("careful", "careless", "worse")]
    given = [np.where(rng.random(shape) < rate, 1 - truth, truth).astype(np.uint8) for rate in (0.01, 0.04, 0.08)]
    for folder, label in zip(folders, given, strict=True):
        write_label(folder / "case.nii.gz", label, grid)
    record = raters(folders, tmp_path / "out", method="staple")
    fused = read_label(tmp_path / "out" / "case.nii.gz").array[0]
    expected, _, reliability = staple(given)
    assert np.array_equal(fused, expected)
    found = [record.sensitivity[name]["1"].mean for name in record.raters]
    assert found == pytest.approx(reliability[:, 1])
    assert found == sorted(found, reverse=True)
    assert raters(folders, tmp_path / "votes").sensitivity == {}


def test_the_fused_file_has_the_grid_of_the_first(three: list[Path], tmp_path: Path) -> None:
    """The second rater's voxels run in another order at the same place."""
    before = read_label(three[1] / "differs.nii.gz")
    image = nibabel.load(three[1] / "differs.nii.gz")
    nibabel.save(image.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]])), three[1] / "differs.nii.gz")
    raters(three, tmp_path / "out")
    assert fused_row(tmp_path / "out") == [3, 0, 700, 0, 0]
    after = read_label(tmp_path / "out" / "differs.nii.gz")
    assert np.allclose(after.geometry.matrix, before.geometry.matrix, atol=1e-4)
    header = nibabel.load(tmp_path / "out" / "differs.nii.gz").header
    original = nibabel.load(three[0] / "differs.nii.gz").header
    assert all(header[field] == original[field] for field in ("qform_code", "sform_code", "quatern_b", "qoffset_x"))


def test_every_faulty_case_is_named_and_the_others_are_fused(
    three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (three[0] / "broken.nii.gz").write_bytes(b"broken")
    write(three[1], "broken", line(3))
    write(three[2], "lonely", line(3))
    write(three[0], "strange", line(3))
    write(three[1], "strange", line(5))
    write(three[0], "moved", line(3))
    moved = GRID.model_copy(update={"affine": tuple((*row[:3], row[3] + 5) for row in GRID.affine)})
    write_label(three[2] / "moved.nii.gz", line(3), moved)
    out = tmp_path / "out"
    assert main(["raters", *map(str, three), "--out", str(out), "-q"]) == 5
    printed = capsys.readouterr()
    record = read_record(out / "raters.json", Raters)
    assert set(record.failed) == {"broken", "lonely", "strange", "moved"}
    assert "only cleo has it" in record.failed["lonely"]
    assert "values [5] are not among the labels" in record.failed["strange"]
    assert "does not lie on the grid of" in record.failed["moved"]
    assert all(f"failed {case}:" in printed.err for case in record.failed)
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["differs.nii.gz", "same.nii.gz"]
    assert "anna and ben: mean Dice 0.85" in printed.out
    assert f"Next: use {out}" in printed.out


def test_wrong_calls(three: list[Path], tmp_path: Path) -> None:
    for folders in (three[:1], [three[0], three[0]], [three[0], tmp_path / "nothing"], [three[0], tmp_path]):
        with pytest.raises(UsageError):
            raters(folders, tmp_path / "out")
    with pytest.raises(UsageError, match="own folder"):
        raters(three, three[1])
    (three[0] / "dataset.json").unlink()
    with pytest.raises(UsageError, match="needs an ignore label"):
        raters(three, tmp_path / "out", ties="ignore")
    assert main(["raters", *map(str, three), "--out", str(tmp_path / "o"), "--method", "mean"]) == 2
    assert main(["raters", *map(str, three), "--out", str(tmp_path / "o"), "--ties", "mean"]) == 2


def test_raters_with_folders_of_one_name(three: list[Path], tmp_path: Path) -> None:
    for folder in three[:2]:
        write(folder / "labelsTr", "case", line(1))
    record = raters([folder / "labelsTr" for folder in three[:2]], tmp_path / "out")
    assert record.raters == ("anna/labelsTr", "ben/labelsTr")


def test_voxels_that_one_ignores_are_not_compared(three: list[Path], tmp_path: Path) -> None:
    for folder in three:
        for path in folder.glob("*.nii.gz"):
            path.unlink()
    write(three[0], "case", line(3, 3, 900, 0))
    write(three[1], "case", line(3, 900, 3, 0))
    record = raters(three[:2], tmp_path / "out")
    assert record.pairs[0].cases["case"] == {"organ": 1.0, "lesion": None}
    assert fused_row(tmp_path / "out", "case")[:3] == [3, 3, 900]


def test_real_consensus_maps_with_themselves_eroded(shared_data: Path, tmp_path: Path) -> None:
    """Real lesion maps have one rater; two more are made from them: one misses a third of the slices, one agrees."""
    source = shared_data / "labels_only" / "ms_consensus_gt"
    folders = [tmp_path / name for name in ("one", "two", "three")]
    path = sorted(source.glob("*.nii.gz"))[0]
    label = read_label(path)
    partial = label.array[0].copy()
    partial[::3] = 0
    for folder, values in zip(folders, (label.array[0], partial, label.array[0]), strict=True):
        write_label(folder / path.name, values, label.geometry, like=path)
    record = raters(folders, tmp_path / "out")
    fused = read_label(tmp_path / "out" / path.name).array[0]
    assert np.array_equal(fused, label.array[0])
    kept = int((partial > 0).sum())
    every = int((label.array[0] > 0).sum())
    assert record.pairs[0].targets["1"].mean == pytest.approx(2 * kept / (kept + every))
    assert np.array_equal(majority([label.array[0], partial, label.array[0]])[0], label.array[0] > 0)

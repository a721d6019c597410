"""Exchanged channels and other scales are found, and what is merely different is not."""

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.datasets.intensities import Level, check_intensities
from autoseg.pipeline.fingerprint import verify_only
from tests.datasets.folders_on_disk import decathlon

NAMES = ("CT", "MR_T1")


def _cases(count: int = 8) -> dict[str, list[Level]]:
    """CT about 40 HU, MR about 300, both varying."""
    rng = np.random.default_rng(5)
    return {
        f"c{n}": [
            Level(40 + rng.normal(0, 5), 30 + rng.normal(0, 5), 5000),
            Level(300 + rng.normal(0, 20), 60 + rng.normal(0, 10), 5000),
        ]
        for n in range(count)
    }


def _kinds(cases: dict[str, list[Level]], names: Sequence[str] = NAMES) -> list[tuple[str | None, str]]:
    return [(finding.case, finding.kind) for finding in check_intensities(cases, names)]


def test_nothing_is_said_of_cases_that_are_alike() -> None:
    assert _kinds(_cases()) == []


def test_exchanged_channels_are_named_once() -> None:
    cases = _cases()
    cases["c3"] = cases["c3"][::-1]
    (finding,) = check_intensities(cases, NAMES)
    assert (finding.case, finding.kind, finding.is_fault) == ("c3", "swapped_channels", False)
    assert "channels 0 and 1 ('CT' and 'MR_T1') look exchanged" in finding.message


def test_channels_that_overlap_are_never_called_exchanged() -> None:
    rng = np.random.default_rng(6)
    levels = {f"c{n}": [Level(*rng.normal((300, 60), (80, 20)), 5000) for _ in range(3)] for n in range(12)}
    levels["c0"] = levels["c0"][::-1]
    assert _kinds(levels, ("T1", "T2", "FLAIR")) == []


@pytest.mark.parametrize(
    ("changed", "is_told"),
    [
        (Level(1064, 30, 5000), True),  # stored with an offset of 1024
        (Level(45, 2, 5000), True),  # turned into grey values
        (Level(45, 2, 40), False),  # a few voxels are alike anyhow
        (Level(90, 60, 5000), False),  # contrast agent
    ],
)
def test_another_scale_of_ct_is_told(changed: Level, is_told: bool) -> None:
    cases = _cases()
    cases["c2"] = [changed, cases["c2"][1]]
    assert _kinds(cases) == ([("c2", "intensity_outlier")] if is_told else [])


def test_mr_has_no_scale() -> None:
    cases = {name: [levels[1]] for name, levels in _cases().items()}
    cases["c2"] = [Level(300_000, 60_000, 5000)]
    assert _kinds(cases, ("MRI",)) == []


def test_few_cases_say_nothing() -> None:
    cases = _cases(4)
    cases["c3"] = cases["c3"][::-1]
    assert _kinds(cases) == []


@given(st.permutations(range(8)))
def test_the_order_of_the_cases_changes_nothing(order: list[int]) -> None:
    cases = _cases()
    cases["c3"] = cases["c3"][::-1]
    reordered = {f"c{n}": cases[f"c{n}"] for n in order}
    assert sorted(map(str, _kinds(reordered))) == sorted(map(str, _kinds(cases)))


def test_verify_tells_it(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "Task01_X", num_cases=6)
    kinds = {finding.kind for finding in verify_only(folder, num_workers=1)}
    assert not kinds & {"swapped_channels", "intensity_outlier"}
    path = folder / "imagesTr" / "c02.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj).astype(np.float32) + 3000, image.affine), path)
    found = [finding for finding in verify_only(folder, num_workers=1) if finding.kind == "intensity_outlier"]
    assert [finding.case for finding in found] == ["c02"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["Task04_Hippocampus", "Task11_SarcomaCTMR", "Task14_OpenKBP", "Task16_MSLesion", "Task22_DSB2018Nuclei"]
)
def test_no_false_alarm_on_real_data(shared_data: Path, name: str) -> None:
    kinds = {finding.kind for finding in verify_only(shared_data / name)}
    assert not kinds & {"swapped_channels", "intensity_outlier"}

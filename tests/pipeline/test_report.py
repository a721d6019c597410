"""The report: complete, self-contained, harmless, and useful when stages are missing."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from autoseg.errors import UsageError
from autoseg.pipeline.report import report
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset
from autoseg.records.workspace import Paths
from tests.reporting.workspace import change_format, flip_label, make_dataset, make_workspace

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Outline(HTMLParser):
    """Checks that elements are closed in order and collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for key, value in attrs if key in ("src", "data", "srcset")]
        self.scripts += tag == "script" or any(key.startswith("on") for key, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return make_workspace(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(finished: Paths) -> str:
    return report(finished).read_text("utf-8")


def test_every_section_is_there(page: str) -> None:
    for anchor in ("dataset", "plan-small", "training-small", "scores", "selection", "cases", "provenance", "next"):
        assert f'<section id="{anchor}">' in page
    for text in ("left kidney", "1.23 M", "3d_fullres", "largest component of liver", "as large as two cores train"):
        assert text in page


def test_the_page_fetches_nothing_and_runs_nothing(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert outline.scripts == 0
    assert outline.fetched
    assert all(source.startswith("data:image/png;base64,") for source in outline.fetched)
    assert "default-src 'none'" in page
    assert not re.search(r"url\(\s*['\"]?(?!#)", page), "styles refer to nothing outside the page"
    assert "@import" not in page


def test_no_path_of_this_machine_is_in_the_page(page: str, finished: Paths) -> None:
    assert str(finished.folder) not in page
    assert read_record(finished.dataset, Dataset).root not in page


def test_charts_follow_the_theme_of_the_page(page: str) -> None:
    assert page.count("<svg") >= 5
    assert "currentColor" in page
    assert "#778899" not in page


def test_worst_case_is_drawn_first_and_none_twice(page: str) -> None:
    captions = re.findall(r"<figcaption>(worst|middle|best): (\w+), (?:axial|coronal|sagittal) slice", page)
    assert captions[0] == ("worst", "phantom_003")
    assert len({case for _, case in captions}) == len(captions) == 4


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    paths = make_workspace(tmp_path, num_cases=2)
    dataset = read_record(paths.dataset, Dataset)
    evil = dataset.model_copy(update={"channel_names": ("<script>alert(1)</script>",)})
    write_record(paths.dataset, evil)
    text = report(paths).read_text("utf-8")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_missing_stages_name_their_command(tmp_path: Path) -> None:
    paths = Paths(folder=tmp_path / "work" / "Task90_Phantoms")
    write_record(paths.dataset, make_dataset(tmp_path / "data", 1))
    text = report(paths).read_text("utf-8")
    assert "autoseg fingerprint Task90_Phantoms" in text
    assert "autoseg plan_and_preprocess Task90_Phantoms" in text
    assert "autoseg select Task90_Phantoms" in text


def test_a_fold_in_training_is_shown_as_such(tmp_path: Path) -> None:
    paths = make_workspace(tmp_path, num_cases=2)
    (paths.fold("small", "2d", "0") / "fold.json").unlink()
    assert "20 so far" in report(paths).read_text("utf-8")


def test_an_unreadable_image_is_left_out_of_the_pictures(tmp_path: Path) -> None:
    paths = make_workspace(tmp_path, num_cases=3)
    (tmp_path / "data" / "imagesTr" / "phantom_000.nii.gz").write_bytes(b"broken")
    text = report(paths).read_text("utf-8")
    assert "Slice of phantom_001" in text
    assert "Slice of phantom_000" not in text


def test_a_label_stored_in_another_voxel_order_is_drawn_the_same(tmp_path: Path) -> None:
    paths = make_workspace(tmp_path, num_cases=2)
    before = pictures(report(paths).read_text("utf-8"))
    assert len(before) == 2
    flip_label(tmp_path, "phantom_001")
    assert pictures(report(paths).read_text("utf-8")) == before


def test_segmentations_of_several_formats_are_found(tmp_path: Path) -> None:
    paths = make_workspace(tmp_path, num_cases=2)
    before = pictures(report(paths).read_text("utf-8"))
    change_format(tmp_path, paths, "phantom_001", ".mha")
    paths.predictions.mkdir()
    for name in ("a.nii.gz", "b.mha", "predicted.json"):
        (paths.predictions / name).touch()
    text = report(paths).read_text("utf-8")
    assert pictures(text) == before
    assert "2 segmentations lie" in text


def pictures(page: str) -> list[str]:
    return re.findall(r"data:image/png;base64,[^\"']+", page)


def test_unknown_dataset_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="autoseg run"):
        report(Paths(folder=tmp_path / "nothing"))

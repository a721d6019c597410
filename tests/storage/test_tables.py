"""CSV text: what is empty, what is quoted, what a spreadsheet must not compute."""

import csv

from autoseg.storage.tables import csv_text


def test_cells() -> None:
    text = csv_text(["name", "value"], [["a,b", 1.5], ["=1+1", None], ["-x", -3]])
    assert text.endswith("\n")
    assert list(csv.reader(text.splitlines())) == [["name", "value"], ["a,b", "1.5"], ["'=1+1", ""], ["'-x", "-3"]]

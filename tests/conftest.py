"""What all tests share: the folder of real data, found beside the project or named by AUTOSEG_TEST_DATA."""

import os
import warnings
from pathlib import Path

import hypothesis
import pytest

# In CI the same examples every time; at a developer's desk new ones. No deadline: machines differ in speed.
hypothesis.settings.register_profile("autoseg", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("autoseg")

PROJECT = Path(__file__).resolve().parents[1]


def _find_shared_data() -> Path | None:
    named = os.environ.get("AUTOSEG_TEST_DATA")
    for folder in [Path(named)] if named else [PROJECT / "shared" / "data", PROJECT.parent / "shared" / "data"]:
        if (folder / "Task04_Hippocampus" / "dataset.json").is_file():
            return folder
    return None


def pytest_report_header() -> str:
    """Say loudly when the real data is missing."""
    found = _find_shared_data()
    return f"real data: {found}" if found else "real data: NOT FOUND, tests on it are SKIPPED (set AUTOSEG_TEST_DATA)"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real datasets; the test is skipped, loudly, where there is none."""
    found = _find_shared_data()
    if found is None:
        warnings.warn("real data not found: set AUTOSEG_TEST_DATA to run this test", UserWarning, stacklevel=1)
        pytest.skip("real data not found (set AUTOSEG_TEST_DATA)")
    return found


@pytest.fixture(scope="session")
def shared_reference(shared_data: Path) -> Path:
    """Folder of reference fingerprints, plans and per-case Dice values."""
    folder = shared_data.parent / "reference"
    if not folder.is_dir():
        pytest.skip(f"{folder} not found")
    return folder

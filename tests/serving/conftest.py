"""One model for all tests of the service."""

from pathlib import Path

import pytest

from autoseg.api import LoadedModel, load_model
from tests.pipeline.fakes import make_plan, write_fold


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_fold(folder / "model" / "fold_0", make_plan(spacing_mm=(2.3, 1.1, 1.2), patch=(4, 6, 8)))
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_model(folder / "model", device="cpu")

"""A tiny dataset, prepared and with one fold trained, for each file of tests that asks for it."""

import pytest

from autoseg.pipeline.fingerprint import verify_and_fingerprint
from autoseg.pipeline.ingest import ingest
from autoseg.pipeline.preprocess import preprocess
from autoseg.pipeline.train import train
from autoseg.records.results import TrainedFold
from autoseg.records.workspace import Paths
from tests.pipeline.tiny import SHORT, make_plan, write_dataset


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    folder = tmp_path_factory.mktemp("train")
    write_dataset(folder / "Tiny")
    paths = ingest(str(folder / "Tiny"), folder / "work", num_folds=3)
    verify_and_fingerprint(paths, num_workers=1)
    preprocess(paths, make_plan(paths), num_workers=1)
    return paths


@pytest.fixture(scope="module")
def trained(prepared: Paths) -> TrainedFold:
    return train(prepared, make_plan(prepared), "3d_fullres", "0", SHORT)

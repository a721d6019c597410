"""A dataset whose images are mostly air, from files to batches: nothing is left in the air after augmentation."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from autoseg.pipeline.fingerprint import verify_and_fingerprint
from autoseg.pipeline.ingest import ingest
from autoseg.pipeline.preprocess import preprocess
from autoseg.pipeline.train import TrainOptions, train
from autoseg.records.recipe import Augmentation, IntensityAugmentation
from autoseg.training import loop
from tests.pipeline.tiny import RECIPE, make_plan, write_dataset


@pytest.mark.parametrize("zero_outside", [True, False])
def test_air_is_zero_in_every_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero_outside: bool) -> None:
    write_dataset(tmp_path / "Heads", num_cases=3)
    for path in (tmp_path / "Heads" / "imagesTr").iterdir():
        image = nibabel.load(path)
        values = image.get_fdata().astype(np.float32)
        values[:, :3, :], values[0, 3, 0] = 0, 1  # the crop keeps some of the air
        values[5, 0, 5] = 1
        nibabel.save(nibabel.Nifti1Image(values, image.affine), path)
    paths = ingest(str(tmp_path / "Heads"), tmp_path / "work", num_folds=3)
    verify_and_fingerprint(paths, num_workers=1)
    noise = IntensityAugmentation(name="noise", probability=1.0, range=(0.1, 0.1))
    policy = Augmentation(intensity=(noise,), zero_outside=zero_outside)
    recipe = RECIPE.model_copy(update={"augmentation": policy})
    plan = make_plan(paths, recipe=recipe, use_mask_for_norm=(True,))
    preprocess(paths, plan, ["3d_fullres"], num_workers=1)
    zeros: list[float] = []
    step = loop.train_step

    def noting(learner, batch, rate, number):  # type: ignore[no-untyped-def]
        zeros.append(float((batch.images == 0).float().mean()))
        assert int(batch.labels.min()) == 0
        assert torch.isfinite(batch.images).all()
        return step(learner, batch, rate, number)

    monkeypatch.setattr(loop, "train_step", noting)
    train(paths, plan, "3d_fullres", "0", TrainOptions(epochs=2, iterations=3, seed=1, device="cpu"))
    assert len(zeros) == 6
    assert (max(zeros) > 0.1) is zero_outside

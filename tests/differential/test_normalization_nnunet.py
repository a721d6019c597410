"""Our normalisation beside nnU-Net's classes, when AUTOSEG_PEER_PYTHON names an interpreter with nnunetv2."""

import subprocess
from pathlib import Path

import numpy as np

from autoseg.preprocessing.normalize import scale_of, scaled
from autoseg.preprocessing.statistics import measured
from autoseg.records.fingerprint import IntensityStatistics
from tests.differential.peer import peer_python

PEER = """
import sys, numpy as np
from nnunetv2.preprocessing.normalization import default_normalization_schemes as schemes
given = np.load(sys.argv[1])
statistics = {k: float(given[k]) for k in ("mean", "std", "percentile_00_5", "percentile_99_5")}
classes = {"ct": schemes.CTNormalization, "zscore": schemes.ZScoreNormalization, "masked": schemes.ZScoreNormalization,
           "none": schemes.NoNormalization, "rescale": schemes.RescaleTo01Normalization,
           "rgb": schemes.RGBTo01Normalization}
segmentation = np.where(given["mask"], 0, -1)
results = {}
for name, kind in classes.items():
    image = (np.clip(given["image"], 0, 255) if name == "rgb" else given["image"]).copy()
    results[name] = kind(name == "masked", statistics).run(image, segmentation)
np.savez(sys.argv[2], **results)
"""


def test_every_scheme_agrees_with_nnunet(tmp_path: Path):
    python = peer_python()
    rng = np.random.default_rng(0)
    mask = rng.random((9, 10, 11)) < 0.6
    image = (rng.normal(100, 300, mask.shape) * mask).astype(np.float32)
    known = {"mean": 90.0, "std": 250.0, "percentile_00_5": -500.0, "percentile_99_5": 800.0}
    np.savez(tmp_path / "in.npz", image=image, mask=mask, **known)
    subprocess.run([python, "-c", PEER, tmp_path / "in.npz", tmp_path / "out.npz"], check=True)

    statistics = IntensityStatistics(median=0.0, min=-1000.0, max=1000.0, **known)
    for name, expected in np.load(tmp_path / "out.npz").items():
        scheme, given = ("zscore" if name == "masked" else name), image.copy()
        if name == "rgb":
            given = np.clip(given, 0, 255)
        inside = mask if name == "masked" else np.ones(mask.shape, bool)
        channel = measured(given, inside if name == "masked" else None)
        found = given.copy()
        found[inside] = scaled(given[inside], scale_of(channel, scheme, statistics))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)

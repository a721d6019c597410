"""Ours beside nnU-Net's own resampling on real cases; AUTOSEG_PEER_PYTHON names an interpreter with nnunetv2."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.spatial.labels import resample_labels
from autoseg.spatial.resampling import resampled_shape, separate_axis
from tests.differential.peer import peer_python
from tests.spatial.whole import resample_image

PEER = """
import sys, numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape as resample
given = np.load(sys.argv[1])
before, after, shape = given["before"], given["after"], [int(n) for n in given["shape"]]
image = resample(given["image"], shape, before, after, is_seg=False, order=3, order_z=0, force_separate_z=None)
labels = resample(given["labels"], shape, before, after, is_seg=True, order=1, order_z=0, force_separate_z=None)
np.savez(sys.argv[2], image=image, labels=labels)
"""

CASES = [
    ("Task19_LUNG1", "LUNG1-001", (2.0, 1.3, 1.3)),
    ("Task11_SarcomaCTMR", None, (2.0, 1.0, 1.0)),
    ("Task14_OpenKBP", None, (3.0, 2.4, 2.4)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "case", "target_mm"), CASES, ids=[c[0] for c in CASES])
def test_real_case_agrees_with_nnunet(shared_data: Path, tmp_path: Path, task, case, target_mm):
    nibabel = pytest.importorskip("nibabel")
    image_file = next(
        p for p in sorted((shared_data / task / "imagesTr").glob("*.nii.gz")) if case is None or case in p.name
    )
    label_file = next((shared_data / task / "labelsTr").glob(image_file.name.replace("_0000", "")))
    loaded, label = nibabel.load(image_file), nibabel.load(label_file)
    image = np.atleast_3d(np.asarray(loaded.dataobj, dtype=np.float32))
    image = np.moveaxis(image, -1, 0).transpose(0, 3, 2, 1) if image.ndim == 4 else image.T[None]
    labels = np.asarray(label.dataobj).T[None].astype(np.int8)
    image = (image - image.mean()) / image.std()  # nnU-Net normalises first
    before = tuple(float(v) for v in loaded.header.get_zooms()[2::-1])
    shape = resampled_shape(image.shape[1:], before, target_mm)

    np.savez(tmp_path / "in.npz", image=image, labels=labels, before=before, after=target_mm, shape=shape)
    subprocess.run([peer_python(), "-c", PEER, tmp_path / "in.npz", tmp_path / "out.npz"], check=True)
    expected = np.load(tmp_path / "out.npz")

    axis = separate_axis(before, target_mm)
    ours = resample_image(torch.from_numpy(image), shape, axis).numpy()
    worst = np.abs(ours - expected["image"]).max() / image.std()
    our_labels = resample_labels(torch.from_numpy(labels[0]), shape, axis).numpy()
    share = np.mean(our_labels != expected["labels"][0])
    print(f"{task}: {before} {image.shape} -> {shape}, separate {axis}: image {worst:.1e} std, labels {share:.1e}")
    assert worst < 0.002
    assert share < 1e-3

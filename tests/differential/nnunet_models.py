"""Small models of nnU-Net made by its own trainer, images, and nnU-Net's predictions of them, for tests of exchange.

Needs nnunetv2: in this interpreter, or in the one that AUTOSEG_PEER_PYTHON names; otherwise tests that ask are skipped.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from autoseg.images.reading import read_label
from tests.differential.peer import peer_python

Job = dict[str, Any]
PEER = Path(__file__).with_name("nnunet_models_peer.py")

LABELS = {"background": 0, "organ": 1, "tumour": 2}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": [3], "ignore": 4}
ISOTROPIC = ([[1, 1, 1], [2, 2, 2], [2, 2, 2]], [[3, 3, 3]] * 3)
FLAT = ([[1, 1, 1], [1, 2, 2], [2, 2, 2]], [[1, 3, 3], [3, 3, 3], [3, 3, 3]])


def ask_peer(jobs: Sequence[Job], folder: Path) -> None:
    request = folder / "jobs.json"
    request.write_text(json.dumps(jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "nnUNet_def_n_proc": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [peer_python(), str(PEER), str(request)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def architecture(kind: str, strides: Sequence[Sequence[int]], kernels: Sequence[Sequence[int]]) -> dict[str, Any]:
    dims, count = len(strides[0]), len(strides)
    blocks = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": count,
            "features_per_stage": [8, 12, 16][:count],
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": kernels,
            "strides": strides,
            blocks: [1, 2, 2][:count],
            "n_conv_per_stage_decoder": [2, 1][: count - 1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def configuration(
    spacing: Sequence[float],
    patch: Sequence[int],
    network: dict[str, Any],
    schemes: Sequence[str] = ("ZScoreNormalization",),
    **more: Any,
) -> dict[str, Any]:
    common = {"order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": "made",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [float(p) for p in patch],
        "spacing": list(spacing),
        "normalization_schemes": list(schemes),
        "use_mask_for_norm": [scheme == "ZScoreNormalization" for scheme in schemes],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **common},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **common},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **common},
        "architecture": network,
        "batch_dice": True,
        **more,
    }


def plans(configurations: dict[str, Any], transpose: Sequence[int] = (0, 1, 2), reader: str = "SimpleITKIO") -> Job:
    intensities = {"max": 9.0, "mean": 1.0, "median": 1.0, "min": -9.0, "percentile_00_5": -6.0, "std": 3.0}
    return {
        "dataset_name": "Dataset901_Made",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [32, 32, 32],
        "image_reader_writer": reader,
        "transpose_forward": list(transpose),
        "transpose_backward": [int(axis) for axis in np.argsort(transpose)],
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(channel): {**intensities, "percentile_99_5": 6.5} for channel in range(2)
        },
    }


def dataset(labels: dict[str, Any], channels: Sequence[str] = ("MRI",), order: Sequence[int] = ()) -> Job:
    content = {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": labels,
        "numTraining": 10,
        "file_ending": ".nii.gz",
    }
    return {**content, "regions_class_order": list(order)} if order else content


def write_images(
    folder: Path,
    spacing_zyx: Sequence[float],
    shape_zyx: Sequence[int],
    channels: int = 1,
    sigma: float = 1.5,
    frame: bool = True,
) -> Path:
    """Two cases of smooth noise beside zeros, one of them with exchanged axes that run against the world's."""
    folder.mkdir()
    directions = {"straight": np.eye(3), "turned": np.array([[0.0, -1, 0], [-1, 0, 0], [0, 0, 1]])}
    for seed, (name, direction) in enumerate(directions.items()):
        rng = np.random.default_rng(seed)
        for channel in range(channels):
            smooth = ndimage.gaussian_filter(rng.standard_normal(shape_zyx), sigma)
            values = smooth / smooth.std() + 0.5
            if frame:
                values[:2], values[:, :, -3:] = 0, 0
            image = sitk.GetImageFromArray(values.astype(np.float32))
            image.SetSpacing([float(s) for s in reversed(spacing_zyx)])
            image.SetDirection([float(d) for d in direction.ravel()])
            image.SetOrigin((10.0, -20.0, 5.0))
            sitk.WriteImage(image, str(folder / f"{name}_{channel:04d}.nii.gz"))
    return folder


def share_of_differing(ours: Path, theirs: Path) -> float:
    """Voxels that differ over all voxels of all cases; every case has two classes at least."""
    differing, count = 0, 0
    files = sorted(theirs.glob("*.nii.gz"))
    assert len(files) == 2
    for file in files:
        expected, found = read_label(file).array, read_label(ours / file.name).array
        assert expected.shape == found.shape
        assert len(np.unique(expected)) > 1, "a prediction of one class proves nothing"
        differing += int((expected != found).sum())
        count += expected.size
    return differing / count

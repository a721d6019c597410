"""nnU-Net's own trainer and predictor in, their times out, on the same plan, voxels and device as `speed.py`.

Runs without our package: `data.py` left the plan and the voxels in plain files. nnU-Net's `nnUNetTrainer` is built as
its command builds it (torch.compile, its worker processes, its mixed precision) and its own `train_step` and
`predict_sliding_window_return_logits` are timed. SimpleITK, which nnU-Net imports for image files alone, is replaced by
an empty module where it is missing: no file is read or written here.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

EPOCH_STEPS, VOLUME, SMOKE_VOLUME = 250, (96, 128, 96), (48, 64, 48)
"""As in `common` and `speed`, which this file cannot import: they need our package."""
_DATASET, _IDENTIFIER, _WORKERS = "Dataset004_Hippocampus", "nnUNetPlans_3d_fullres", "nnUNet_n_proc_DA"
_NORMALIZATION = {
    "zscore": "ZScoreNormalization",
    "ct": "CTNormalization",
    "rescale": "RescaleTo01Normalization",
    "rgb": "RGBTo01Normalization",
    "none": "NoNormalization",
}


def main() -> None:
    """Build nnU-Net's trainer and time its parts."""
    asked = peer_options(__doc__)
    content, dataset = prepared_peer(asked, "Task04_Hippocampus")
    trainer = build_trainer(content, dataset, asked.device)
    # Little of the time, since its trainer compiles its network in the first step, which takes about half of it.
    clock = Clock(asked.device, 0.5 if asked.smoke else asked.seconds / 16, 1 if asked.smoke else 3)
    time_training(trainer, clock, asked.smoke)
    time_prediction(trainer, clock, content, dataset, asked.smoke)


def peer_options(
    about: str | None, add_arguments: Callable[[argparse.ArgumentParser], object] | None = None
) -> argparse.Namespace:
    """What `run.py` tells each part, and `seconds` that are left to it."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--ends", type=float, default=time.monotonic() + 60)
    if add_arguments is not None:
        add_arguments(parser)
    asked = parser.parse_args()
    asked.seconds = asked.ends - time.monotonic()
    return asked


def prepared_peer(asked: argparse.Namespace, dataset: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Set nnU-Net's environment, write its folder; what `data.py` left and nnU-Net's dataset.json."""
    root = asked.out / "peer" / dataset
    os.environ.update({name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")})
    if asked.smoke:
        os.environ[_WORKERS] = "1"
    stand_in_for_simpleitk()
    source = asked.out / f"peer_input_{dataset}"
    content = json.loads((source / "plan.json").read_text())
    return content, write_folder(source, root / "nnUNet_preprocessed" / _DATASET, content)


def num_workers() -> str:
    """Worker processes of nnU-Net's loaders, for people."""
    return os.environ.get(_WORKERS, "its default, 12")


class Clock:
    """Times calls until the device has done them."""

    def __init__(self, device: str, limit_seconds: float, least: int) -> None:
        self.is_cuda, self.limit_seconds, self.least = device.startswith("cuda"), limit_seconds, least

    def seconds(self, work: Callable[[], object]) -> float:
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def median_ms(self, work: Callable[[], object]) -> float:
        """Median of the calls that fit into the limit, after one that warms up."""
        self.seconds(work)
        times: list[float] = []
        while len(times) < self.least or sum(times) < self.limit_seconds:
            times.append(self.seconds(work))
        return 1000 * median(times)

    def wait(self) -> None:
        import torch

        if self.is_cuda:
            torch.cuda.synchronize()


def build_trainer(content: dict[str, Any], dataset: dict[str, Any], device: str, length: str | None = None) -> Any:
    """The trainer with its loaders and their worker processes, as `nnUNetv2_train` has it before its first step.

    `length` names one of its variants, `_50epochs`.
    """
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.training.nnUNetTrainer.variants.training_length import nnUNetTrainer_Xepochs as variants

    # Triton, to which it compiles its network, needs a C compiler for its launchers; without one the first step fails.
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        os.environ.update({"nnUNet_compile": "false"})
    if device.startswith("cuda"):  # as its command does
        torch.set_num_threads(1)
        torch.set_num_interop_threads(1)
        torch.backends.cudnn.benchmark = True
    kind = nnUNetTrainer if length is None else getattr(variants, f"nnUNetTrainer{length}")
    trainer = kind(nnunet_plans(content), "3d_fullres", 0, dataset, device=torch.device(device))
    trainer.print_to_log_file = lambda *_, **__: None  # its log would mix with the results
    trainer.initialize()
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    trainer.network.train()
    return trainer


def time_training(trainer: Any, clock: Clock, smoke: bool) -> None:
    """Steps, batches, an epoch; ends the workers.

    The step is timed as it is written before it is compiled, which may take longer than there is: the later line of
    the name takes the earlier one's place.
    """

    def draw(count: int) -> None:
        for _ in range(count):
            next(trainer.dataloader_train)

    def epoch() -> None:
        for _ in range(steps):
            trainer.train_step(next(trainer.dataloader_train))

    drawn, steps = (2, 2) if smoke else (50, EPOCH_STEPS)
    batch, compiled = next(trainer.dataloader_train), trainer.network
    trainer.network = getattr(compiled, "_orig_mod", compiled)
    eager = time_step(trainer, batch, clock, is_compiled=False)
    if compiled is not trainer.network:
        trainer.network = compiled
        time_step(trainer, batch, clock, is_compiled=True, peer_eager_ms=eager)
    draw(drawn)  # what the workers had made ahead
    milliseconds = 1000 * clock.seconds(lambda: draw(drawn)) / drawn
    emit("data pipeline, one batch", milliseconds, peer_workers=num_workers())
    emit(f"epoch of {EPOCH_STEPS} steps, data included", clock.seconds(epoch) * EPOCH_STEPS / steps)
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        if hasattr(loader, "_finish"):
            loader._finish()


def time_step(trainer: Any, batch: Any, clock: Clock, is_compiled: bool, **about: Any) -> float:
    """Its own training step on one batch; the milliseconds."""
    import torch

    if clock.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    first = clock.seconds(lambda: trainer.train_step(batch))
    milliseconds = clock.median_ms(lambda: trainer.train_step(batch))
    peak = round(torch.cuda.max_memory_allocated() / 2**30, 3) if clock.is_cuda else None
    about |= {"peer_first_step_s": round(first, 2), "peer_compiled": is_compiled, "peer_peak_gib": peak}
    emit("training step, batch on the device", milliseconds, **about)
    return round(milliseconds, 3)


def time_prediction(trainer: Any, clock: Clock, content: dict[str, Any], dataset: dict[str, Any], smoke: bool) -> None:
    """A random volume through nnU-Net's sliding window, in the one arithmetic that it has on this device."""
    import torch

    shape = SMOKE_VOLUME if smoke else VOLUME
    image = torch.randn((len(content["channel_names"]), *shape), generator=torch.Generator().manual_seed(1))
    predictor = build_predictor(trainer, dataset)
    with torch.inference_mode():
        milliseconds = clock.median_ms(lambda: predictor.predict_sliding_window_return_logits(image).cpu())
    arithmetic = "float16 autocast" if clock.is_cuda else "float32"
    for precision in ("float32", "float16" if clock.is_cuda else "bfloat16"):
        emit(f"prediction of a volume, {precision}", milliseconds, peer_precision=arithmetic)


def build_predictor(trainer: Any, dataset: dict[str, Any]) -> Any:
    """nnU-Net's predictor with the trainer's network, which predicts from then on."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        getattr(trainer.network, "_orig_mod", trainer.network),
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        dataset,
        "nnUNetTrainer",
        trainer.inference_allowed_mirroring_axes,
    )
    return predictor


def emit(name: str, value: float, **more: object) -> None:
    print(json.dumps({"name": name, "peer": round(value, 3), **more}), flush=True)


def stand_in_for_simpleitk() -> None:
    """Let nnU-Net be imported where SimpleITK is not installed."""
    try:
        import SimpleITK  # noqa: F401
    except ImportError:

        class Empty(ModuleType):
            def __getattr__(self, name: str) -> type:
                if name.startswith("__"):
                    raise AttributeError(name)
                return object

        sys.modules["SimpleITK"] = Empty("SimpleITK")


def write_folder(source: Path, folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The voxels as nnU-Net's preprocessing would leave them, by its own writer; returns its dataset.json."""
    import numpy as np
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    cases = folder / _IDENTIFIER
    shutil.rmtree(cases, ignore_errors=True)  # of an earlier call: blosc2 writes over no file
    cases.mkdir(parents=True)
    for path in sorted(source.glob("*.npz")):
        with np.load(path) as arrays:
            image, labels = arrays["image"], arrays["labels"].astype(np.int8)[None]
        found = DefaultPreprocessor._sample_foreground_locations(labels, list(range(1, len(content["class_names"]))))
        properties = {"class_locations": found, "spacing": content["configuration"]["spacing_mm"]}
        patch = content["configuration"]["patch_size"]
        blocks, chunks = comp_blosc2_params(image.shape, patch, image.itemsize)
        seg_blocks, seg_chunks = comp_blosc2_params(labels.shape, patch, labels.itemsize)
        layout = {"chunks": chunks, "blocks": blocks, "chunks_seg": seg_chunks, "blocks_seg": seg_blocks}
        nnUNetDatasetBlosc2.save_case(image, labels, properties, str(cases / path.stem), **layout)
    split = content["split"]
    (folder / "splits_final.json").write_text(json.dumps([{"train": split["train"], "val": split["val"]}]))
    dataset = {
        "channel_names": {str(n): name for n, name in enumerate(content["channel_names"])},
        "labels": {name: number for number, name in enumerate(content["class_names"])},
        "numTraining": len(split["train"]) + len(split["val"]),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return dataset


def nnunet_plans(content: dict[str, Any]) -> dict[str, Any]:
    """Our plan's values in the form of nnU-Net's plans file."""
    ours = content["configuration"]
    network = ours["network"]
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": len(network["features_per_stage"]),
            "features_per_stage": network["features_per_stage"],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": network["kernel_sizes"],
            "strides": network["strides"],
            "n_conv_per_stage": network["blocks_per_stage"],
            "n_conv_per_stage_decoder": network["decoder_blocks_per_stage"],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    seg_resampling = {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": _IDENTIFIER,
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": ours["batch_size"],
        "patch_size": ours["patch_size"],
        "median_image_size_in_voxels": ours["median_shape"],
        "spacing": ours["spacing_mm"],
        "normalization_schemes": [_NORMALIZATION[name] for name in ours["normalization"]],
        "use_mask_for_norm": ours["use_mask_for_norm"],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": seg_resampling,
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": architecture,
        "batch_dice": ours["batch_dice"],
    }
    return {
        "continue_training": False,  # how its command line tells the trainer
        "dataset_name": _DATASET,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": ours["spacing_mm"],
        "original_median_shape_after_transp": ours["median_shape"],
        "image_reader_writer": "NibabelIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": content["intensities"],
    }


if __name__ == "__main__":
    main()

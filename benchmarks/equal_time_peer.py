"""A fold described in a JSON file and seconds in, a peer's trained network and its held-out segmentations out.

Runs in the peers' environment, without our package. Every side trains for the seconds given, data and steps, and its
learning rate reaches zero at their end; preparing and predicting are not counted.

- `nnunet`: nnU-Net's fingerprint, plan, preprocessing, loader, augmentation, step and validation. Only the length is
  changed: its poly schedule runs over the seconds instead of over 1000 epochs.
- `nnunet_small`: the same with the width and batch of our plan.
- `monai`: MONAI's `UNet` with residual units, Dice + CE, Adam, random foreground crops, flips and intensity
  changes, sliding-window inference: the recipe of its spleen tutorial, with a cosine to zero over the seconds.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DATASET_NUMBER = 999


def main() -> None:
    """Train one side and print what it did as a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path, help="written by equal_time.py")
    parser.add_argument("side", choices=["nnunet", "nnunet_small", "monai"])
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shared", type=Path, required=True, help="folder for what all sides and seeds prepare once")
    parser.add_argument("--out", type=Path, required=True, help="folder for held-out segmentations, <case>.nii.gz")
    asked = parser.parse_args()
    task = json.loads(asked.task.read_text())
    asked.out.mkdir(parents=True, exist_ok=True)
    train = train_monai if asked.side == "monai" else train_nnunet
    steps, samples = train(task, asked)
    print(json.dumps({"steps": steps, "samples": samples}))


def train_nnunet(task: dict[str, Any], asked: argparse.Namespace) -> tuple[int, int]:
    """nnU-Net's trainer for the seconds."""
    root = (asked.shared / "nnunet").resolve()
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    os.environ.update({name: str(root / name) for name in names[:2]})
    os.environ[names[2]] = str((asked.out.parent / "results").resolve())
    os.environ.update(nnUNet_n_proc_DA="0", nnUNet_def_n_proc="2")
    dataset = f"Dataset{DATASET_NUMBER}_Equal"
    prepared = root / names[1] / dataset
    if not (prepared / "prepared.txt").is_file():
        write_raw(task, root / names[0] / dataset)
        command = [str(Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess"), "-d", str(DATASET_NUMBER)]
        settings = {**os.environ, "nnUNet_n_proc_DA": "1"}  # its planner refuses 0
        command += ["-c", "3d_fullres", "-np", "1", "-npfp", "1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=settings)
        split = [{"train": task["train"], "val": task["validation"]}]
        (prepared / "splits_final.json").write_text(json.dumps(split))
        (prepared / "prepared.txt").touch()

    import numpy as np
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.manual_seed(asked.seed)
    np.random.seed(asked.seed)  # noqa: NPY002 (nnU-Net draws from it)
    plans = json.loads((prepared / "nnUNetPlans.json").read_text())
    if asked.side == "nnunet_small":
        shrink(plans["configurations"]["3d_fullres"], task["configuration"])
    plans["continue_training"] = False  # how its command line tells the trainer
    described = json.loads((prepared / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, described, device=torch.device("cpu"))
    trainer.initialize()
    trainer.on_train_start()
    trainer.network.train()
    started, steps = time.monotonic(), 0
    while (done := (time.monotonic() - started) / asked.seconds) < 1:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - done) ** 0.9
        trainer.train_step(next(trainer.dataloader_train))
        steps += 1
    trainer.perform_actual_validation()
    for case in task["validation"]:
        shutil.copyfile(Path(trainer.output_folder) / "validation" / f"{case}.nii.gz", asked.out / f"{case}.nii.gz")
    return steps, steps * trainer.batch_size


def write_raw(task: dict[str, Any], folder: Path) -> None:
    """The dataset in nnU-Net's layout; 4-D images are split into channels."""
    import nibabel

    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for case, files in task["cases"].items():
        image = nibabel.load(files["image"])
        if image.ndim == 3:
            shutil.copyfile(files["image"], folder / "imagesTr" / f"{case}_0000.nii.gz")
        else:
            for number, channel in enumerate(nibabel.four_to_three(image)):
                nibabel.save(channel, folder / "imagesTr" / f"{case}_{number:04d}.nii.gz")
        shutil.copyfile(files["label"], folder / "labelsTr" / f"{case}.nii.gz")
    described = {
        "channel_names": {str(number): name for number, name in enumerate(task["channels"])},
        "labels": task["labels"],
        "numTraining": len(task["cases"]),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(described))


def shrink(configuration: dict[str, Any], ours: dict[str, Any]) -> None:
    """nnU-Net's plan with our width and batch; its patch, strides and depth stay."""
    network = configuration["architecture"]["arch_kwargs"]
    widths = list(ours["network"]["features_per_stage"])
    widths += [widths[-1]] * network["n_stages"]
    network["features_per_stage"] = widths[: network["n_stages"]]
    configuration["batch_size"] = ours["batch_size"]


def train_monai(task: dict[str, Any], asked: argparse.Namespace) -> tuple[int, int]:
    """MONAI's U-Net for the seconds."""
    import torch
    from monai.data import CacheDataset, DataLoader, decollate_batch
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet
    from monai.utils import set_determinism

    set_determinism(asked.seed)
    configuration, num_classes = task["configuration"], len(task["labels"])
    # MONAI's axes are x, y, z, and this network halves each three times.
    patch = [math.ceil(edge / 8) * 8 for edge in configuration["patch_size"][::-1]]
    before, random, after = monai_transforms(task, patch, asked.out)
    training = CacheDataset([task["cases"][case] for case in task["train"]], before, progress=False)
    held_out = CacheDataset([task["cases"][case] for case in task["validation"]], before, progress=False)
    network = UNet(3, len(task["channels"]), num_classes, (16, 32, 64, 128), (2, 2, 2), num_res_units=2)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True)
    generator, batch_size = torch.Generator().manual_seed(asked.seed), configuration["batch_size"]
    started, steps = time.monotonic(), 0
    while (done := (time.monotonic() - started) / asked.seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * done))
        drawn = torch.randint(len(training), (batch_size,), generator=generator).tolist()
        patches = [random(training[number])[0] for number in drawn]
        image, label = (torch.stack([p[key] for p in patches]).as_tensor() for key in ("image", "label"))
        optimizer.zero_grad()
        loss_of(network(image), label).backward()
        optimizer.step()
        steps += 1
    network.eval()
    with torch.no_grad():
        for batch in DataLoader(held_out, batch_size=1):
            batch["pred"] = sliding_window_inference(batch["image"], patch, 4, network, overlap=0.5, mode="gaussian")
            for item in decollate_batch(batch):
                after(item)
    return steps, steps * batch_size


def monai_transforms(task: dict[str, Any], patch: list[int], out: Path) -> tuple[Any, Any, Any]:
    """What is done once to a case, anew to each patch, and to a prediction until it is a file."""
    from monai import transforms as t

    both = ("image", "label")
    modes = ("bilinear", "nearest")
    scale = (
        t.ScaleIntensityRanged("image", *task["window"], 0.0, 1.0, clip=True)
        if "window" in task
        else t.NormalizeIntensityd("image", channel_wise=True)
    )
    before = t.Compose(
        [
            t.LoadImaged(both, ensure_channel_first=True, image_only=True),
            t.Orientationd(both, axcodes="RAS", labels=None),
            t.Spacingd(both, pixdim=task["configuration"]["spacing_mm"][::-1], mode=modes),
            scale,
            t.EnsureTyped(both),
        ]
    )
    random = t.Compose(
        [
            t.SpatialPadd(both, patch),
            t.RandCropByPosNegLabeld(both, label_key="label", spatial_size=patch, pos=1, neg=1, num_samples=1),
            *(t.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
            t.RandScaleIntensityd("image", factors=0.1, prob=0.5),
            t.RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        ]
    )
    after = t.Compose(
        [
            t.Invertd("pred", transform=before, orig_keys="image", nearest_interp=False, to_tensor=True),
            t.AsDiscreted("pred", argmax=True),
            t.SaveImaged(
                "pred", output_dir=str(out), output_postfix="", separate_folder=False, output_dtype="uint8",
                print_log=False,
            ),
        ]
    )  # fmt: skip
    return before, random, after


if __name__ == "__main__":
    main()

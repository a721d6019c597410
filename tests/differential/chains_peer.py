"""Run by an interpreter that has nnU-Net: a volume in, statistics of many patches augmented by its trainers out."""

import sys

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5

TRAINERS = {"nnunet": nnUNetTrainer, "da5": nnUNetTrainerDA5}


def main(source, target):
    given = dict(np.load(source))
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.set_num_threads(1)
    image, maps = torch.from_numpy(given["image"]), torch.from_numpy(given["maps"])
    patch = tuple(int(n) for n in given["patch"])
    in_plane = bool(given["in_plane"])
    angle = np.deg2rad(180 if in_plane else 30)
    results = {}
    for name, trainer in TRAINERS.items():
        chain = trainer.get_training_transforms(
            patch, (-angle, angle), None, (0, 1, 2), in_plane, is_cascaded=True, foreground_labels=[1, 2]
        )
        images, labels = [], []
        for _ in range(int(given["count"])):
            made = chain(image=image.clone(), segmentation=maps.clone())
            images.append(made["image"].numpy())
            labels.append(made["segmentation"][0].numpy())
        results[f"{name}_image"], results[f"{name}_labels"] = np.stack(images), np.stack(labels)
    np.savez(target, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])

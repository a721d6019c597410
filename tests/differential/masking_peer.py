"""Run by an interpreter that has nnU-Net: an image with air in, its patch after rotation and masking out (both npz)."""

import sys

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero


def main(source, target):
    given = dict(np.load(source))
    _, labels, box = crop_to_nonzero(given["image"].copy(), given["labels"][None].copy())
    previous = given["previous"][(None, *(slice(*edge) for edge in box))]
    transform = SpatialTransform(
        tuple(int(n) for n in given["patch"]),
        0,
        False,
        p_rotation=1,
        rotation=lambda image, dim: float(given["angles"][dim]),
        p_scaling=1,
        scaling=float(given["scale"]),
        p_synchronize_scaling_across_axes=1,
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    normalised = torch.from_numpy(given["normalised"])
    data = transform(image=normalised, segmentation=torch.from_numpy(np.concatenate([labels, previous])))
    data["image"] += given["offset"]
    data = MaskImageTransform([0], 0, 0)(**data)
    data = RemoveLabelTansform(-1, 0)(**data)
    np.savez(target, cropped=labels[0], image=data["image"].numpy(), maps=data["segmentation"].numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Run by an interpreter that has batchgeneratorsv2: arrays and parameters in, its results out (both npz)."""

import sys

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.nnunet import random_binary_operator
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform


def resample(image, labels, patch, angles, scale, in_plane):
    data = {"image": torch.from_numpy(image), "segmentation": torch.from_numpy(labels)[None]}
    if in_plane:
        data, patch = Convert3DTo2DTransform()(**data), patch[1:]
    transform = SpatialTransform(
        tuple(int(n) for n in patch),
        0,
        False,
        p_rotation=1,
        rotation=lambda image, dim: float(angles[0] if in_plane else angles[dim]),
        p_scaling=1,
        scaling=float(scale),
        p_synchronize_scaling_across_axes=1,
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    data = transform(**data)
    if in_plane:
        data = Convert2DTo3DTransform()(**data)
    return data["image"].numpy(), data["segmentation"][0].clamp(min=0).numpy()


def change_intensities(image, values):
    every = torch.arange(len(image))
    on = torch.ones(len(image), dtype=torch.bool)
    factors = torch.from_numpy(values["factors"])
    zooms = torch.from_numpy(values["zooms"])
    gammas = {"apply_to_channel": every, "retain_stats": on, "gamma": factors}

    def run(transform, **parameters):
        return transform._apply_to_image(torch.from_numpy(image.copy()), **parameters).numpy()

    return {
        "blur": run(GaussianBlurTransform(), apply_to_channel=on, sigmas=values["sigmas"].tolist()),
        "brightness": run(
            MultiplicativeBrightnessTransform((1, 1), False), apply_to_channel=every, multipliers=factors
        ),
        "contrast": run(ContrastTransform((1, 1), True, False), apply_to_channel=every, multipliers=factors),
        "low_resolution": run(
            SimulateLowResolutionTransform((1, 1), False, True, None), apply_to_channel=every, scales=zooms
        ),
        "gamma": run(GammaTransform((1, 1), 0, False, 1, 1), invert_image=~on, **gammas),
        "gamma_inverted": run(GammaTransform((1, 1), 1, False, 1, 1), invert_image=on, **gammas),
    }


def corrupt(onehot, radius):
    results = {}
    for name in ("dilation", "erosion", "opening", "closing"):
        transform = random_binary_operator.ApplyRandomBinaryOperatorTransform(list(range(len(onehot))))
        operator = getattr(random_binary_operator, f"binary_{name}_torch")
        changed = transform._apply_to_image(
            torch.from_numpy(onehot.copy()), apply_to_channels=[1], operators=[operator], strel_size=[int(radius)]
        )
        results[name] = changed.numpy()
    return results


def main(source, target):
    given = dict(np.load(source))
    results = {}
    for name in ("volume", "slices"):
        image, *place = (given[f"{name}_{part}"] for part in ("image", "patch", "angles", "scale"))
        for kind in ("labels", "dust"):
            results[f"{name}_image"], results[f"{name}_{kind}"] = resample(
                image, given[f"{name}_{kind}"], *place, name == "slices"
            )
    results |= change_intensities(given["intensity_image"], given)
    results |= corrupt(given["onehot"], given["radius"])
    np.savez(target, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])

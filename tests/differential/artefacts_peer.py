"""Run by an interpreter that has batchgeneratorsv2: arrays and parameters in, its results out (both npz)."""

import sys

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.brightness import BrightnessAdditiveTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.local.brightness_gradient import BrightnessGradientAdditiveTransform
from batchgeneratorsv2.transforms.local.local_gamma import LocalGammaTransform
from batchgeneratorsv2.transforms.noise.blank_rectangle import BlankRectangleTransform
from batchgeneratorsv2.transforms.noise.median_filter import MedianFilterTransform
from batchgeneratorsv2.transforms.noise.sharpen import SharpeningTransform


def main(source, target):
    given = dict(np.load(source))
    image = given["image"]
    shape, every, channels = image.shape[1:], [True] * len(image), list(range(len(image)))

    def run(transform, **parameters):
        return transform._apply_to_image(torch.from_numpy(image.copy()), **parameters).numpy()

    def kernel(places, widths):
        narrow = [size // 6 for size in shape]
        scales = [low * (size / low) ** share for low, size, share in zip(narrow, shape, widths, strict=True)]
        made = LocalGammaTransform(scale=lambda _, d: scales[d], loc=lambda _, d: float(places[d]))
        return made._generate_kernel(shape)

    kernels = [kernel(*both) for both in zip(given["places"], given["widths"], strict=True)]
    factors = given["factors"]
    gradient = BrightnessGradientAdditiveTransform(scale=1.0)
    results = {
        "sharpen": run(
            SharpeningTransform(),
            apply_channel=every,
            strengths=factors.tolist(),
            clamp_intensities=[False] * len(image),
        ),
        "median": run(MedianFilterTransform(3), apply_channel=every, filter_sizes=given["edges"].tolist()),
        "brightness_gradient": run(
            gradient, kernels=[(k * f).astype(np.float32) for k, f in zip(kernels, factors, strict=True)]
        ),
        "local_gamma": run(LocalGammaTransform(scale=1.0), kernels=kernels, gammas=factors.tolist()),
        "contrast_unclipped": run(
            ContrastTransform((1, 1), False, False),
            apply_to_channel=torch.tensor(channels),
            multipliers=torch.from_numpy(factors),
        ),
        "rectangles": run(
            BlankRectangleTransform(5, torch.mean, 2),
            apply_channel=every,
            rectangles=[
                [(a, b) for a, b in zip(lows, highs, strict=True)]
                for lows, highs in zip(given["lows"].tolist(), given["highs"].tolist(), strict=True)
            ],
        ),
    }
    shifted = BrightnessAdditiveTransform(0, 0.5, False, 1.0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    results["shifts"] = np.array(
        [shifted(image=torch.zeros(1, 2, 2, 2))["image"].flatten()[0].item() for _ in range(2000)]
    )
    np.savez(target, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])

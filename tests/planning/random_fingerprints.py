"""A random generator in, nnU-Net fingerprints with their dataset.json out: realistic ones and odd ones."""

from typing import Any

import numpy as np

CHANNELS = ["CT", "ct", "cT", "MRI", "T2w", "noNorm", "nonorm", "zscore", "rescale_to_0_1", "rgb_to_0_1", "PET", "CT "]
MEMORIES_GIB = [None, None, None, 0.5, 1, 1.5, 3, 6, 8, 11.5, 24, 80]
SPACINGS_MM = [0.2, 0.39, 0.5, 0.625, 0.7, 0.78125, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.6, 8.0, 10.0]


def random_task(rng: np.random.Generator) -> dict[str, Any]:
    """Fingerprint, dataset.json and memory of one planning task."""
    kind = rng.choice(["isotropic", "thick", "plane", "mixed", "flat", "tiny", "huge", "few slices", "ties", "extreme"])
    num_cases = int(rng.choice([1, 2, 3, 4, 5, 7, 10, 20, 33, 60]))
    spacings, shapes = _grids(rng, str(kind), num_cases)
    channels = [str(rng.choice(CHANNELS)) for _ in range(rng.integers(1, 5))]
    statistics = {"mean": 10.0, "median": 9.0, "std": 4.0, "min": -3.0, "max": 90.0}
    statistics |= {"percentile_00_5": -1.0, "percentile_99_5": 80.0}
    return {
        "kind": str(kind),
        "fingerprint": {
            "spacings": spacings.tolist(),
            "shapes_after_crop": shapes.tolist(),
            "foreground_intensity_properties_per_channel": {str(i): statistics for i in range(len(channels))},
            "median_relative_size_after_cropping": float(rng.choice([1.0, 0.75, 0.7499, 0.3, 0.9])),
        },
        "dataset": {
            "channel_names": {str(i): name for i, name in enumerate(channels)},
            "numTraining": num_cases if rng.random() < 0.8 else int(rng.integers(1, 1000)),
            **_labels(rng),
        },
        "gpu_memory_gib": MEMORIES_GIB[rng.integers(len(MEMORIES_GIB))],
    }


def _grids(rng: np.random.Generator, kind: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Spacings and shapes, one row a case, z y x."""
    pick = lambda low, high: rng.integers(low, high + 1, (n, 1))  # noqa: E731
    plane = rng.choice(SPACINGS_MM[:13])
    if kind == "isotropic":
        spacings = np.full((n, 3), rng.choice(SPACINGS_MM)) * rng.uniform(0.9, 1.1, (n, 1))
        shapes = rng.integers(24, 400, 3) * rng.uniform(0.8, 1.2, (n, 3))
    elif kind == "thick":
        spacings = np.hstack([rng.choice(SPACINGS_MM[10:], (n, 1)), np.full((n, 2), plane)])
        shapes = np.hstack([pick(8, 80), np.repeat(pick(150, 640), 2, axis=1)])
    elif kind == "plane":  # thick slices along another axis than the first
        spacings = np.hstack([np.full((n, 2), plane), rng.choice(SPACINGS_MM[10:], (n, 1))])[:, rng.permutation(3)]
        shapes = rng.integers(10, 400, (n, 3))
    elif kind == "mixed":
        spacings = rng.choice(SPACINGS_MM, (n, 3))
        shapes = rng.integers(5, 512, (n, 3))
    elif kind == "flat":  # 2-D images
        edge = rng.choice([1.0, plane])
        spacings = np.tile([edge * 999, edge, edge], (n, 1))
        shapes = np.hstack([np.ones((n, 1)), pick(20, 3000), pick(20, 3000)])
    elif kind == "tiny":
        spacings = np.full((n, 3), rng.choice(SPACINGS_MM))
        shapes = rng.integers(2, 40, (n, 3))
    elif kind == "huge":
        spacings = rng.choice(SPACINGS_MM[:8], 3) * np.ones((n, 1))
        shapes = rng.integers(500, 1500, (n, 3))
    elif kind == "few slices":
        spacings = np.hstack([rng.choice([3.0, 5.0, 10.0], (n, 1)), np.full((n, 2), plane)])
        shapes = np.hstack([pick(1, 6), pick(100, 600), pick(100, 600)])
    elif kind == "ties":
        spacings = np.tile(rng.choice([1.0, 2.0, 3.0], 3), (n, 1))
        shapes = np.tile(rng.choice([64, 128, 160, 256, 512], 3), (n, 1))
    else:
        spacings = rng.uniform(0.05, 20, (n, 3))
        shapes = np.exp(rng.uniform(np.log(8), np.log(900), (n, 3)))
    return spacings.astype(np.float64), np.maximum(np.rint(shapes), 1).astype(np.int64)


def _labels(rng: np.random.Generator) -> dict[str, Any]:
    """`labels` with few or many classes, with regions or an ignore label."""
    num = int(rng.choice([1, 1, 2, 2, 3, 5, 14, 60, 118]))
    labels: dict[str, Any] = {"background": 0, **{f"class {i}": i for i in range(1, num + 1)}}
    if num > 1 and rng.random() < 0.2:
        labels = {"background": 0} | {f"region {i}": list(range(i, num + 1)) for i in range(1, num + 1)}
        return {"labels": labels, "regions_class_order": list(range(1, num + 1))}
    if rng.random() < 0.2:
        labels["ignore"] = num + 1
    return {"labels": labels}

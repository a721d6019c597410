"""Seconds of HD95 and NSD of a large CT's segmentation, ours beside MONAI's and surface-distance's.

    AUTOSEG_PEER_PYTHON=/path/to/python python benchmarks/surface_metrics.py [--repeats 3] [--only NAME] [--threads 1]

300x512x512 voxels of 1.0x0.8x0.8 mm, 5 classes: four organs of different sizes and 24 lesions inside the largest; the
prediction has other outlines. `scattered` adds 40 false lesions all over the image to the prediction, so that no box of
the lesions is small and distances are long. Ours is `score_case` with the surface group, which also counts voxels and
takes the largest and average distance; the peers get one class at a time, as masks. Each measurement is a process of
its own, the sides take turns; figures are medians of CPU seconds, since the machine may be shared. Prints one JSON
line a case and peer. `hd95_differing_mm` and `nsd_differing` are the largest difference over the classes: nothing for
MONAI, which has our surface; some for surface-distance, which weighs surface elements by area.
"""

import argparse
import json

import numpy as np
from both_sides import compared, measured, run_in_turn

SHAPE, SPACING_MM, TOLERANCE_MM, NUM_CLASSES = (300, 512, 512), (1.0, 0.8, 0.8), 2.0, 5
INPUTS = ("organs", "scattered")
PEERS = ("monai", "surface-distance")
# centre and half axes in voxels, class 1 to 4
ORGANS = (
    ((160, 230, 170), (70, 110, 120)),
    ((150, 330, 180), (45, 35, 30)),
    ((150, 330, 350), (45, 35, 30)),
    ((190, 250, 380), (50, 45, 60)),
)


def smooth_noise(seed: int, knots: int) -> np.ndarray:
    """Smooth random field of about unit deviation, float32."""
    field = np.random.default_rng(seed).standard_normal((knots,) * 3).astype(np.float32)
    for axis, size in enumerate(SHAPE):
        at = np.linspace(0, knots - 1.001, size)
        low = at.astype(int)
        weight = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        field = field.take(low, axis) * (1 - weight) + field.take(low + 1, axis) * weight
    return field / field.std()


def paint(labels: np.ndarray, number: int, centre: tuple, radii: tuple, bumps: np.ndarray) -> None:
    """Paint an ellipsoid with bumps, by working in a box around it."""
    box = tuple(
        slice(max(0, int(c - 1.5 * r)), min(size, int(c + 1.5 * r) + 1))
        for c, r, size in zip(centre, radii, SHAPE, strict=True)
    )
    z, y, x = np.ogrid[box]
    distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), centre, radii, strict=True))
    labels[box][distance + bumps[box] < 1] = number


def make_input(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and reference, `Z Y X` int16."""
    rng = np.random.default_rng(7)
    shared, own = 0.15 * smooth_noise(0, 12), 0.04 * smooth_noise(1, 40)
    lesions = [((160, 230, 170) + rng.uniform(-45, 45, 3), (r, r, r)) for r in rng.uniform(4, 12, 24)]
    reference, prediction = (np.zeros(SHAPE, np.int16) for _ in range(2))
    for labels, bumps in ((reference, shared), (prediction, shared + own)):
        for number, (centre, radii) in enumerate(ORGANS, start=1):
            paint(labels, number, centre, radii, bumps)
        for centre, radii in lesions:
            paint(labels, 5, tuple(centre), radii, bumps)
    if name == "scattered":
        for centre in rng.uniform(0.03, 0.97, (40, 3)) * SHAPE:
            paint(prediction, 5, tuple(centre), (5, 5, 5), shared)
    return prediction, reference


def run_ours(prediction: np.ndarray, reference: np.ndarray) -> list[tuple[float, float]]:
    from autoseg.metrics.build import score_case
    from autoseg.records.geometry import Geometry
    from autoseg.records.labels import LabelScheme
    from autoseg.records.scoring import Scoring

    z, y, x = SPACING_MM
    names = tuple(map(str, range(NUM_CLASSES + 1)))
    scheme = LabelScheme(class_names=names, class_values=tuple(range(NUM_CLASSES + 1)), num_entries=len(names))
    grid = Geometry(shape=SHAPE, spacing_mm=SPACING_MM, affine=((0, 0, x, 0), (0, y, 0, 0), (z, 0, 0, 0)))
    scoring = Scoring(groups=("surface",), default_tolerance_mm=TOLERANCE_MM)
    scores = score_case(prediction, reference, scheme, grid, scoring)
    return [(score.hd95_mm, score.nsd) for score in scores.values()]


def run_monai(prediction: np.ndarray, reference: np.ndarray) -> list[tuple[float, float]]:
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    results = []
    for number in range(1, NUM_CLASSES + 1):
        y_pred, y = (torch.from_numpy(labels == number)[None, None] for labels in (prediction, reference))
        more = {"include_background": True, "spacing": list(SPACING_MM)}
        hd95 = compute_hausdorff_distance(y_pred, y, percentile=95, **more)
        results.append((float(hd95), float(compute_surface_dice(y_pred, y, [TOLERANCE_MM], **more))))
    return results


def run_surface_distance(prediction: np.ndarray, reference: np.ndarray) -> list[tuple[float, float]]:
    import surface_distance

    results = []
    for number in range(1, NUM_CLASSES + 1):
        found = surface_distance.compute_surface_distances(reference == number, prediction == number, SPACING_MM)
        results.append(
            (
                float(surface_distance.compute_robust_hausdorff(found, 95)),
                float(surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE_MM)),
            )
        )
    return results


RUNS = {"ours": run_ours, "monai": run_monai, "surface-distance": run_surface_distance}


def measure(side: str, name: str, threads: int) -> None:
    """One measurement in this process: prints its seconds, peak memory and results."""
    if side == "ours":  # imports are outside the clock
        import autoseg.metrics.build  # noqa: F401
    elif side == "monai":
        import torch

        torch.set_num_threads(threads)
    else:
        import surface_distance  # noqa: F401
    prediction, reference = make_input(name)
    results, took = measured(lambda: RUNS[side](prediction, reference))
    print(json.dumps({**took, "results": results}))


def compare(name: str, repeats: int, threads: int) -> list[dict[str, object]]:
    """One input: all sides in turn, `repeats` times."""

    def arguments(side: str) -> list[object]:
        return ["--measure", side, "--only", name, "--threads", threads]

    runs = run_in_turn(__file__, arguments, repeats, threads, tuple(PEERS))

    def differing(side: str, column: int) -> float | None:
        if side not in runs:
            return None
        pairs = zip(runs["ours"][0]["results"], runs[side][0]["results"], strict=True)
        return max(abs(mine[column] - theirs[column]) for mine, theirs in pairs)

    return [
        {
            **compared(f"{name}, beside {peer}", runs, peer),
            "hd95_differing_mm": differing(peer, 0),
            "nsd_differing": differing(peer, 1),
            "threads": threads,
        }
        for peer in PEERS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=INPUTS)
    parser.add_argument("--measure", choices=("ours", *PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.only, options.threads)
        return
    for name in [options.only] if options.only else INPUTS:
        for line in compare(name, options.repeats, options.threads):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

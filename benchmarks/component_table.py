"""Seconds and memory of the component table of one large case, ours beside scikit-image's `regionprops`.

    AUTOSEG_PEER_PYTHON=/path/to/python python benchmarks/component_table.py [--repeats 3] [--components 500]

A 300x512x512 CT at 1.0x0.8x0.8 mm with an organ of 5.2 million voxels and balls of 2 to 8 voxels' radius, so many that
with the organ there are `--components` components of the segmentation, and candidates of the thresholds 0.3 and 0.1
besides. Ours: components, candidates and all 44 features, the body box and k-d trees included. Peer: labelling at
the decision and at both thresholds, and what `regionprops` gives of the same: volume, box, principal axes, and mean and
largest probability and intensity; no confidence on the border, no ring, no distances. One thread each, a fresh process
a measurement, the sides in turn; CPU seconds (the machine may be shared), medians. Peak memory is that of the whole
process in GiB (Linux), `input` what is resident before the clock starts. `differing` is the largest difference of
volumes (mm3) and of mean probabilities, rows sorted by both; ours samples the organ (off by 0.002), and the peer adds
its 5 million float32 one by one (off by 0.016).
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from both_sides import compared, measured, median, memory_gib, run_in_turn

SHAPE, SPACING_MM = (300, 512, 512), (1.0, 0.8, 0.8)
THRESHOLDS = (0.3, 0.1)


def make_case(num_components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities `3 z y x` float16, classes int16, image float32, mirroring disagreement uint8."""
    rng = np.random.default_rng(0)
    probabilities = np.zeros((3, *SHAPE), np.float16)
    z, y, x = np.ogrid[:200, :230, :230]
    radius = ((z - 100) / 100) ** 2 + ((y - 115) / 115) ** 2 + ((x - 115) / 115) ** 2
    probabilities[1, 50:250, 150:380, 100:330] = np.clip((1.3 - radius) * 1.5, 0, 0.97)
    free = np.ones(SHAPE, bool)
    placed = 1
    for number in range(20 * num_components):
        if placed == num_components:
            break
        size = int(rng.integers(2, 9))
        side = np.arange(-size - 2, size + 3)
        distance = np.sqrt(side[:, None, None] ** 2 + side[None, :, None] ** 2 + side[None, None] ** 2)
        is_candidate = number % 6 == 0
        peak = rng.uniform(0.15, 0.45) if is_candidate else rng.uniform(0.75, 0.99)
        ball = (peak / (1 + np.exp((distance - size) * 1.5))).astype(np.float16)
        start = [int(rng.integers(0, n - len(side))) for n in SHAPE]
        where = tuple(slice(a, a + len(side)) for a in start)
        if not free[where].all():
            continue
        free[where] = False
        probabilities[(1, *where)] *= 1 - ball
        probabilities[(2, *where)] = ball
        placed += not is_candidate
    probabilities[0] = 1 - probabilities[1] - probabilities[2]
    classes = np.zeros(SHAPE, np.int16)
    best = probabilities[0].copy()
    for head in (1, 2):
        wins = probabilities[head] > best
        classes[wins] = head
        np.maximum(best, probabilities[head], out=best)
    image = rng.standard_normal(SHAPE, dtype=np.float32) * 20 + classes * np.float32(50)
    return probabilities, classes, image, rng.integers(0, 256, SHAPE, dtype=np.uint8)


def run_ours(case: tuple[np.ndarray, ...]) -> tuple[np.ndarray, int]:
    from autoseg.inference.probability_reader import FoldPrediction, ProbabilityReader
    from autoseg.postprocessing.features import CaseGrid, feature_names, measure
    from autoseg.postprocessing.find import find_components
    from autoseg.records.labels import LabelScheme
    from autoseg.records.postprocessing import ComponentSettings

    probabilities, classes, image, disagreement = case
    reader = ProbabilityReader(probabilities.shape, lambda rows: probabilities[:, rows])
    labels = LabelScheme(class_names=("background", "organ", "lesion"), class_values=(0, 1, 2), num_entries=3)
    settings = ComponentSettings(restore_thresholds=THRESHOLDS, max_candidates=10_000)
    grid = CaseGrid(image[None], ((0.0, 20.0),), SPACING_MM, False)
    found = find_components(classes, reader, labels, settings)
    table = measure(found, classes, [FoldPrediction(reader, disagreement)], labels, grid, settings.ring_mm)
    names = feature_names(1)
    return table[:, [names.index("volume_mm3"), names.index("probability_mean")]], int(found.is_decided.sum())


def run_peer(case: tuple[np.ndarray, ...]) -> tuple[np.ndarray, int]:
    from skimage.measure import label, regionprops

    probabilities, classes, image, _ = case
    rows, num_decided = [], 0
    for target in (1, 2):
        member, taken = classes == target, classes == target
        for level in (None, *THRESHOLDS):
            mask = member if level is None else member | (probabilities[target] >= level)
            numbers = label(mask, connectivity=3)
            if level is not None:
                is_taken = np.zeros(numbers.max() + 1, dtype=bool)
                is_taken[np.unique(numbers[taken])] = True
                numbers[is_taken[numbers] | (classes > 0)] = 0
                taken = taken | (numbers > 0)
            stacked = np.stack([probabilities[target].astype(np.float32), image], axis=-1)
            for region in regionprops(numbers, intensity_image=stacked, spacing=SPACING_MM):
                measured = (region.bbox, region.inertia_tensor_eigvals, region.intensity_max, region.centroid)
                assert all(value is not None for value in measured)
                rows.append((region.area, region.intensity_mean[0]))
                num_decided += level is None
    return np.array(rows), num_decided


def measure_side(side: str, num_components: int, output: Path) -> None:
    """One measurement in this process: prints its seconds and memory, leaves the compared columns in `output`."""
    run = run_ours if side == "ours" else run_peer
    # Imports outside the clock, those too that wait for the first call.
    tiny = np.zeros((3, 4, 8, 8), np.float16)
    tiny[1:, 1:3, 2:4, 2:4] = 0.9
    run((tiny, (tiny[1] > 0.5).astype(np.int16), tiny[1].astype(np.float32), tiny[0].astype(np.uint8)))
    case = make_case(num_components)
    before = memory_gib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here; making the case has its own
    (columns, num_decided), took = measured(lambda: run(case))
    np.save(output, columns[np.lexsort(columns.T)])
    content = {**took, "input": before}
    print(json.dumps({**content, "components": num_decided, "candidates": len(columns) - num_decided}))


def compare(repeats: int, num_components: int, folder: Path) -> dict[str, object]:
    outputs = {side: folder / f"{side}.npy" for side in ("ours", "peer")}

    def arguments(side: str) -> list[object]:
        return ["--measure", side, "--components", num_components, "--output", outputs[side]]

    runs = run_in_turn(__file__, arguments, repeats, threads=1)
    differing = None
    if "peer" in runs:
        a, b = np.load(outputs["ours"]), np.load(outputs["peer"])
        differing = np.abs(a - b).max(axis=0).tolist() if a.shape == b.shape else f"rows {len(a)} and {len(b)}"
    return {
        **compared(f"{num_components} components in 300x512x512", runs),
        "input_gib": median(runs, "ours", "input"),
        "components": median(runs, "ours", "components"),
        "candidates": median(runs, "ours", "candidates"),
        "differing": differing,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--components", type=int, default=500)
    parser.add_argument("--measure", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_side(options.measure, options.components, options.output)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(options.repeats, options.components, Path(folder))), flush=True)


if __name__ == "__main__":
    main()

"""Seconds of resampling a large CT image and of exporting its logits, ours beside nnU-Net's.

    AUTOSEG_PEER_PYTHON=/path/to/python python benchmarks/resample.py [--repeats 3] [--only NAME] [--threads 2]

300x512x512 at 1.0x0.8x0.8 mm to 200x273x273 at 1.5 mm and back: the image with cubic splines in both directions, its
labels (5 and 60 classes) down, and 5 heads of logits up to a segmentation. Each measurement is a process of its
own, the sides take turns; the figure is the median of the wall times. Prints one JSON line a case; the peak memory is
that of the whole process, libraries and input included. `differing` is the largest difference in standard deviations of
the image, or the share of voxels whose label differs.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LARGE, SMALL = (300, 512, 512), (200, 273, 273)
LARGE_MM, SMALL_MM = (1.0, 0.8, 0.8), (1.5, 1.5, 1.5)
CASES = {
    # name: (what, from shape, from mm, to shape, to mm, classes)
    "image down": ("image", LARGE, LARGE_MM, SMALL, SMALL_MM, 5),
    "image up": ("image", SMALL, SMALL_MM, LARGE, LARGE_MM, 5),
    "labels down, 5 classes": ("labels", LARGE, LARGE_MM, SMALL, SMALL_MM, 5),
    "labels down, 60 classes": ("labels", LARGE, LARGE_MM, SMALL, SMALL_MM, 60),
    "logits up, 5 heads": ("logits", SMALL, SMALL_MM, LARGE, LARGE_MM, 5),
}


def smooth_noise(shape: tuple[int, ...], seed: int, knots: int = 14) -> np.ndarray:
    """Smooth random field of about unit deviation, float32."""
    field = np.random.default_rng(seed).standard_normal((knots,) * 3).astype(np.float32)
    for axis, size in enumerate(shape):
        at = np.linspace(0, knots - 1.001, size)
        low = at.astype(int)
        weight = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        field = field.take(low, axis) * (1 - weight) + field.take(low + 1, axis) * weight
    return field / field.std()


def make_input(name: str) -> np.ndarray:
    """The array to be resampled, with a leading channel axis."""
    what, shape, _, _, _, classes = CASES[name]
    if what == "labels":
        field = smooth_noise(shape, 0)
        bounds = np.quantile(field[::8, ::8, ::8], np.linspace(0.7, 0.99, classes - 1))
        return np.digitize(field, bounds).astype(np.int8)[None]
    rng = np.random.default_rng(1)
    channels = [smooth_noise(shape, seed) for seed in range(classes if what == "logits" else 1)]
    return np.stack([c + 0.2 * rng.standard_normal(shape, dtype=np.float32) for c in channels])


def run_ours(name: str, array: np.ndarray) -> np.ndarray:
    import torch

    from autoseg.spatial.labels import resample_labels
    from autoseg.spatial.resampling import Source, linear_windows, resample_into, separate_axis

    what, _, before, shape, after, _ = CASES[name]
    separate, given = separate_axis(before, after), torch.from_numpy(array)
    if what == "image":
        (channel,) = given
        source = Source(channel.shape, channel.__getitem__, lambda: (float(channel.min()), float(channel.max())))
        resampled = torch.empty((1, *shape))
        resample_into(resampled[0], source, separate)
        return resampled.numpy()
    if what == "labels":
        return resample_labels(given[0], shape, separate).numpy()
    from autoseg.inference.export import decide_window
    from autoseg.records.labels import LabelScheme

    heads = len(array)
    scheme = LabelScheme(class_names=tuple(map(str, range(heads))), class_values=tuple(range(heads)), num_entries=heads)
    result = np.empty(shape, dtype=np.uint8)
    for window in linear_windows([given], given.shape[1:], shape, separate):
        result[window.where] = decide_window(window, scheme, threshold=0.0).numpy()
    return result


def run_peer(name: str, array: np.ndarray) -> np.ndarray:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape as resample

    what, _, before, shape, after, _ = CASES[name]
    if what == "logits":
        import torch

        up = resample(array, shape, before, after, is_seg=False, order=1, order_z=0, force_separate_z=None)
        return torch.from_numpy(up).softmax(0).argmax(0).numpy().astype(np.uint8)
    order, is_labels = (1, True) if what == "labels" else (3, False)
    result = resample(array, shape, before, after, is_seg=is_labels, order=order, order_z=0, force_separate_z=None)
    return result[0] if is_labels else result


def measure(side: str, name: str, threads: int, output: Path) -> None:
    """One measurement in this process: prints its seconds and peak memory, leaves the result in `output`."""
    import torch

    if side == "ours":  # outside the clock
        import autoseg.inference.export
        import autoseg.spatial.labels  # noqa: F401
    else:
        import nnunetv2.preprocessing.resampling.default_resampling  # noqa: F401
    torch.set_num_threads(threads)
    array = make_input(name)
    start, start_cpu = time.perf_counter(), time.process_time()
    result = (run_ours if side == "ours" else run_peer)(name, array)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    np.save(output, result)
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "rss_gib": peak}))


def in_fresh_process(python: str, side: str, name: str, threads: int, output: Path) -> dict[str, float]:
    command = [python, __file__, "--measure", side, "--only", name, "--threads", str(threads), "--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]) if side == "ours" else ""}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def difference(name: str, ours: Path, peer: Path) -> float:
    a, b = np.load(ours), np.load(peer)
    if CASES[name][0] == "image":
        return float(np.abs(a - b).max() / b.std())
    return float(np.mean(a != b))


def compare(name: str, repeats: int, threads: int, folder: Path) -> dict[str, object]:
    """One case: both sides in turn, `repeats` times."""
    interpreters = {"ours": sys.executable}
    if os.environ.get("AUTOSEG_PEER_PYTHON"):
        interpreters["peer"] = os.environ["AUTOSEG_PEER_PYTHON"]
    outputs = {side: folder / f"{side}.npy" for side in interpreters}
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in interpreters}
    for _ in range(repeats):
        for side, python in interpreters.items():
            runs[side].append(in_fresh_process(python, side, name, threads, outputs[side]))

    def median(side: str, key: str) -> float | None:
        return round(statistics.median(run[key] for run in runs[side]), 3) if side in runs else None

    ours, peer = median("ours", "seconds"), median("peer", "seconds")
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "unit": "s",
        "ratio": round(peer / ours, 2) if peer and ours else None,
        "cpu_ours": median("ours", "cpu_seconds"),
        "cpu_peer": median("peer", "cpu_seconds"),
        "rss_ours_gib": median("ours", "rss_gib"),
        "rss_peer_gib": median("peer", "rss_gib"),
        "differing": difference(name, outputs["ours"], outputs["peer"]) if peer else None,
        "threads": threads,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--measure", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.only, options.threads, options.output)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in [options.only] if options.only else CASES:
            print(json.dumps(compare(name, options.repeats, options.threads, Path(folder))), flush=True)


if __name__ == "__main__":
    main()

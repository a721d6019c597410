"""Seconds and memory of resampling a large CT image and of exporting its logits, ours beside nnU-Net's.

    AUTOSEG_PEER_PYTHON=/path/to/python python benchmarks/resample.py [--repeats 3] [--only NAME] [--threads 2]

300x512x512 at 1.0x0.8x0.8 mm to 200x273x273 at 1.5 mm and back: the image with cubic splines in both directions, its
labels (5 and 60 classes) down, and 5 heads of logits up to a segmentation. Each measurement is a process of its
own, the sides take turns; the figure is the median of the CPU seconds. Prints one JSON line a case; the peak memory is
that of the whole process, libraries and input (read from a file) included. `differing` is the largest difference in
standard deviations of the image, or the share of voxels whose label differs.
"""

import json
from pathlib import Path

import numpy as np
from both_sides import compared, measured, run_cases, run_in_turn

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
    from autoseg.spatial.linear import linear_windows
    from autoseg.spatial.resampling import Source, resample_into, separate_axis
    from autoseg.spatial.workers import Workers

    what, _, before, shape, after, _ = CASES[name]
    separate, given = separate_axis(before, after), torch.from_numpy(array)
    if what == "image":
        channel, target = given[0], torch.empty(tuple(shape))
        limits = float(channel.min()), float(channel.max())
        resample_into(target, Source(tuple(channel.shape), lambda box: channel[box], lambda: limits), separate)
        return target[None].numpy()
    if what == "labels":
        return resample_labels(given[0], shape, separate).numpy()
    from autoseg.inference.labelling import logits_to_labels_into
    from autoseg.records.labels import LabelScheme

    heads = len(array)
    scheme = LabelScheme(class_names=tuple(map(str, range(heads))), class_values=tuple(range(heads)), num_entries=heads)
    result = np.empty(shape, dtype=np.int16)
    with Workers() as workers:
        for window in linear_windows([given], given.shape[1:], shape, separate):
            logits_to_labels_into(result, window, scheme, 0.0, workers)
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


def measure(side: str, name: str, threads: int, folder: Path) -> None:
    """One measurement in this process: prints its seconds and peak memory, leaves the result in the folder."""
    import torch

    if side == "ours":  # outside the clock
        import autoseg.inference.export
        import autoseg.spatial.labels  # noqa: F401
    else:
        import nnunetv2.preprocessing.resampling.default_resampling  # noqa: F401
    torch.set_num_threads(threads)
    array = np.load(folder / "input.npy")
    result, took = measured(lambda: (run_ours if side == "ours" else run_peer)(name, array))
    np.save(folder / f"{side}.npy", result)
    print(json.dumps(took))


def compare(name: str, repeats: int, threads: int, folder: Path) -> dict[str, object]:
    """One case: both sides in turn, `repeats` times."""
    np.save(folder / "input.npy", make_input(name))

    def arguments(side: str) -> list[object]:
        return ["--measure", side, "--only", name, "--threads", threads, "--folder", folder]

    runs = run_in_turn(__file__, arguments, repeats, threads)
    line = {**compared(name, runs), "threads": threads}
    if "peer" in runs:
        a, b = np.load(folder / "ours.npy"), np.load(folder / "peer.npy")
        is_image = CASES[name][0] == "image"
        line["differing"] = float(np.abs(a - b).max() / b.std()) if is_image else float(np.mean(a != b))
    return line


if __name__ == "__main__":
    run_cases(__doc__, CASES, 3, measure, compare)

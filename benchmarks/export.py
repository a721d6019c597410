"""Seconds and memory from a large CT image's logits to its segmentation, ours beside nnU-Net's export.

    AUTOSEG_PEER_PYTHON=/path/to/python python benchmarks/export.py [--repeats 1] [--only NAME] [--threads 2]

200x273x273 logits at 1.5 mm to labels of 300x512x512 at 1.0x0.8x0.8 mm. With 5 heads both sides start from the same
float32 logits, nnU-Net with its default resampler and with its optional one in torch: smooth noise, in which nobody is
sure of anything, and logits as trained networks give them. With 105 heads logits come in
blocks of 32 rows, as our sliding window gives them (making them is not timed), and nnU-Net is not run: it resamples all
heads at once, so its result alone takes 31 GiB in float32. Each measurement is a process of its own; the peak memory is
that of the whole process, libraries and input included. Prints one JSON line a case; `differing` is the number of
voxels (of 78.6 million) whose label differs.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from both_sides import compared, measured, run_cases, run_in_turn
from resample import LARGE, LARGE_MM, SMALL, SMALL_MM, smooth_noise

ROWS = 32
"""Rows of a block of logits: half a patch of 64."""


def whole_logits(num_heads: int) -> np.ndarray:
    """Smooth fields with noise, float32 `H Z Y X`: nearly everywhere several heads are close to the largest."""
    rng = np.random.default_rng(1)
    fields = (
        smooth_noise(SMALL, seed) + 0.2 * rng.standard_normal(SMALL, dtype=np.float32) for seed in range(num_heads)
    )
    return np.stack(list(fields))


def sure_logits(num_heads: int) -> np.ndarray:
    """As trained networks give them, float32 `H Z Y X`: sure of all but the borders of balls of 12 to 36 voxels."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 0.2, (num_heads, *SMALL)).astype(np.float32)
    logits[0] += 8
    for head in range(1, num_heads):
        centre, radius = rng.uniform(0.2, 0.8, 3) * SMALL, rng.uniform(12, 36)
        axes = [((np.arange(n) - c) ** 2).astype(np.float32) for n, c in zip(SMALL, centre, strict=True)]
        distance = np.sqrt(axes[0][:, None, None] + axes[1][:, None] + axes[2])
        logits[head] += np.clip(4 * (radius - distance), -10, 10) + 4
    return logits


class Blocks:
    """Blocks of the logits of many heads, made when they are asked for; how long that took."""

    def __init__(self, num_heads: int) -> None:
        self.fields = np.stack([smooth_noise((14, 14, 14), seed) for seed in range(num_heads)])
        self.noise = 0.2 * np.random.default_rng(1).standard_normal((ROWS, *SMALL[1:]), dtype=np.float32)
        self.wall = self.cpu = 0.0

    def __iter__(self) -> Iterator["torch.Tensor"]:  # noqa: F821 - torch is imported late, as each side has its own
        import torch

        for start in range(0, SMALL[0], ROWS):
            wall, cpu = time.perf_counter(), time.process_time()
            at = np.linspace(0, 12.999, SMALL[0])[start : start + ROWS]
            block = torch.empty((len(self.fields), len(at), *SMALL[1:]))
            for head, field in enumerate(self.fields):
                low, weight = at.astype(int), (at - at.astype(int)).astype(np.float32)[:, None, None]
                planes = torch.from_numpy(field[low] * (1 - weight) + field[low + 1] * weight)[None]
                wide = torch.nn.functional.interpolate(planes, SMALL[1:], mode="bilinear", align_corners=True)[0]
                block[head] = wide + torch.from_numpy(np.roll(self.noise[: len(at)], 7 * head, axis=2))
            self.wall, self.cpu = self.wall + time.perf_counter() - wall, self.cpu + time.process_time() - cpu
            yield block


def run_ours(parts: object, num_heads: int) -> np.ndarray:
    from autoseg.inference.export import native_windows
    from autoseg.inference.predictor import segmentation
    from autoseg.records.geometry import Geometry
    from autoseg.records.labels import LabelScheme
    from autoseg.records.results import PreprocessedCase

    names = tuple(map(str, range(num_heads)))
    scheme = LabelScheme(class_names=names, class_values=tuple(range(num_heads)), num_entries=num_heads)
    z, y, x = LARGE_MM
    meta = PreprocessedCase(
        id="case",
        geometry=Geometry(shape=LARGE, spacing_mm=LARGE_MM, affine=((0, 0, x, 0), (0, y, 0, 0), (z, 0, 0, 0))),
        axes=(0, 1, 2),
        flips=(False, False, False),
        crop=tuple((0, n) for n in LARGE),
        shape_before_crop=LARGE,
        spacing_before_mm=LARGE_MM,
        shape=SMALL,
        spacing_mm=SMALL_MM,
    )
    return segmentation(((window,) for window in native_windows(parts, meta)), meta, scheme)


def run_peer(logits: np.ndarray, resampler: str, threads: int) -> np.ndarray:
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.preprocessing.resampling import default_resampling, resample_torch
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    options = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    if resampler == "resample_torch_fornnunet":
        options = {"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False}
    function = getattr(resample_torch if resampler == "resample_torch_fornnunet" else default_resampling, resampler)
    configuration = SimpleNamespace(
        spacing=list(SMALL_MM), resampling_fn_probabilities=lambda *given: function(*given, **options)
    )
    plans = SimpleNamespace(transpose_forward=[0, 1, 2], transpose_backward=[0, 1, 2])
    manager = LabelManager({"background": 0, **{str(i): i for i in range(1, len(logits))}}, None)
    properties = {
        "spacing": list(LARGE_MM),
        "shape_after_cropping_and_before_resampling": LARGE,
        "shape_before_cropping": LARGE,
        "bbox_used_for_cropping": [[0, n] for n in LARGE],
    }
    return convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans, configuration, manager, properties, num_threads_torch=threads
    )


def measure(side: str, name: str, threads: int, folder: Path) -> None:
    """One measurement in this process: prints its seconds and peak memory, leaves the result in the folder."""
    import torch

    if side == "ours":  # outside the clock
        import autoseg.inference.export  # noqa: F401
    else:
        import nnunetv2.inference.export_prediction  # noqa: F401
    torch.set_num_threads(threads)
    num_heads, _, resampler = CASES[name]
    if resampler is None:
        blocks = Blocks(num_heads)
        result, took = measured(lambda: run_ours(blocks, num_heads))
        took["seconds"], took["cpu_seconds"] = took["seconds"] - blocks.wall, took["cpu_seconds"] - blocks.cpu
    else:
        logits = np.load(folder / "input.npy")
        if side == "peer":
            result, took = measured(lambda: run_peer(logits, resampler, threads))
        else:
            result, took = measured(lambda: run_ours([torch.from_numpy(logits)], num_heads))
    np.save(folder / f"{side}.npy", np.asarray(result).astype(np.uint8))
    print(json.dumps(took))


def compare(name: str, repeats: int, threads: int, folder: Path) -> dict[str, object]:
    """One case: both sides in turn, `repeats` times."""
    num_heads, make, resampler = CASES[name]
    if make is not None:
        np.save(folder / "input.npy", make(num_heads))

    def arguments(side: str) -> list[object]:
        return ["--measure", side, "--only", name, "--threads", threads, "--folder", folder]

    runs = run_in_turn(__file__, arguments, repeats, threads, peers=() if resampler is None else ("peer",))
    line = {**compared(name, runs), "threads": threads}
    if resampler is None:
        line["peer_result_alone_gib"] = round(4 * num_heads * float(np.prod(LARGE)) / 2**30, 1)
    elif "peer" in runs:
        line["differing"] = int(np.sum(np.load(folder / "ours.npy") != np.load(folder / "peer.npy")))
    return line


CASES = {
    # name: (heads, their logits, nnU-Net's resampler); None: in blocks, and nnU-Net is not run
    "5 heads": (5, whole_logits, "resample_data_or_seg_to_shape"),
    "5 heads, nnU-Net with its torch resampler": (5, whole_logits, "resample_torch_fornnunet"),
    "5 heads of a network that is sure": (5, sure_logits, "resample_data_or_seg_to_shape"),
    "105 heads": (105, None, None),
}


if __name__ == "__main__":
    run_cases(__doc__, CASES, 1, measure, compare)

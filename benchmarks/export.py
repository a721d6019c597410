"""Seconds and memory from a large CT image's logits to its segmentation, ours beside nnU-Net's export.

    AUTOSEG_PEER_PYTHON=/path/to/python python benchmarks/export.py [--repeats 1] [--only NAME] [--threads 2]

200x273x273 logits at 1.5 mm to labels of 300x512x512 at 1.0x0.8x0.8 mm. With 5 heads both sides start from the same
float32 logits, nnU-Net with its default resampler and with its optional one in torch. With 105 heads logits come in
blocks of 32 rows, as our sliding window gives them (making them is not timed), and nnU-Net is not run: it resamples all
heads at once, so its result alone takes 31 GiB in float32. Each measurement is a process of its own; the peak memory is
that of the whole process, libraries and input included. Prints one JSON line a case; `differing` is the number of
voxels (of 78.6 million) whose label differs.
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
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from resample import LARGE, LARGE_MM, SMALL, SMALL_MM, smooth_noise

CASES = {
    # name: (heads, nnU-Net's resampler; None: it is not run)
    "5 heads": (5, "resample_data_or_seg_to_shape"),
    "5 heads, nnU-Net with its torch resampler": (5, "resample_torch_fornnunet"),
    "105 heads": (105, None),
}
ROWS = 32
"""Rows of a block of logits: half a patch of 64."""


def whole_logits(num_heads: int) -> np.ndarray:
    """Smooth fields with noise, float32 `H Z Y X`."""
    rng = np.random.default_rng(1)
    fields = (
        smooth_noise(SMALL, seed) + 0.2 * rng.standard_normal(SMALL, dtype=np.float32) for seed in range(num_heads)
    )
    return np.stack(list(fields))


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


def measure(side: str, name: str, threads: int, output: Path) -> None:
    """One measurement in this process: prints its seconds and peak memory, leaves the result in `output`."""
    import torch

    if side == "ours":  # outside the clock
        import autoseg.inference.export  # noqa: F401
    else:
        import nnunetv2.inference.export_prediction  # noqa: F401
    torch.set_num_threads(threads)
    num_heads, resampler = CASES[name]
    blocks = Blocks(num_heads) if resampler is None else None
    logits = None if blocks else whole_logits(num_heads)
    wall, cpu = time.perf_counter(), time.process_time()
    if side == "peer":
        result = run_peer(logits, resampler, threads)
    else:
        result = run_ours(blocks or [torch.from_numpy(logits)], num_heads)
    seconds = time.perf_counter() - wall - (blocks.wall if blocks else 0)
    cpu_seconds = time.process_time() - cpu - (blocks.cpu if blocks else 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    np.save(output, np.asarray(result).astype(np.uint8))
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "rss_gib": peak}))


def in_fresh_process(python: str, side: str, name: str, threads: int, output: Path) -> dict[str, float]:
    command = [python, __file__, "--measure", side, "--only", name, "--threads", str(threads), "--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]) if side == "ours" else ""}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(name: str, repeats: int, threads: int, folder: Path) -> dict[str, object]:
    """One case: both sides in turn, `repeats` times."""
    num_heads, resampler = CASES[name]
    interpreters = {"ours": sys.executable}
    if os.environ.get("AUTOSEG_PEER_PYTHON") and resampler is not None:
        interpreters["peer"] = os.environ["AUTOSEG_PEER_PYTHON"]
    outputs = {side: folder / f"{side}.npy" for side in interpreters}
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in interpreters}
    for _ in range(repeats):
        for side, python in interpreters.items():
            runs[side].append(in_fresh_process(python, side, name, threads, outputs[side]))

    def median(side: str, key: str) -> float | None:
        return round(statistics.median(run[key] for run in runs[side]), 3) if side in runs else None

    ours, peer = median("ours", "cpu_seconds"), median("peer", "cpu_seconds")
    line = {
        "name": name,
        "ours": ours,
        "peer": peer,
        "unit": "CPU s",
        "ratio": round(peer / ours, 2) if peer and ours else None,
        "wall_ours": median("ours", "seconds"),
        "wall_peer": median("peer", "seconds"),
        "rss_ours_gib": median("ours", "rss_gib"),
        "rss_peer_gib": median("peer", "rss_gib"),
        "threads": threads,
    }
    if resampler is None:
        line["peer_result_alone_gib"] = round(4 * num_heads * float(np.prod(LARGE)) / 2**30, 1)
    elif peer:
        line["differing"] = int(np.sum(np.load(outputs["ours"]) != np.load(outputs["peer"])))
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1)
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

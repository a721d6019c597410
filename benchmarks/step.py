"""Milliseconds, TFLOP/s and memory of one whole training step, ours beside nnU-Net's own trainer, one CPU thread.

    AUTOSEG_PEER_PYTHON=/path/to/python python benchmarks/step.py [--repeats 3] [--only NAME]

Both get the same plan (nnU-Net's plain U-Net), batch and arithmetic (float32, all that nnU-Net has on a CPU): forward,
loss with deep supervision, backward, clipping, SGD. Ours is `training.learner.train_step`, the peer's
`nnUNetTrainer.train_step`. Each side runs in a process of its own, whose allocator gives freed memory back at once; the
figure is the least CPU time of a step, the memory the peak of the resident memory in a step less that between steps
(weights, gradients, momentum). The floor is the time that a matrix product of 1024 x 1024, measured in the same
process, would take for the step's arithmetic. Prints one JSON line a case.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from both_sides import run_in_turn

CASES = {
    # name: (patch z y x, batch, features, number of classes)
    "40x56x40 b2, 32-256, 3 classes": ((40, 56, 40), 2, (32, 64, 128, 256), 3),
    "40x56x40 b2, 12-96, 3 classes": ((40, 56, 40), 2, (12, 24, 48, 96), 3),
    "40x56x40 b2, 12-96, 24 classes": ((40, 56, 40), 2, (12, 24, 48, 96), 24),
}
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}


def network_values(features: tuple[int, ...]) -> dict[str, object]:
    """The network as our plan has it."""
    n = len(features)
    return {
        "architecture": "plain_unet",
        "features_per_stage": features,
        "strides": ((1, 1, 1), *((2, 2, 2),) * (n - 1)),
        "kernel_sizes": ((3, 3, 3),) * n,
        "blocks_per_stage": (2,) * n,
        "decoder_blocks_per_stage": (2,) * (n - 1),
    }


def measure(step: Callable[[], object], repeats: int) -> dict[str, float]:
    """Least CPU seconds of a step after a first one, and the bytes that a step adds to what lies between steps."""
    step()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    return {"seconds": min(seconds), "bytes": _status("VmHWM") - before, "flops_a_second": product_speed()}


def product_speed() -> float:
    """FLOP/s of a float32 matrix product on this thread."""
    import torch

    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = float("inf")
    for _ in range(4):
        started = time.process_time()
        a @ b
        best = min(best, time.process_time() - started)
    return 2 * 1024**3 / best


def run_ours(name: str, repeats: int) -> dict[str, float]:
    import torch

    from autoseg.losses.build import build_loss
    from autoseg.networks.build import build_network
    from autoseg.networks.cost import META, trace_step
    from autoseg.records.labels import LabelScheme
    from autoseg.records.plan import NetworkSpec
    from autoseg.records.recipe import Recipe
    from autoseg.training.batches import Batch
    from autoseg.training.learner import build_learner, train_step

    torch.set_num_threads(1)
    patch, batch, features, num_classes = CASES[name]
    names = ("background", *(f"class {n}" for n in range(1, num_classes)))
    labels = LabelScheme(class_names=names, class_values=tuple(range(num_classes)), num_entries=num_classes)
    spec, recipe, device = NetworkSpec.model_validate(network_values(features)), Recipe(), torch.device("cpu")
    loss = build_loss(recipe, labels, batch_dice=False)
    images, target = make_batch(patch, batch, num_classes)
    with META:
        network = build_network(spec, 1, num_classes, seed=0).train()
        flops = trace_step(network, loss, images.to(META), target.to(META), half=False, kind="cpu").flops
    learner = build_learner(build_network(spec, 1, num_classes, seed=0), loss, recipe, "float32", device)
    given = Batch(images, target, ())
    return {**measure(lambda: train_step(learner, given, 1e-3, 0), repeats), "flops": flops}


def run_peer(name: str, repeats: int) -> dict[str, float]:
    """nnU-Net's trainer, built as `gpu/peer.py` does it, but without a dataset: only its step is called."""
    sys.path.insert(0, str(Path(__file__).parent / "gpu"))
    folder = tempfile.mkdtemp()  # nnU-Net makes folders where these point, and writes nothing before a training
    os.environ.update(dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), folder))
    import peer
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(1)
    patch, batch, features, num_classes = CASES[name]
    configuration = {
        "patch_size": patch,
        "batch_size": batch,
        "network": network_values(features),
        "median_shape": patch,
        "spacing_mm": (1.0, 1.0, 1.0),
        "normalization": ["zscore"],
        "use_mask_for_norm": [False],
        "batch_dice": False,
    }
    content = {"configuration": configuration, "intensities": {}, "channel_names": ["MRI"]}
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **{f"class {n}": n for n in range(1, num_classes)}},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    cases = Path(folder) / peer._DATASET / peer._IDENTIFIER
    cases.mkdir(parents=True)
    (cases / "case.b2nd").touch()  # by whose name nnU-Net chooses its reader
    trainer = nnUNetTrainer(peer.nnunet_plans(content), "3d_fullres", 0, dataset, device=torch.device("cpu"))
    trainer.print_to_log_file = lambda *_, **__: None
    trainer.initialize()
    trainer.network.train()
    images, target = make_batch(patch, batch, num_classes)
    targets = [target[:, None, s // 2 :: s, s // 2 :: s, s // 2 :: s].to(torch.int16) for s in (1, 2, 4)]
    given = {"data": images, "target": targets[: len(features) - 1]}
    return measure(lambda: trainer.train_step(given), repeats)


def make_batch(patch: tuple[int, ...], batch: int, num_classes: int):
    import torch

    g = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 1, *patch, generator=g)
    return images, torch.randint(0, num_classes, (batch, *patch), generator=g, dtype=torch.int16)


def _status(key: str) -> int:
    found = re.search(key + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def compare(name: str, repeats: int) -> dict[str, object]:
    """The line of one case; a side repeats its step in one process."""

    def arguments(side: str) -> list[object]:
        return ["--side", side, "--only", name, "--repeats", repeats]

    runs = run_in_turn(__file__, arguments, 1, threads=1, environment=MALLOC)
    return report(name, runs["ours"][0], runs["peer"][0] if "peer" in runs else None)


def report(name: str, ours: dict[str, float], peer: dict[str, float] | None) -> dict[str, object]:
    def share_of_floor(side: dict[str, float]) -> float:
        return round(ours["flops"] / side["flops_a_second"] / side["seconds"], 2)

    line: dict[str, object] = {
        "name": name,
        "ours": round(1e3 * ours["seconds"]),
        "peer": None if peer is None else round(1e3 * peer["seconds"]),
        "unit": "ms CPU",
        "ours_tflops": round(ours["flops"] / ours["seconds"] / 1e12, 3),
        "ours_share_of_floor": share_of_floor(ours),
        "ours_gib": round(ours["bytes"] / 2**30, 3),
    }
    if peer is not None:
        line |= {
            "ratio": round(peer["seconds"] / ours["seconds"], 2),
            "peer_tflops": round(ours["flops"] / peer["seconds"] / 1e12, 3),
            "peer_share_of_floor": share_of_floor(peer),
            "peer_gib": round(peer["bytes"] / 2**30, 3),
        }
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side is not None:
        print(json.dumps({"ours": run_ours, "peer": run_peer}[asked.side](asked.only, asked.repeats)))
        return
    for name in [asked.only] if asked.only else CASES:
        print(json.dumps(compare(name, asked.repeats)), flush=True)


if __name__ == "__main__":
    main()

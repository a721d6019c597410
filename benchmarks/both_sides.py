"""What the benchmarks share that run both sides in turn, each measurement in a process of its own.

A script calls itself for one measurement, which prints one JSON line. Where `AUTOSEG_PEER_PYTHON` names no interpreter,
our side is measured alone.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Runs = Mapping[str, list[dict]]
"""Side -> what each of its measurements printed."""


def run_in_turn(
    script: str,
    arguments: Callable[[str], Sequence[object]],
    repeats: int,
    threads: int,
    peers: Sequence[str] = ("peer",),
) -> Runs:
    """Run `script` with the `arguments` of each side, one after the other, `repeats` times."""
    peer = os.environ.get("AUTOSEG_PEER_PYTHON")
    pythons = {"ours": sys.executable, **(dict.fromkeys(peers, peer) if peer else {})}
    runs: dict[str, list[dict]] = {side: [] for side in pythons}
    for _ in range(repeats):
        for side, python in pythons.items():
            command = [python, script, *map(str, arguments(side))]
            runs[side].append(in_fresh_process(command, threads, is_ours=side == "ours"))
    return runs


def in_fresh_process(command: Sequence[str], threads: int, is_ours: bool) -> dict:
    """The JSON line that a command ends with; it sees our packages only where it is ours."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    environment = {**os.environ, **limits, "PYTHONPATH": str(Path(__file__).parents[1]) if is_ours else ""}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(work: Callable[[], object]) -> tuple[object, dict[str, float]]:
    """What some work returns, and its seconds; the peak is that of the whole process, libraries and input included."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return result, {**seconds, "rss_gib": memory_gib("VmHWM")}


def memory_gib(key: str) -> float:
    """A line of /proc/self/status: what is resident (VmRSS), or its peak (VmHWM).

    `getrusage` would not do: a process begins with the peak of the one that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 2**20


def median(runs: Runs, side: str, key: str) -> float | None:
    return round(statistics.median(run[key] for run in runs[side]), 3) if side in runs else None


def compared(name: str, runs: Runs, peer: str = "peer") -> dict[str, object]:
    """The figures that each such line has: medians of CPU and wall seconds, the ratio of CPU seconds, peak memory."""
    ours, theirs = median(runs, "ours", "cpu_seconds"), median(runs, peer, "cpu_seconds")
    return {
        "name": name,
        "ours": ours,
        "peer": theirs,
        "unit": "CPU s",
        "ratio": round(theirs / ours, 2) if theirs and ours else None,
        "wall_ours": median(runs, "ours", "seconds"),
        "wall_peer": median(runs, peer, "seconds"),
        "rss_ours_gib": median(runs, "ours", "rss_gib"),
        "rss_peer_gib": median(runs, peer, "rss_gib"),
    }

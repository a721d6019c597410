"""What the benchmarks share that run both sides in turn, each measurement in a process of its own.

A script calls itself for one measurement, which prints one JSON line. Where `AUTOSEG_PEER_PYTHON` names no interpreter,
our side is measured alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

Runs = Mapping[str, list[dict]]
"""Side -> what each of its measurements printed."""


def run_cases(
    description: str,
    cases: Collection[str],
    repeats: int,
    measure: Callable[[str, str, int, Path], None],
    compare: Callable[[str, int, int, Path], dict[str, object]],
) -> None:
    """The command line of a benchmark of several cases, which prints one JSON line a case.

    Args:
        description: the script's docstring.
        cases: names that `--only` takes.
        repeats: how often each side is measured unless `--repeats` says otherwise.
        measure: of a side, a case, threads and a folder: one measurement, in the process that was made for it.
        compare: of a case, repeats, threads and a folder: the line of the case; it calls the script with `--measure`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=list(cases))
    parser.add_argument("--measure", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.only, options.threads, options.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in [options.only] if options.only else cases:
            print(json.dumps(compare(name, options.repeats, options.threads, Path(folder))), flush=True)


def sides(peers: Sequence[str] = ("peer",)) -> tuple[str, ...]:
    """What can be measured here: ours, and the peers where there is an interpreter for them."""
    return ("ours", *peers) if os.environ.get("AUTOSEG_PEER_PYTHON") else ("ours",)


def run_in_turn(
    script: str,
    arguments: Callable[[str], Sequence[object]],
    repeats: int,
    threads: int,
    peers: Sequence[str] = ("peer",),
    environment: Mapping[str, str] | None = None,
) -> Runs:
    """Run `script` with the `arguments` of each side, one after the other, `repeats` times."""
    runs: dict[str, list[dict]] = {side: [] for side in sides(peers)}
    for _ in range(repeats):
        for side in runs:
            runs[side].append(in_fresh_process(script, side, arguments(side), threads, environment))
    return runs


def in_fresh_process(
    script: str, side: str, arguments: Sequence[object], threads: int, environment: Mapping[str, str] | None = None
) -> dict:
    """The JSON line that `script` ends with for a side; only ours sees our packages."""
    python = sys.executable if side == "ours" else os.environ["AUTOSEG_PEER_PYTHON"]
    command = [python, script, *map(str, arguments)]
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    packages = str(Path(__file__).parents[1]) if side == "ours" else ""
    environment = {**os.environ, **limits, "PYTHONPATH": packages, **(environment or {})}
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

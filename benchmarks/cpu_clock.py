"""Run a Python program for which time is the CPU time of its own process, so that a budget holds on a shared machine.

    python benchmarks/cpu_clock.py [-m MODULE | FILE] [ARGUMENT ...]

`time.monotonic` then tells the CPU seconds of all threads together. With one thread and a core to itself that is wall
time; beside other jobs a training of twenty minutes still has twenty minutes of work. Never with more than one
busy thread, whose seconds would count twice.
"""

import runpy
import sys
import time
from pathlib import Path


def main() -> None:
    """Give the rest of the command line the other clock."""
    time.monotonic = time.process_time
    asked = sys.argv[1:]
    if asked[0] == "-m":
        sys.argv = asked[1:]
        runpy.run_module(asked[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = asked
        sys.path[0] = str(Path(asked[0]).parent)
        runpy.run_path(asked[0], run_name="__main__")


if __name__ == "__main__":
    main()

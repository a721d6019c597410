"""Messages and progress for people: stderr only, so that stdout stays data.

On a terminal a long loop shows a bar with the time left; elsewhere (logs, SLURM) it prints a plain line
at most every ten seconds. `configure` is called once, by the command line; a library user hears warnings only.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_SECONDS_BETWEEN_LINES = 10.0
_state = {"quiet": True, "warn": True}


def configure(quiet: bool, warn: bool = True) -> None:
    """Choose what is shown: nothing but errors and warnings when `quiet`; warnings can be silenced too."""
    _state["quiet"], _state["warn"] = quiet, warn


def say(message: str) -> None:
    """One line of information for the user at the terminal."""
    if not _state["quiet"]:
        print(message, file=sys.stderr, flush=True)  # noqa: T201


def warn(message: str) -> None:
    """One line that the user should act on; shown even when quiet."""
    if _state["warn"]:
        print(f"warning: {message}", file=sys.stderr, flush=True)  # noqa: T201


def track(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Yield `items`, showing how many of `total` are done and the time left.

    Args:
        items: what to go through.
        total: their number.
        what: what is being done, for example `preprocessing 3d_fullres`.
    """
    if _state["quiet"] or total == 0:
        yield from items
    elif sys.stderr.isatty():
        yield from _bar(items, total, what)
    else:
        yield from _lines(items, total, what)


def _bar(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _lines(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or (done == total and now - start > 2):
            left = (now - start) / done * (total - done)
            say(f"{what}: {done}/{total}, {duration(now - start)} so far, {duration(left)} left")
            last = now


def duration(seconds: float) -> str:
    """Seconds as people say them: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"

"""Stage: a model and images in, segmentations on the images' own grids out.

The model is what `select` chose, with its post-processing; before that, all trained folds of the best
configuration; or any folder of trained folds. It is loaded once. While the networks work on a case, one thread reads
and prepares the next one, and another resamples, decides, cleans and writes what they have finished, of this case or
the one before. A case that cannot be predicted is named and the others go on. `predicted.json` says which
model each segmentation comes from; nothing of an earlier one stays beside it. For a selected model it and `quality.csv`
say how good it may be, between what its volumes lie, and why a person should look at it (`selection.case_quality`).
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from autoseg import console
from autoseg.datasets.folders import find_cases
from autoseg.devices import choose_device, is_out_of_memory
from autoseg.errors import DataError, ModelError, ResourceError, UsageError
from autoseg.images.writing import write_label
from autoseg.inference.bounded_queue import BoundedQueue
from autoseg.inference.predictor import Windows
from autoseg.postprocessing.apply import changes_path
from autoseg.postprocessing.case_grid import read_case_grid
from autoseg.records.base import write_record
from autoseg.records.dataset import Case
from autoseg.records.postprocessing import CaseChanges
from autoseg.records.results import PreprocessedCase
from autoseg.records.trust import Judgement
from autoseg.records.workspace import Paths
from autoseg.selection.case_segmentation import case_logits, segment_case
from autoseg.selection.memory_check import memory_shortage
from autoseg.selection.prediction_folder import Outcome, PredictionFolder
from autoseg.selection.predictor import Grids, Predictor, fast_predictor, load_predictor, prepare
from autoseg.storage.atomic import sweep_scratch
from autoseg.storage.locks import locked

Item = TypeVar("Item")
Made = TypeVar("Made")

_WAITING_BYTES = 1 << 28
"""Finished logits that may wait for their export."""


def predict(
    where: Paths | Path,
    images: Path,
    output: Path,
    *,
    plan_name: str | None = None,
    device: str = "auto",
    keep_finished: bool = False,
    save_probabilities: bool = False,
    fast: bool = False,
) -> list[Path]:
    """Segment images.

    Args:
        where: workspace folder of a dataset, or a folder of one trained fold or of all folds of a configuration.
        images: folder of images or one image file.
        output: folder for the segmentations, named like the images.
        plan_name: use this plan's models instead of the selected ones.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        keep_finished: leave segmentations alone that this same model wrote in an earlier run.
        save_probabilities: write the ensemble's probabilities beside the segmentations, as validation does.
        fast: without mirroring and with fewer tiles, see `selection.predictor.fast_predictor`.

    Returns:
        All segmentations, kept ones included, in the order of the cases.

    Raises:
        PartialError: some cases could not be predicted; each is named with its reason, the others are written.
        ModelError: no trained model is there, or it is damaged.
        ResourceError: the disk is full.
        UsageError, DataError: there are no images, `output` is their own folder, or another process predicts into it.
    """
    if not images.exists():
        raise UsageError(f"{images} does not exist; -i takes a folder of images or one image.")
    root = images if images.is_dir() else images.parent
    if output.resolve() == root.resolve():
        raise UsageError(f"{output} holds the images: segmentations would replace them. Give another folder with -o.")
    predictor = load_predictor(where, plan_name, choose_device(device))
    predictor = replace(fast_predictor(predictor) if fast else predictor, saves_probabilities=save_probabilities)
    cases = find_cases(images, len(predictor.models[0].plan.channel_names))
    return predict_cases(predictor, root, cases, output, keep_finished=keep_finished)


def predict_cases(
    predictor: Predictor, root: Path, cases: Sequence[Case], output: Path, *, keep_finished: bool = False
) -> list[Path]:
    """Segment cases, whose paths are relative to `root`; the rest is as for `predict`.

    Two at a time would each list its own cases alone, so the second is refused; and the folds' probabilities that a
    killed one left, which may be many GiB, are removed.
    """
    with locked(output, "predicting"):
        sweep_scratch(output)
        folder = PredictionFolder(output, predictor, cases, keep_finished)
        folder.begin()
        for _ in console.track(_done_cases(predictor, root, folder), len(folder.waiting), "predicting"):
            pass
        return folder.segmentations()


def _done_cases(predictor: Predictor, root: Path, folder: PredictionFolder) -> Iterator[Case]:
    """Each case when it is done: prepared in one thread, asked of the networks here, exported in another thread.

    At most one case is prepared ahead, and one waits for its export with no more than `_WAITING_BYTES`. A case
    that does not fit into the memory, even with no other under way, is not begun. The thread that exports removes what
    an earlier run left of a case before it writes. An error that ends the run ends all three.
    """
    stopped, running = threading.Event(), deque[tuple[Case, Future[None]]]()

    def export(case: Case, meta: PreprocessedCase | str, queue: BoundedQueue[Windows]) -> None:
        try:
            if stopped.is_set():
                return
            folder.remove(case)
            if isinstance(meta, str):
                folder.record(case, meta)
            else:
                target = folder.targets[case.id]
                folder.record(case, _write_segmentation(predictor, meta, queue, root, case, target))
        except BaseException:
            stopped.set()
            raise
        finally:
            queue.close()

    ahead = closing(_ahead(lambda case: _prepare_or_reason(predictor, root, case), folder.waiting))
    # An interrupt may come between any two lines: what was handed to the export must not wait for more then.
    with ahead as prepared, ThreadPoolExecutor(1, thread_name_prefix="export") as pool, ExitStack() as queues:
        for case, grids in zip(folder.waiting, prepared, strict=True):
            if not isinstance(grids, str) and memory_shortage(predictor, grids) is not None:
                while running:  # what the cases before still hold may be what is missing
                    running[0][1].result()
                    yield running.popleft()[0]
                grids = memory_shortage(predictor, grids) or grids
            queue = BoundedQueue[Windows](_WAITING_BYTES, _bytes_of)
            queues.callback(queue.abandon)
            meta = grids if isinstance(grids, str) else grids[predictor.models[0].configuration].meta
            running.append((case, pool.submit(export, case, meta, queue)))
            if not isinstance(grids, str):
                queue.fill(partial(case_logits, predictor, grids))
            while len(running) > 1 or (running and running[0][1].done()):
                running[0][1].result()
                yield running.popleft()[0]
        for case, future in running:
            future.result()
            yield case


def _bytes_of(windows: Windows) -> int:
    return sum(window.num_bytes for window in windows)


def _prepare_or_reason(predictor: Predictor, root: Path, case: Case) -> Grids | str:
    try:
        return _attempt(lambda: prepare(predictor, root, case))
    except ResourceError as error:  # an image too large for the memory; nothing is written here
        return str(error)


def _write_segmentation(
    predictor: Predictor,
    meta: PreprocessedCase,
    windows: Iterable[Windows],
    root: Path,
    case: Case,
    target: Path,
) -> Outcome:
    """Write the segmentation of a case as its windows come."""
    model = predictor.models[0]

    def work() -> Judgement | None:
        # The image is read again for rules of components: held as it came, it would lie beside the network's work.
        grid = partial(read_case_grid, root, case, meta, model.plan, model.configuration)
        found = segment_case(
            predictor, meta, windows, grid, target.parent, lambda predictions: predictions.keep(target.parent)
        )
        if found.changes is not None:
            write_record(changes_path(target.parent, case.id), CaseChanges(case=case.id, changes=found.changes))
        write_label(target, model.plan.labels.to_file(found.classes), meta.geometry, like=root / case.images[0])
        return found.judgement

    return _attempt(work)


def _attempt(work: Callable[[], Made]) -> Made | str:
    """The result of `work`, or the reason why this one case fails while others may not; a full disk ends the run."""
    try:
        return work()
    except (DataError, ModelError) as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        needed = str(error) if isinstance(error, MemoryError) else ""
        return needed or "it does not fit into memory; use another --device or a machine with more."


def _ahead(make: Callable[[Item], Made], items: Sequence[Item]) -> Generator[Made, None, None]:
    """`make` of each item in order, each made by a thread while the one before is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="prepare") as pool:
        waiting: Future[Made] | None = None
        for item in items:
            upcoming = pool.submit(make, item)
            if waiting is not None:
                yield waiting.result()
            waiting = upcoming
        if waiting is not None:
            yield waiting.result()

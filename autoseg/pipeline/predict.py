"""Stage: a model and images in, segmentations on the images' own grids out.

The model is what `select` chose, with its post-processing; before that, all trained folds of the best
configuration; or any folder of trained folds. It is loaded once. While the networks work on a case, one thread reads
and prepares the next one, and another resamples, decides, cleans and writes what they have finished, of this case or
the one before. A case that cannot be predicted is named and the others go on. `predicted.json` says which
model each segmentation comes from; nothing of an earlier one stays beside it. For a selected model it and `quality.csv`
say how good it may be, between what its volumes lie, and why a person should look at it (`selection.case_quality`).
"""

import errno
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
from autoseg.errors import DataError, ModelError, PartialError, ResourceError, UsageError
from autoseg.images.formats import ENDINGS, output_ending
from autoseg.images.writing import write_label
from autoseg.inference.bounded_queue import BoundedQueue
from autoseg.inference.predictor import Windows
from autoseg.inference.store import disagreement_path, folds_path, meta_path, probabilities_path
from autoseg.postprocessing.apply import changes_path
from autoseg.postprocessing.case_grid import read_case_grid
from autoseg.records.base import write_record
from autoseg.records.dataset import Case
from autoseg.records.postprocessing import CaseChanges
from autoseg.records.prediction_folder import (
    FINISHED,
    QUALITY_TABLE,
    TABLES,
    Finished,
    read_finished,
    remove_outdated,
)
from autoseg.records.results import PreprocessedCase
from autoseg.records.trust import Judgement
from autoseg.records.workspace import Paths
from autoseg.selection.case_quality import quality_table, warn_of_case
from autoseg.selection.case_segmentation import case_logits, segment_case
from autoseg.selection.memory_check import memory_shortage
from autoseg.selection.predictor import Grids, Predictor, fast_predictor, load_predictor, prepare
from autoseg.storage.atomic import sweep_scratch, write_text
from autoseg.storage.locks import locked

Outcome = Judgement | str | None
"""What is said about a segmentation, or as text why there is none; None: it was not judged."""
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

    Two at a time would each list its own cases alone, so the second is refused; and what a killed one left of what the
    folds said, which may be many GiB, is nobody's any more.
    """
    with locked(output, "predicting"):
        sweep_scratch(output)
        return _predict_into(predictor, root, cases, output, keep_finished)


def _predict_into(
    predictor: Predictor, root: Path, cases: Sequence[Case], output: Path, keep_finished: bool
) -> list[Path]:
    unnamed = {case: fault for case in cases if (fault := _fault_of_name(output, case.id)) is not None}
    num_cases, cases = len(cases), [case for case in cases if case not in unnamed]
    targets = {case.id: output / (case.id + output_ending(case.images[0])) for case in cases}
    earlier = _read_earlier(output, keep_finished)
    # Other models' segmentations may stay where they are, but what is said here of labels holds for this model's.
    own = {case for case, digest in earlier.cases.items() if keep_finished and digest == predictor.digest}
    waiting = [case for case in cases if case.id not in own or not targets[case.id].is_file()]
    own -= {case.id for case in waiting}
    finished = dict.fromkeys(sorted(own), predictor.digest)
    judged = {case: judgement for case, judgement in earlier.judged.items() if case in own}
    if len(waiting) < len(cases):
        console.say(f"{len(cases) - len(waiting)} of {len(cases)} cases are segmented already")
    failed: dict[str, str] = {}
    endings = {case: ending for case, ending in earlier.endings.items() if (output / (case + ending)).is_file()}

    def remove(case: Case) -> None:
        """Remove what lies there of a case, also the segmentation of an image that was of another format."""
        _remove_earlier(targets[case.id], case.id)
        if (ending := endings.pop(case.id, None)) in ENDINGS:
            (output / (case.id + ending)).unlink(missing_ok=True)

    def record(case: Case, outcome: Outcome) -> None:
        if isinstance(outcome, str):
            failed[case.id] = outcome
            console.warn(f"{case.id}: {outcome}")
            return
        finished[case.id] = predictor.digest
        endings[case.id] = output_ending(case.images[0])
        if outcome is not None:
            judged[case.id] = outcome
            warn_of_case(case.id, outcome)
        write_finished()

    def write_finished() -> None:
        if judged:
            write_text(output / QUALITY_TABLE, quality_table(judged))
        plan = predictor.models[0].plan
        about = {"labels": plan.labels, "channel_names": plan.channel_names}
        write_record(output / FINISHED, Finished(**about, cases=finished, endings=endings, judged=judged))

    outdated = (*(TABLES if waiting else ()), *(() if judged else (QUALITY_TABLE,)))
    remove_outdated(output, outdated, targets.values())
    write_finished()
    for case, fault in unnamed.items():
        record(case, fault)
    for _ in console.track(_done_cases(predictor, root, waiting, targets, remove, record), len(waiting), "predicting"):
        pass
    _raise_failed(failed, num_cases)
    return [targets[case.id] for case in cases]


def _fault_of_name(folder: Path, case: str) -> str | None:
    """Why no results can be written under the name of a case; None: they can."""
    try:
        case.encode("utf-8")  # tables and records are UTF-8; older systems name files in other encodings
        probabilities_path(folder, f"{case}__").is_file()  # the longest name that is written, temporary ones too
    except UnicodeEncodeError:
        return "its file's name is not UTF-8; rename it."
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return "its file's name is too long for the results beside it; shorten it or choose another -o."
    return None


def _done_cases(
    predictor: Predictor,
    root: Path,
    waiting: Sequence[Case],
    targets: dict[str, Path],
    remove: Callable[[Case], None],
    record: Callable[[Case, Outcome], None],
) -> Iterator[Case]:
    """Each case when it is done: prepared in one thread, asked of the networks here, exported in another thread.

    At most one case is prepared ahead, and one waits for its export with no more than `_WAITING_BYTES`. A case
    that does not fit into the memory, even with no other under way, is not begun. `remove` is called in the thread
    that exports, before anything of a case is written, and `record` as soon as it is done. An error that ends the run
    ends all three.
    """
    stopped, running = threading.Event(), deque[tuple[Case, Future[None]]]()

    def export(case: Case, meta: PreprocessedCase | str, queue: BoundedQueue[Windows]) -> None:
        try:
            if stopped.is_set():
                return
            remove(case)
            if isinstance(meta, str):
                record(case, meta)
            else:
                record(case, _write_segmentation(predictor, meta, queue, root, case, targets))
        except BaseException:
            stopped.set()
            raise
        finally:
            queue.close()

    ahead = closing(_ahead(lambda case: _prepare_or_reason(predictor, root, case), waiting))
    # An interrupt may come between any two lines: what was handed to the export must not wait for more then.
    with ahead as prepared, ThreadPoolExecutor(1, thread_name_prefix="export") as pool, ExitStack() as queues:
        for case, grids in zip(waiting, prepared, strict=True):
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


def _remove_earlier(target: Path, case: str) -> None:
    """Remove an earlier segmentation of a case and all that lies beside it, so that none of it passes for new."""
    folder = target.parent
    if probabilities_path(folder, case).is_file():
        meta_path(folder, case).unlink(missing_ok=True)  # no other file of this general a name is ours
    for beside in (probabilities_path, disagreement_path, folds_path, changes_path):
        beside(folder, case).unlink(missing_ok=True)
    target.unlink(missing_ok=True)


def _read_earlier(output: Path, keep_finished: bool) -> Finished:
    """What an earlier run says of a folder; of a damaged record nothing, unless its segmentations are to be trusted."""
    try:
        return read_finished(output)
    except DataError:
        if keep_finished:
            raise
        return Finished()


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
    targets: dict[str, Path],
) -> Outcome:
    """Write the segmentation of a case as its windows come."""
    model, target = predictor.models[0], targets[case.id]

    def work() -> Judgement | None:
        # The image is read again for rules of components: held as it came, it would lie beside the network's work.
        grid = partial(read_case_grid, root, case, meta, model.plan, model.configuration)
        found = segment_case(predictor, meta, windows, grid, target.parent, lambda spoken: spoken.keep(target.parent))
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


def _raise_failed(failed: dict[str, str], num_cases: int) -> None:
    if failed:
        lines = [f"  {case}: {reason}" for case, reason in failed.items()]
        raise PartialError("\n".join([f"{len(failed)} of {num_cases} cases could not be predicted:", *lines]))


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

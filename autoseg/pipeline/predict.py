"""Stage: a model and images in, segmentations on the images' own grids out.

The model is what `select` chose, with its post-processing; before that, all trained folds of the best
configuration; or any folder of trained folds. It is loaded once. While the network works on a case, a thread reads
and prepares the next one. A case that cannot be predicted is named and the others go on. `predicted.json` says which
model each segmentation comes from; for a selected model it and `quality.csv` say how good it may be, between what its
volumes lie, and why a person should look at it (`selection.judging`).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from autoseg import console
from autoseg.datasets.folders import find_cases
from autoseg.devices import choose_device
from autoseg.errors import DataError, ModelError, PartialError, ResourceError, UsageError
from autoseg.images.formats import output_ending
from autoseg.images.writing import write_label
from autoseg.inference.export import Labels
from autoseg.inference.predictor import Watch, segment
from autoseg.inference.store import write_disagreement, write_probabilities
from autoseg.inference.voices import speak
from autoseg.postprocessing.apply import Heard, changes_path, clean_components
from autoseg.postprocessing.case_grid import read_case_grid
from autoseg.postprocessing.rules import apply_rule
from autoseg.records.base import Record, read_record, write_record
from autoseg.records.dataset import Case
from autoseg.records.labels import LabelScheme
from autoseg.records.postprocessing import CaseChanges
from autoseg.records.results import PostprocessingRule, PreprocessedCase
from autoseg.records.trust import Judgement
from autoseg.records.workspace import Paths
from autoseg.selection.features import FeatureSums
from autoseg.selection.judging import QUALITY_TABLE, judge, quality_table, tell
from autoseg.selection.predictor import Grids, Predictor, load_predictor, prepare
from autoseg.storage.atomic import scratch_folder, write_text

Item = TypeVar("Item")
Made = TypeVar("Made")

FINISHED = "predicted.json"


class Finished(Record):
    """Which model each segmentation of a folder comes from, so that a continued run trusts only its own."""

    cases: dict[str, str] = {}
    """Case id -> digest of weights, plan and post-processing."""
    judged: dict[str, Judgement] = {}
    """Case id -> predicted quality, volumes and reasons to look at it; empty where a model was not selected."""


def predict(
    where: Paths | Path,
    images: Path,
    output: Path,
    *,
    plan_name: str | None = None,
    device: str = "auto",
    keep_finished: bool = False,
    save_probabilities: bool = False,
) -> list[Path]:
    """Segment images.

    Args:
        where: workspace folder of a dataset, or a folder of one trained fold or of all folds of a configuration.
        images: folder of images or one image file.
        output: folder for the segmentations, named like the images.
        plan_name: use this plan's models instead of the selected ones.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        keep_finished: leave segmentations alone that this same model wrote in an earlier run.
        save_probabilities: write the ensemble's probabilities beside the segmentations, as validation does.

    Returns:
        All segmentations, kept ones included, in the order of the cases.

    Raises:
        PartialError: some cases could not be predicted; each is named with its reason, the others are written.
        ModelError: no trained model is there, or it is damaged.
        ResourceError: the disk is full.
        UsageError, DataError: there are no images, or `output` is their own folder.
    """
    if not images.exists():
        raise UsageError(f"{images} does not exist; -i takes a folder of images or one image.")
    root = images if images.is_dir() else images.parent
    if output.resolve() == root.resolve():
        raise UsageError(f"{output} holds the images: segmentations would replace them. Give another folder with -o.")
    predictor = load_predictor(where, plan_name, choose_device(device))
    predictor = replace(predictor, saves_probabilities=save_probabilities)
    cases = find_cases(images, len(predictor.models[0].plan.channel_names))
    return predict_cases(predictor, root, cases, output, keep_finished=keep_finished)


def predict_cases(
    predictor: Predictor, root: Path, cases: Sequence[Case], output: Path, *, keep_finished: bool = False
) -> list[Path]:
    """Segment cases, whose paths are relative to `root`; the rest is as for `predict`."""
    targets = {case.id: output / (case.id + output_ending(case.images[0])) for case in cases}
    earlier = read_finished(output) if keep_finished else Finished()
    finished, judged = dict(earlier.cases), dict(earlier.judged)
    waiting = [c for c in cases if finished.get(c.id) != predictor.digest or not targets[c.id].is_file()]
    if len(waiting) < len(cases):
        console.say(f"{len(cases) - len(waiting)} of {len(cases)} cases are segmented already")
    failed: dict[str, str] = {}
    prepared = _ahead(lambda case: _prepare_or_reason(predictor, root, case), waiting)
    for case, grids in console.track(zip(waiting, prepared, strict=True), len(waiting), "predicting"):
        outcome = grids if isinstance(grids, str) else _write_segmentation(predictor, grids, root, case, targets)
        if isinstance(outcome, str):
            failed[case.id] = outcome
            console.warn(f"{case.id}: {outcome}")
            continue
        finished[case.id] = predictor.digest
        if outcome is not None:
            judged[case.id] = outcome
            write_text(output / QUALITY_TABLE, quality_table(judged))
            tell(case.id, outcome)
        write_record(output / FINISHED, Finished(cases=finished, judged=judged))
    _raise_failed(failed, len(cases))
    return [targets[case.id] for case in cases]


def read_finished(output: Path) -> Finished:
    """Which model each segmentation of a folder comes from, and what was said about it."""
    path = output / FINISHED
    return read_record(path, Finished) if path.is_file() else Finished()


def _prepare_or_reason(predictor: Predictor, root: Path, case: Case) -> Grids | str:
    try:
        return _attempt(lambda: prepare(predictor, root, case))
    except ResourceError as error:  # an image too large for the memory; nothing is written here
        return str(error)


def _write_segmentation(
    predictor: Predictor, grids: Grids, root: Path, case: Case, targets: dict[str, Path]
) -> Judgement | str | None:
    """Segment a prepared case and write it; returns what is said about it, or as text why it could not be done."""
    labels = predictor.models[0].plan.labels
    meta = grids[predictor.models[0].configuration].meta

    def work() -> Judgement | None:
        sums = FeatureSums(labels, meta.geometry.voxel_volume_mm3)
        watch = None if predictor.trust is None else sums.add
        classes = _segmented(predictor, grids, root, case, targets[case.id].parent, watch)
        write_label(targets[case.id], labels.to_file(classes), meta.geometry, like=root / case.images[0])
        return None if predictor.trust is None else judge(predictor.trust, meta, classes, labels, sums.result())

    return _attempt(work)


def _segmented(predictor: Predictor, grids: Grids, root: Path, case: Case, output: Path, watch: Watch | None) -> Labels:
    """Segmentation of a prepared case after post-processing, with all else that is asked for written to `output`."""
    rule, labels = predictor.rule, predictor.models[0].plan.labels
    listens = rule.components is not None and rule.components.needs_probabilities
    if not listens and not predictor.saves_probabilities:
        found = segment(predictor.models, grids, predictor.device, watch)
        return _cleaned(rule, found, grids[predictor.models[0].configuration].meta, labels, output)
    with scratch_folder(output) as folder:
        spoken = speak(predictor.models, grids, predictor.device, folder, watch)
        if predictor.saves_probabilities:
            if (disagreement := spoken.disagreement()) is not None:
                write_disagreement(output, case.id, disagreement)
            write_probabilities(output, spoken.meta, spoken.probabilities)
        if not listens:
            return _cleaned(rule, spoken.labels, spoken.meta, labels, output)
        model, meta = predictor.models[0], spoken.meta
        # The image is read again here: held as it came from the file, it would lie beside the network's work.
        grid = read_case_grid(root, case, meta, model.plan, model.configuration)
        heard = Heard(spoken.probabilities, spoken.voices(), grid)
        return _cleaned(rule, spoken.labels, meta, labels, output, heard)


def _cleaned(
    rule: PostprocessingRule,
    found: Labels,
    meta: PreprocessedCase,
    labels: LabelScheme,
    output: Path,
    heard: Heard | None = None,
) -> Labels:
    """A segmentation `Z Y X` after post-processing; what a rule of components changed is listed in `output`."""
    if rule.components is None:
        return apply_rule(found, rule)
    classes, changes = clean_components(found, meta, labels, rule.components, heard)
    write_record(changes_path(output, meta.id), CaseChanges(case=meta.id, changes=changes))
    return classes


def _attempt(work: Callable[[], Made]) -> Made | str:
    """The result of `work`, or the reason why this one case fails while others may not; a full disk ends the run."""
    try:
        return work()
    except (DataError, ModelError) as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        if not _is_full_memory(error):
            raise
        return "it does not fit into memory; use another --device or a machine with more."


def _is_full_memory(error: Exception) -> bool:
    """Whether numpy, the GPU's or the CPU's allocator (which raises a plain RuntimeError) ran out of memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _raise_failed(failed: dict[str, str], num_cases: int) -> None:
    if failed:
        lines = [f"  {case}: {reason}" for case, reason in failed.items()]
        raise PartialError("\n".join([f"{len(failed)} of {num_cases} cases could not be predicted:", *lines]))


def _ahead(make: Callable[[Item], Made], items: Sequence[Item]) -> Iterator[Made]:
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

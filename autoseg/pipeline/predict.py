"""Stage: a model and images in, segmentations on the images' own grids out.

The model is what `select` chose, with its post-processing; before that, all trained folds of the best
configuration; or any folder of trained folds. It is loaded once. While the network works on a case, a thread reads
and prepares the next one. A case that cannot be predicted is named and the others go on. `predicted.json` says which
model each segmentation comes from; for a selected model it and `quality.csv` say how good it may be, between what its
volumes lie, and why a person should look at it (`selection.judging`).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from autoseg import console
from autoseg.datasets.folders import find_cases
from autoseg.datasets.pairs import read_case_image
from autoseg.devices import choose_device
from autoseg.errors import DataError, ModelError, PartialError, ResourceError, UsageError
from autoseg.images.formats import output_ending
from autoseg.images.writing import write_label
from autoseg.inference.export import Labels, classes_from_probabilities
from autoseg.inference.model import Model, fold_folders, load_model, read_fold
from autoseg.inference.predictor import OnGrid, Watch, needed_configurations, segment
from autoseg.inference.store import write_disagreement, write_probabilities
from autoseg.inference.voices import speak
from autoseg.postprocessing.apply import Heard, changes_path, clean_components, component_features
from autoseg.postprocessing.case_grid import read_case_grid
from autoseg.postprocessing.features import feature_names, feature_shift
from autoseg.postprocessing.rules import apply_rule
from autoseg.preprocessing.prepare import crop_case, onto_grid
from autoseg.records.base import Record, read_record, write_record
from autoseg.records.dataset import Case
from autoseg.records.labels import LabelScheme
from autoseg.records.postprocessing import CaseChanges, FeatureShift
from autoseg.records.results import PostprocessingRule, PreprocessedCase, Selection
from autoseg.records.trust import Judgement, Trust
from autoseg.records.workspace import Paths
from autoseg.selection.features import FeatureSums
from autoseg.selection.judging import QUALITY_TABLE, judge, quality_table, read_trust, tell
from autoseg.selection.temperatures import stored_temperatures
from autoseg.storage.atomic import scratch_folder, write_text
from autoseg.storage.hashing import sha256_json

Item = TypeVar("Item")
Made = TypeVar("Made")
Grids = dict[str, OnGrid]

FINISHED = "predicted.json"
UNCOMPARED = "3d_fullres"
"""Predicts where nothing was held out, so that nothing could be compared: nnU-Net's usual first choice."""


class Finished(Record):
    """Which model each segmentation of a folder comes from, so that a continued run trusts only its own."""

    cases: dict[str, str] = {}
    """Case id -> digest of weights, plan and post-processing."""
    judged: dict[str, Judgement] = {}
    """Case id -> predicted quality, volumes and reasons to look at it; empty where a model was not selected."""


@dataclass(frozen=True)
class Predictor:
    """Everything that turns an image into a segmentation."""

    models: tuple[Model, ...]
    """One a configuration; the probabilities of several are averaged."""
    rule: PostprocessingRule
    device: torch.device
    saves_probabilities: bool = False
    """Whether the ensemble's probabilities are written beside the segmentations."""
    trust: Trust | None = None
    """What judges the segmentations; None: nothing was learned about this model."""

    @property
    def digest(self) -> str:
        """Changes with anything that could change a segmentation or what is said about it."""
        rule = self.rule.model_dump(mode="json", exclude={"reasons"})
        parts: list[object] = [[model.digest for model in self.models], rule]
        if self.trust is not None:
            parts.append(self.trust.inputs)
        return sha256_json([*parts, "probabilities"] if self.saves_probabilities else parts)


def predict(
    where: Paths | Path,
    images: Path,
    output: Path,
    *,
    plan_name: str | None = None,
    device: str = "auto",
    keep_finished: bool = False,
    save_probabilities: bool = False,
    with_shift: bool = False,
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
        with_shift: predict once more to see how features differ between folds and ensemble (`measure_shift`).

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
    written = predict_cases(predictor, root, cases, output, keep_finished=keep_finished)
    if with_shift:
        measure_shift(predictor, root, cases, output)
    return written


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


def measure_shift(predictor: Predictor, root: Path, cases: Sequence[Case], output: Path) -> FeatureShift:
    """How far features of components differ between single fold models and the ensemble, on cases that all predict.

    Learned post-processing is fitted on components of single models (only they predict a case out of fold), and applied
    to those of the ensemble with features averaged over the models. The networks' time is that of `predict_cases`;
    `output` gets `component_shift.json`, and holds the folds' probabilities meanwhile.

    Raises:
        UsageError: there is but one fold model, or no component rule to measure for.
        DataError, ModelError: a case cannot be predicted.
    """
    rule, labels = predictor.rule.components, predictor.models[0].plan.labels
    if rule is None or max(len(model.networks) for model in predictor.models) < 2:
        raise UsageError("A shift can be measured only where several folds predict with a rule of components.")
    single, averaged = [], []
    model, num_folds = predictor.models[0], 0
    for case in console.track(cases, len(cases), "measuring the shift"):
        grids = prepare(predictor, root, case)
        with scratch_folder(output) as folder:
            spoken = speak(predictor.models, grids, predictor.device, folder)
            grid = read_case_grid(root, case, spoken.meta, model.plan, model.configuration)
            num_folds = max(spoken.num_folds)
            together = classes_from_probabilities([spoken.probabilities], labels)
            everyone = Heard(spoken.probabilities, spoken.voices(), grid)
            averaged.append(component_features(together, labels, rule, everyone))
            for voice in spoken.voices():
                alone = classes_from_probabilities([voice[0]], labels)
                single.append(component_features(alone, labels, rule, Heard(voice[0], [voice], grid)))
    names = feature_names(len(model.plan.channel_names))
    shifts, spreads = feature_shift(single, np.concatenate(averaged), names)
    shift = FeatureShift(
        num_cases=len(cases),
        num_folds=num_folds,
        num_single=sum(len(matrix) for matrix in single),
        num_averaged=sum(len(matrix) for matrix in averaged),
        shifts=shifts,
        spreads=spreads,
    )
    write_record(output / "component_shift.json", shift)
    return shift


def load_predictor(where: Paths | Path, plan_name: str | None, device: torch.device) -> Predictor:
    """The model to predict with; raises ModelError when none is trained or a file is damaged."""
    if isinstance(where, Path):
        folders = [where] if (where / "fold.json").is_file() else fold_folders(where)
        if not folders:
            raise ModelError(f"{where} holds no trained fold: fold.json is in neither it nor its fold_* folders.")
        return Predictor((load_model(folders, device),), PostprocessingRule(), device)
    selection = read_record(where.selection, Selection) if where.selection.is_file() else None
    if selection is not None and plan_name in (None, selection.plan):
        chosen = [
            [where.fold(selection.plan, name, fold) for fold in selection.folds[name]]
            for name in selection.configurations
        ]
        models = tuple(
            load_model(folders, device, stored_temperatures(where.calibration, selection.plan, name, folders))
            for name, folders in zip(selection.configurations, chosen, strict=True)
        )
        return Predictor(models, _rule_of(where, selection), device, trust=read_trust(where.trust, selection))
    return Predictor((load_model(_best_configuration(where, plan_name), device),), PostprocessingRule(), device)


def read_finished(output: Path) -> Finished:
    """Which model each segmentation of a folder comes from, and what was said about it."""
    path = output / FINISHED
    return read_record(path, Finished) if path.is_file() else Finished()


def prepare(predictor: Predictor, root: Path, case: Case) -> Grids:
    """Read a case and bring it onto the grid of every configuration that is needed.

    Raises:
        DataError: a file is damaged, a channel is missing, or a value is not finite.
        ModelError: the models are of plans that do not go together.
    """
    needed = needed_configurations(predictor.models)
    shared = predictor.models[0].plan  # turning and cropping are the same for all
    cropped = crop_case(case.id, read_case_image(root, case, len(shared.channel_names)), None, shared)
    grids = {}
    for name, plan in needed:
        ready = onto_grid(cropped, plan, name)
        grids[name] = OnGrid(torch.from_numpy(ready.image), ready.meta)
    return grids


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


def _rule_of(paths: Paths, selection: Selection) -> PostprocessingRule:
    """The selection's own post-processing; one that was chosen for another selection must not touch its answers."""
    if paths.postprocessing.is_file():
        rule = read_record(paths.postprocessing, PostprocessingRule)
        if rule.decided_by == selection.decided_by:
            return rule
    console.warn("No post-processing was chosen for this selection; predicting without. `autoseg select` chooses one.")
    return PostprocessingRule()


def _best_configuration(paths: Paths, plan_name: str | None) -> list[Path]:
    """All trained folds of the configuration with the highest mean Dice over its folds; without any, the usual one."""
    models = paths.folder / "models"
    candidates = []
    for folder in sorted(models.glob(f"{plan_name or '*'}/*")):
        folds = fold_folders(folder)
        if folds:
            scores = [score for fold in folds if (score := read_fold(fold)[1].mean_dice) is not None]
            mean = sum(scores) / len(scores) if scores else -1.0
            candidates.append(((mean, folder.name == UNCOMPARED), folds))
    if not candidates:
        wanted = f"plan {plan_name}" if plan_name else "any plan"
        raise ModelError(f"No fold of {wanted} is trained in {models}. Run `autoseg train` first.")
    return max(candidates, key=lambda candidate: candidate[0])[1]


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

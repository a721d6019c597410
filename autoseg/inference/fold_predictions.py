"""Loaded models and one case in, its segmentation and the probabilities of each fold out.

Learned post-processing looks at the folds one by one, after the components of the ensemble's segmentation are known.
All networks work on the same rows at a time, and the probabilities of each are written to a folder as they come, and
read from there piece by piece, so that memory holds no probabilities but those of one window. Only what will be read
is written.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from autoseg.inference.export import (
    Disagreement,
    Labels,
    blank_labels,
    crop_shape,
    head_values,
    mean_disagreement,
    mean_probabilities,
    mean_to_labels,
    native_windows,
    probability_depth,
    to_disagreement,
    to_probabilities,
)
from autoseg.inference.labelling import logits_to_labels
from autoseg.inference.model import Model
from autoseg.inference.padding import PaddedImage
from autoseg.inference.predictor import OnGrid, Watch, Windows, network_input, network_rows
from autoseg.inference.probability_reader import FoldPrediction, ProbabilityReader, in_file, mean_reader
from autoseg.inference.sliding_window import probability_distance
from autoseg.inference.store import (
    disagreement_path,
    disagreement_writer,
    folds_path,
    meta_path,
    probabilities_path,
    probability_writer,
)
from autoseg.records.base import write_record
from autoseg.records.labels import LabelScheme
from autoseg.records.results import PreprocessedCase
from autoseg.storage.arrays import read_array

_ENSEMBLE = "all"
"""Name of the ensemble's files, beside `<model>_<fold>`."""


@dataclass(frozen=True)
class FoldPredictions:
    """One case, segmented by an ensemble, with the prediction of each of its folds."""

    labels: Labels
    """`Z Y X` int16 internal class numbers on the grid of the image file."""
    meta: PreprocessedCase
    """Of the first model; crop and turn are the same for all."""
    folder: Path
    """Holds the probabilities of each model and fold, and of the ensemble."""
    num_folds: tuple[int, ...]
    """Of each model."""

    @property
    def probabilities(self) -> ProbabilityReader:
        """Of the ensemble, read from `folder`."""
        return in_file(probabilities_path(self.folder, _ENSEMBLE))

    def folds(self) -> Iterator[FoldPrediction]:
        """The prediction of each fold; of several configurations the mean of that fold.

        That is what the out-of-fold prediction of a case was: one fold of each configuration. A configuration with
        fewer folds begins again with its first. They are there if `predict_folds` was called with `per_fold`.
        """
        for fold in range(max(self.num_folds)):
            names = [f"{model}_{fold % count}" for model, count in enumerate(self.num_folds)]
            names = names if sum(self.num_folds) > 1 else [_ENSEMBLE]
            probabilities = [in_file(probabilities_path(self.folder, name)) for name in names]
            files = [disagreement_path(self.folder, name) for name in names]
            disagreements = [read_array(f) if f.is_file() else None for f in files]
            yield FoldPrediction(mean_reader(probabilities), mean_disagreement(disagreements))

    def keep(self, output: Path) -> None:
        """Move the ensemble's files of `inference.store` from `folder` to `output` on the same disk."""
        for path in (probabilities_path, disagreement_path, folds_path):
            if path(self.folder, _ENSEMBLE).is_file():
                os.replace(path(self.folder, _ENSEMBLE), path(output, self.meta.id))
        write_record(meta_path(output, self.meta.id), self.meta)


def fold_windows(models: Sequence[Model], grids: Mapping[str, OnGrid], device: torch.device) -> Iterator[Windows]:
    """Logits of each fold of each model for one case; arguments and errors as for `case_windows`.

    Yields:
        The window of the same rows of each fold, all folds of the first model first.
    """
    streams = []
    for model in models:
        meta = grids[model.configuration].meta
        image = PaddedImage(network_input(model, grids, device), model.settings.patch_zyx)  # all folds cut from one
        depth = probability_depth(model.plan.labels.num_heads, crop_shape(meta))
        for network in model.networks:
            streams.append(native_windows(network_rows(model, [network], image, device), meta, depth))
    return zip(*streams, strict=True)


def predict_folds(
    windows: Iterable[Windows],
    num_folds: Sequence[int],
    meta: PreprocessedCase,
    labels: LabelScheme,
    folder: Path,
    watch: Watch | None = None,
    *,
    per_fold: bool = True,
    kept: bool = True,
) -> FoldPredictions:
    """Segment one case as `predictor.segmentation` does and write the folds' probabilities to `folder`.

    Args:
        windows: as `fold_windows` yields them.
        num_folds: of each model.
        meta: of the first model.
        labels: scheme of the heads.
        folder: empty; the caller removes it.
        watch: is shown the case as `predictor.segmentation` shows it; the disagreement is the mean of the folds' own.
        per_fold: whether `FoldPredictions.folds` will be asked for.
        kept: whether `FoldPredictions.keep` will be called.

    Raises:
        ModelError: the networks' values are not finite.
        ResourceError: `folder`'s disk is full.
    """
    native, cropped = blank_labels(meta)
    with ExitStack() as files:
        writers = _Writers(files, folder, num_folds, meta, labels, per_fold, kept)
        for together in windows:
            cropped[together[0].where] = writers.put_windows(together, watch).cpu().numpy()
    return FoldPredictions(labels=native, meta=meta, folder=folder, num_folds=tuple(num_folds))


def mean_logits(folds: Sequence[Tensor]) -> Tensor:
    """Mean of the folds' logits; in the main memory where a GPU had no room for the sums of one of them."""
    if len(folds) == 1:
        return folds[0]
    where = next((logits.device for logits in folds if logits.device.type == "cpu"), folds[0].device)
    return torch.stack([logits.to(where) for logits in folds]).mean(0)


class _Writers:
    """The open files of one case."""

    def __init__(
        self,
        files: ExitStack,
        folder: Path,
        num_folds: Sequence[int],
        meta: PreprocessedCase,
        labels: LabelScheme,
        per_fold: bool,
        kept: bool,
    ) -> None:
        self.files, self.folder, self.num_folds, self.meta, self.labels = files, folder, num_folds, meta, labels
        self.per_fold, self.kept = per_fold and sum(num_folds) > 1, kept  # one fold alone is the ensemble
        self.all_mirrorings = kept or not self.per_fold
        names = [f"{model}_{fold}" for model, count in enumerate(num_folds) for fold in range(count)]
        self.put_probabilities = {
            name: files.enter_context(
                probability_writer(
                    probabilities_path(folder, name), labels.num_heads, meta, durable=kept and name == _ENSEMBLE
                )
            )
            for name in [*(names if self.per_fold else []), _ENSEMBLE]
        }
        self.put_bytes: dict[Path, Callable[[slice, Disagreement], None]] = {}

    def put_windows(self, together: Windows, watch: Watch | None) -> Tensor:
        """Write one window of every fold and return its classes."""
        rows, remaining, labels = together[0].where, iter(together), self.labels
        means, disagreements, distances, all_disagreements = [], [], [], []
        logits = torch.empty(0)
        for model, count in enumerate(self.num_folds):
            folds = [next(remaining) for _ in range(count)]
            values = [head_values(window, labels.num_heads) for window in folds]
            probabilities = [to_probabilities(one, labels) for one in values]
            own = [to_disagreement(window, labels.num_heads) for window in folds]
            if self.per_fold:
                self._put_folds(model, rows, probabilities, own)
            logits = mean_logits(values)
            means.append(to_probabilities(logits, labels))
            all_disagreements += own
            disagreements.append(mean_disagreement(own))
            if self.kept and count > 1:
                distances += [probability_distance(one.float(), means[-1].float(), labels) for one in probabilities]
        self.put_probabilities[_ENSEMBLE](rows, mean_probabilities([mean.numpy() for mean in means]))
        if self.all_mirrorings:
            self._put(disagreement_path(self.folder, _ENSEMBLE), rows, mean_disagreement(all_disagreements))
        if distances:
            stored = (torch.stack(distances).mean(0) * 255).round_().clamp_(0, 255).byte().numpy()
            self._put(folds_path(self.folder, _ENSEMBLE), rows, stored)
        if watch is not None:
            watch(means, [one for one in disagreements if one is not None])
        return logits_to_labels(logits, labels, threshold=0.0) if len(means) == 1 else mean_to_labels(means, labels)

    def _put_folds(
        self, model: int, rows: slice, probabilities: Sequence[Tensor], disagreements: Sequence[Disagreement | None]
    ) -> None:
        """Write the probabilities of each fold of a model in a window, and the disagreement of its mirrorings."""
        for fold, (values, disagreement) in enumerate(zip(probabilities, disagreements, strict=True)):
            name = f"{model}_{fold}"
            self.put_probabilities[name](rows, values.numpy())
            self._put(disagreement_path(self.folder, name), rows, disagreement)

    def _put(self, path: Path, rows: slice, values: Disagreement | None) -> None:
        """Write rows of a file that is opened with the first of them; where there is nothing, none is made."""
        if values is None:
            return
        if path not in self.put_bytes:
            durable = self.kept and _ENSEMBLE in path.name
            self.put_bytes[path] = self.files.enter_context(disagreement_writer(path, self.meta, durable))
        self.put_bytes[path](rows, values)

"""Loaded models and one case in, its segmentation out, and what each fold model says of it, one at a time.

Learned post-processing looks at the models one by one, after the components of their joint segmentation are known.
Their probabilities are kept in a folder until then, so that memory holds one model's at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.inference.export import (
    Disagreement,
    Labels,
    Probabilities,
    labels_from_probabilities,
    mean_disagreement,
    mean_probabilities,
    to_native_disagreement,
    to_native_labels,
    to_native_probabilities,
)
from autoseg.inference.model import Model
from autoseg.inference.predictor import OnGrid, Watch, fold_answers, show_slabs
from autoseg.records.results import PreprocessedCase
from autoseg.storage.arrays import read_array, write_array


@dataclass(frozen=True)
class Spoken:
    """One case, segmented by an ensemble that can still be asked one by one."""

    labels: Labels
    """`Z Y X` int16 internal class numbers on the grid of the image file."""
    probabilities: Probabilities
    """`H z y x` of the ensemble, on the crop box of the turned grid."""
    meta: PreprocessedCase
    """Of the first model; crop and turn are the same for all."""
    folder: Path
    """Holds the probabilities of each model and fold."""
    num_folds: tuple[int, ...]
    """Of each model."""

    def voices(self) -> Iterator[tuple[Probabilities, Disagreement | None]]:
        """Probabilities and mirroring disagreement of each fold; of several configurations the mean of that fold.

        That is what the out-of-fold prediction of a case was: one fold of each configuration. A configuration with
        fewer folds begins again with its first.
        """
        for fold in range(max(self.num_folds)):
            names = [f"{model}_{fold % count}" for model, count in enumerate(self.num_folds)]
            probabilities = mean_probabilities([read_array(_probabilities(self.folder, name)) for name in names])
            files = [_disagreement(self.folder, name) for name in names]
            yield probabilities, mean_disagreement([read_array(f) if f.is_file() else None for f in files])

    def disagreement(self) -> Disagreement | None:
        """Mean disagreement of the mirrorings of all models and folds; None when none mirrors."""
        total, count = None, 0
        for file in sorted(self.folder.glob("*.disagreement.b2nd")):
            values = read_array(file).astype("float32")
            total, count = values if total is None else total + values, count + 1
        return None if total is None else (total / count).round().astype("uint8")


def speak(
    models: Sequence[Model],
    grids: Mapping[str, OnGrid],
    device: torch.device,
    folder: Path,
    watch: Watch | None = None,
) -> Spoken:
    """Segment one case as `predictor.segment` does, fold after fold, and keep what each says in `folder`.

    Args:
        models: one a configuration.
        grids: configuration -> the case prepared for it.
        device: where networks run.
        folder: empty; the caller removes it.
        watch: is shown the case as `predictor.segment` shows it; the disagreement is the mean of the folds' own.

    Raises:
        ModelError: the networks' values are not finite.
        ResourceError: `folder`'s disk is full.
    """
    labels = models[0].plan.labels
    metas = [grids[model.configuration].meta for model in models]
    means, native, apart = [], None, []
    for number, (model, meta) in enumerate(zip(models, metas, strict=True)):
        total = None
        for fold, answer in enumerate(fold_answers(model, grids, device)):
            name = f"{number}_{fold}"
            probabilities = to_native_probabilities(answer.logits, meta, labels)
            write_array(_probabilities(folder, name), probabilities, durable=False)
            if answer.disagreement is not None:
                write_array(
                    _disagreement(folder, name), to_native_disagreement(answer.disagreement, meta), durable=False
                )
            total = answer.logits.clone() if total is None else total.add_(answer.logits)
        assert total is not None, "a model has at least one fold"
        total /= len(model.networks)
        means.append(to_native_probabilities(total, meta, labels))
        files = [_disagreement(folder, f"{number}_{fold}") for fold in range(len(model.networks))]
        if watch is not None and (own := mean_disagreement([read_array(f) for f in files if f.is_file()])) is not None:
            apart.append(own)
        if len(models) == 1:
            native = to_native_labels(total, meta, labels)
    if watch is not None:
        show_slabs(means, apart, watch)
    return Spoken(
        labels=labels_from_probabilities(means, metas[0], labels) if native is None else native,
        probabilities=mean_probabilities(means),
        meta=metas[0],
        folder=folder,
        num_folds=tuple(len(model.networks) for model in models),
    )


def _probabilities(folder: Path, name: str) -> Path:
    return folder / f"{name}.probabilities.b2nd"


def _disagreement(folder: Path, name: str) -> Path:
    return folder / f"{name}.disagreement.b2nd"

"""Whole volumes and whole cases at once, for tests: what the windows of a case are put together to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from autoseg.inference.export import (
    Disagreement,
    Labels,
    Probabilities,
    native_windows,
    to_disagreement,
    to_probabilities,
)
from autoseg.inference.fold_predictions import FoldPredictions, fold_windows, predict_folds
from autoseg.inference.model import Model
from autoseg.inference.predictor import OnGrid, network_input, network_rows, segmentation
from autoseg.inference.probability_reader import ProbabilityReader
from autoseg.inference.sliding_window import SlidingWindow, predict_rows
from autoseg.inference.store import (
    disagreement_path,
    disagreement_writer,
    meta_path,
    probabilities_path,
    probability_writer,
)
from autoseg.records.base import write_record
from autoseg.records.labels import LabelScheme
from autoseg.records.results import PreprocessedCase


class Whole(NamedTuple):
    logits: Tensor
    """`H Z Y X`."""
    disagreement: Tensor | None
    """`Z Y X`; None: nothing is mirrored."""


def predict_logits(networks: Sequence[nn.Module], image: Tensor, window: SlidingWindow, device: torch.device) -> Whole:
    """The rows of `predict_rows`, whose arguments these are, put together."""
    rows = torch.cat(list(predict_rows(networks, image, window, device)), 1)
    num_heads = window.labels.num_heads
    return Whole(rows[:num_heads], rows[num_heads] if len(rows) > num_heads else None)


def native_labels(logits: Tensor, meta: PreprocessedCase, labels: LabelScheme) -> Labels:
    return segmentation(((window,) for window in native_windows([logits], meta)), meta, labels)


def write_probabilities(folder: Path, meta: PreprocessedCase, probabilities: Probabilities) -> None:
    """`H z y x` float16 and how to bring it to the file's grid, as validation leaves them."""
    with probability_writer(probabilities_path(folder, meta.id), len(probabilities), meta) as put:
        put(slice(0, probabilities.shape[1]), probabilities)
    write_record(meta_path(folder, meta.id), meta)


def write_disagreement(folder: Path, meta: PreprocessedCase, disagreement: Disagreement) -> None:
    """`z y x` uint8."""
    with disagreement_writer(disagreement_path(folder, meta.id), meta) as put:
        put(slice(0, len(disagreement)), disagreement)


def native_probabilities(logits: Tensor, meta: PreprocessedCase, labels: LabelScheme) -> np.ndarray:
    heads = slice(0, labels.num_heads)
    parts = [to_probabilities(window.values(heads), labels) for window in native_windows([logits], meta)]
    return torch.cat(parts, 1).numpy()


def native_disagreement(rows: Tensor, meta: PreprocessedCase, num_heads: int) -> np.ndarray:
    return np.concatenate([to_disagreement(window, num_heads) for window in native_windows([rows], meta)])


def case_rows(model: Model, grids: Mapping[str, OnGrid], device: torch.device) -> Tensor:
    """Logits of all folds together and, where something is mirrored, the disagreement after them."""
    image = network_input(model, grids, device)
    return torch.cat(list(network_rows(model, model.networks, image, device)), 1)


def predict_folds_at_once(
    models: Sequence[Model], grids: Mapping[str, OnGrid], device: torch.device, folder: Path, watch=None
) -> FoldPredictions:
    meta, counts = grids[models[0].configuration].meta, [len(model.networks) for model in models]
    return predict_folds(fold_windows(models, grids, device), counts, meta, models[0].plan.labels, folder, watch)


def in_memory(probabilities: Probabilities) -> ProbabilityReader:
    """ProbabilityReader of an array `H z y x`."""
    return ProbabilityReader(probabilities.shape, lambda rows: probabilities[:, rows])

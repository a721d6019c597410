"""Whole volumes and whole cases at once, for tests: what the windows of a case are put together to."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoseg.inference.export import Labels, native_windows, to_disagreement, to_native_labels, to_probabilities
from autoseg.inference.model import Model
from autoseg.inference.predictor import OnGrid, network_input, network_rows
from autoseg.inference.voices import Spoken, speak, voice_windows
from autoseg.records.labels import LabelScheme
from autoseg.records.results import PreprocessedCase


def native_labels(logits: Tensor, meta: PreprocessedCase, labels: LabelScheme) -> Labels:
    return to_native_labels(native_windows([logits], meta), meta, labels)


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


def speak_whole(
    models: Sequence[Model], grids: Mapping[str, OnGrid], device: torch.device, folder: Path, watch=None
) -> Spoken:
    meta, counts = grids[models[0].configuration].meta, [len(model.networks) for model in models]
    return speak(voice_windows(models, grids, device), counts, meta, models[0].plan.labels, folder, watch)

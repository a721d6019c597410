"""A trained network and held-out cases in, their whole segmentations, probabilities and scores on disk out.

Whole volumes are predicted as new cases will be, not patches scored in passing, so the score is the one that
counts. A case's files are complete or absent, and a finished case is skipped when the training is called again.
Only this part of a training touches image files; where their libraries are missing, probabilities are kept and
segmentations and scores are left out with a message.
"""

import importlib.util
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autoseg import console
from autoseg.errors import ModelError
from autoseg.inference.export import (
    Labels,
    blank_labels,
    crop_shape,
    head_values,
    native_windows,
    probability_depth,
    to_disagreement,
    to_probabilities,
)
from autoseg.inference.labelling import logits_to_labels
from autoseg.inference.model import with_previous
from autoseg.inference.sliding_window import configured_window, predict_rows
from autoseg.inference.store import (
    disagreement_path,
    disagreement_writer,
    meta_path,
    probabilities_path,
    probability_writer,
)
from autoseg.metrics.build import score_case, summarize
from autoseg.preprocessing import store
from autoseg.records.base import Record, read_record, write_record
from autoseg.records.dataset import Dataset
from autoseg.records.geometry import IntTriple
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration
from autoseg.records.results import Evaluation, Manifest, PreprocessedCase, Score
from autoseg.spatial.tiles import tile_starts
from autoseg.storage.arrays import read_array
from autoseg.training.stopping import StopRequest

VALIDATION = "validation"
_IMAGE_LIBRARIES = ("SimpleITK", "nibabel")


class CaseScores(Record):
    """Scores of one case, written when all its files are complete."""

    scores: dict[str, Score]
    seconds: float | None = None
    """Wall time in the network, without reading and writing; None: validated before it was measured."""


@dataclass(frozen=True)
class Validator:
    """Where held-out cases come from and where their results go."""

    folder: Path
    """Gets of each case its segmentation, the files of `inference.store`, and last `<case>.scores.json`."""
    store_folder: Path
    manifest: Manifest
    dataset: Dataset
    configuration: Configuration
    labels: LabelScheme
    device: torch.device
    previous: Mapping[str, Path] | None = None
    """Case id -> label map of the previous stage, for a cascade."""


def validate(network: nn.Module, validator: Validator, cases: Sequence[str], stop: StopRequest) -> Evaluation | None:
    """Predict every case, write its files and score it.

    Returns:
        The evaluation; None where the image libraries are missing.

    Raises:
        Preempted, KeyboardInterrupt: `stop` was asked for; finished cases are kept.
    """
    can_score = has_image_libraries()
    if not can_score:
        console.say(f"No segmentations, no scores: {' and '.join(_IMAGE_LIBRARIES)} are not installed.")
    network.eval()
    scores: dict[str, dict[str, Score]] = {}
    for case in console.track(cases, len(cases), "validation"):
        stop.raise_if_asked("validation")
        done = scores_path(validator, case) if can_score else meta_path(validator.folder, case)
        if not done.is_file():
            image = read_network_input(validator, case)
            write_case(validator, case, predict_image(network, validator, image))
        if can_score:
            scores[case] = read_record(done, CaseScores, ModelError).scores
    return summarize("out-of-fold validation", scores) if can_score else None


def has_image_libraries() -> bool:
    """Whether segmentations can be written and references read here."""
    return all(importlib.util.find_spec(name) is not None for name in _IMAGE_LIBRARIES)


def predict_image(network: nn.Module, validator: Validator, image: Tensor) -> Iterator[Tensor]:
    """The network's logits of an image as `read_network_input` gives it, in rows as `predict_rows` yields them."""
    device, has_previous = validator.device, validator.previous is not None
    window = configured_window(validator.configuration, validator.labels, device, has_previous=has_previous)
    return predict_rows([network], image, window, device)


def read_network_input(validator: Validator, case: str) -> Tensor:
    """Image channels, and for a cascade the previous stage's class numbers after them, `C Z Y X` float32."""
    image = torch.from_numpy(store.read_image(validator.store_folder, case))
    if validator.previous is None:
        return image
    return with_previous(image, read_array(validator.previous[case]))


def write_case(validator: Validator, case: str, rows: Iterable[Tensor]) -> None:
    """Write the probabilities of one case and, with image libraries, its segmentation and last its scores.

    Args:
        validator: where to.
        case: its id.
        rows: the network's logits on its grid, as `predict_image` yields it.
    """
    meta, labels = validator.manifest.cases[case], validator.labels
    clock = _Clock(rows)
    found = _write_probabilities(validator.folder, clock.rows(), meta, labels)
    if not has_image_libraries():
        return
    from autoseg.datasets.pairs import on_grid_of
    from autoseg.images.formats import output_ending
    from autoseg.images.reading import read_label
    from autoseg.images.writing import write_label

    entry = next(entry for entry in validator.dataset.training if entry.id == case)
    assert entry.label is not None, f"training case {case} has no label"
    image, reference = (Path(validator.dataset.root) / name for name in (entry.images[0], entry.label))
    path = validator.folder / (case + output_ending(image))
    write_label(path, labels.to_file(found), meta.geometry, like=image)
    turned = on_grid_of(meta.geometry, read_label(reference), entry)
    truth = labels.to_internal(turned.array[0], f"label of {case}")
    scores = score_case(found, truth, labels, meta.geometry)
    write_record(scores_path(validator, case), CaseScores(scores=scores, seconds=clock.seconds))


class _Clock:
    """How long it takes until rows come; what is done with them meanwhile does not count."""

    def __init__(self, source: Iterable[Tensor]) -> None:
        self.source, self.seconds = iter(source), 0.0

    def rows(self) -> Iterator[Tensor]:
        """The source's rows; they are checked on the host, so their device has finished them."""
        while True:
            started = time.monotonic()
            part = next(self.source, None)
            self.seconds += time.monotonic() - started
            if part is None:
                return
            yield part


def _write_probabilities(folder: Path, rows: Iterable[Tensor], meta: PreprocessedCase, labels: LabelScheme) -> Labels:
    """Write probabilities and disagreement window by window, then the record of the case; returns the segmentation."""
    native, cropped = blank_labels(meta)
    num_heads = labels.num_heads
    windows = native_windows(rows, meta, probability_depth(num_heads, crop_shape(meta)))
    with ExitStack() as files:
        put = files.enter_context(probability_writer(probabilities_path(folder, meta.id), num_heads, meta))
        put_disagreement = None
        for window in windows:
            logits = head_values(window, num_heads)
            put(window.where, to_probabilities(logits, labels).numpy())
            if (disagreement := to_disagreement(window, num_heads)) is not None:
                if put_disagreement is None:
                    path = disagreement_path(folder, meta.id)
                    put_disagreement = files.enter_context(disagreement_writer(path, meta))
                put_disagreement(window.where, disagreement)
            cropped[window.where] = logits_to_labels(logits, labels, threshold=0.0).cpu().numpy()
    write_record(meta_path(folder, meta.id), meta)
    return native


def scores_path(validator: Validator, case: str) -> Path:
    """The last file of a finished case."""
    return validator.folder / f"{case}.scores.json"


def num_tiles(meta: PreprocessedCase, patch_zyx: IntTriple) -> int:
    """Tiles of a whole case: what its prediction's time is proportional to."""
    z, y, x = (max(size, patch) for size, patch in zip(meta.shape, patch_zyx, strict=True))
    return len(tile_starts((z, y, x), patch_zyx, 0.5))

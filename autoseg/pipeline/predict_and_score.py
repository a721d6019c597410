"""What the command `predict` does, in order: images segmented, then measured, then scored where references are known.

Like `flow` it calls stages and knows their order; none of them knows another.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from autoseg import console
from autoseg.datasets.folders import find_cases, list_images
from autoseg.errors import AutosegError, PartialError, UsageError
from autoseg.images.formats import output_ending
from autoseg.pipeline.ingest import ingest
from autoseg.records.prediction_folder import read_finished
from autoseg.records.results import Evaluation
from autoseg.records.trust import Judgement

_REFERENCES_OF = {"imagesTs": "labelsTs"}
"""Folder of test images -> folder of their references, in Decathlon's and nnU-Net's layouts."""


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """What is asked for besides segmentations; the fields are the options of the command `predict`."""

    plan_name: str | None = None
    device: str = "auto"
    keep_finished: bool = False
    save_probabilities: bool = False
    fast: bool = False
    with_shift: bool = False
    measurements: bool = False
    references: Path | None = None


@dataclass(frozen=True)
class PredictionResult:
    """What was written."""

    segmentations: tuple[Path, ...]
    judged: dict[str, Judgement]
    """Case id -> what is said about it."""
    measurements: Path | None
    references: Path | None
    """By what it was scored: as asked for, or found beside the images."""
    evaluation: Evaluation | None
    failure: PartialError | None = None
    """Names the cases that could not be predicted; the rest is about the others."""


def predict_and_score(
    model: str | Path, images: Path, output: Path, workspace: Path, request: PredictRequest
) -> PredictionResult:
    """Segment images, then measure and score the segmentations as asked.

    Args:
        model: a dataset's name or folder, or the path of a model.
        images: folder of images or one image file.
        output: folder for everything.
        workspace: of the datasets.
        request: what else is asked for.

    Raises:
        AutosegError: as `predict.predict` does.
        PartialError: some cases could not be predicted, and what was asked for about the others failed too.
        UsageError: the references are not there.
    """
    if request.references is not None and not list_images(request.references):
        raise UsageError(f"--references {request.references} is no folder of label files.")
    failure: PartialError | None = None
    try:
        _segment(model, images, output, workspace, request)
    except PartialError as error:
        failure = error
    try:
        result = _measure_and_score(images, output, request)
    except AutosegError as error:
        if failure is not None:
            raise failure from error
        raise
    return replace(result, failure=failure)


def _segment(model: str | Path, images: Path, output: Path, workspace: Path, request: PredictRequest) -> None:
    from autoseg.pipeline.predict import predict
    from autoseg.pipeline.shift import measure_shift

    where = model if isinstance(model, Path) else ingest(model, workspace)
    predict(
        where,
        images,
        output,
        plan_name=request.plan_name,
        device=request.device,
        keep_finished=request.keep_finished,
        save_probabilities=request.save_probabilities,
        fast=request.fast,
    )
    if request.with_shift:
        measure_shift(where, images, output, plan_name=request.plan_name, device=request.device)


def _measure_and_score(images: Path, output: Path, request: PredictRequest) -> PredictionResult:
    from autoseg.pipeline.evaluate import evaluate
    from autoseg.pipeline.measure import measure

    finished = read_finished(output)
    measured = None
    if request.measurements and finished.labels is not None:
        measured = measure(images, output, finished.labels, finished.channel_names, finished.cases)
    references, evaluation = request.references or find_references(images), None
    if references is not None and list_images(output):
        evaluation = evaluate(output, references, labels=finished.labels)
        for case, reason in evaluation.failed.items():
            console.warn(f"{case} is not scored: {reason}")
    cases = [case for case in find_cases(images, len(finished.channel_names)) if case.id in finished.cases]
    written = tuple(output / (case.id + output_ending(case.images[0])) for case in cases)
    return PredictionResult(written, dict(finished.judged), measured, references, evaluation)


def find_references(images: Path) -> Path | None:
    """The folder of the images' references beside them, where the folder's name tells it; None: there is none."""
    if not images.is_dir() or (name := _REFERENCES_OF.get(images.resolve().name)) is None:
        return None
    folder = images.resolve().parent / name
    return folder if list_images(folder) else None

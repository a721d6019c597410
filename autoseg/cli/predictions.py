"""Commands that use and judge models: predict, evaluate, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoseg.cli import options as o
from autoseg.errors import UsageError

if TYPE_CHECKING:
    from autoseg.pipeline.predict_and_score import PredictionResult
    from autoseg.records.results import Evaluation


def predict(
    dataset: Annotated[str | None, typer.Argument(metavar="DATASET", help="Whose selected model predicts.")] = None,
    input_: Annotated[Path | None, typer.Option("-i", "--input", help="Folder of images, or one image.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the segmentations.")] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="A packed model (zip) or a model folder instead of DATASET.")
    ] = None,
    plan: o.PlanName = None,
    continue_: Annotated[bool, typer.Option("--continue", help="Keep segmentations that are already there.")] = False,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Write the probabilities too, as `postprocess` reads them.")
    ] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="No mirroring, fewer tiles: several times faster, a little less accurate.")
    ] = False,
    shift: Annotated[
        bool, typer.Option("--shift", help="Also measure how components of single folds and the ensemble differ.")
    ] = False,
    measurements: Annotated[
        bool, typer.Option("--measurements", help="Write volumes, diameters and intensities to measurements.csv.")
    ] = False,
    references: Annotated[
        Path | None, typer.Option(help="Score against these label files; default: labelsTs beside imagesTs.")
    ] = None,
    device: o.Device = "auto",
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Segment images with what `select` chose; faulty cases are named, the others done, exit code 5."""
    from autoseg.pipeline.predict_and_score import PredictRequest, predict_and_score

    if input_ is None or output is None:
        raise UsageError("predict needs -i IMAGES and -o OUT.")
    which: str | Path | None = model if dataset is None else dataset
    if which is None or (dataset is not None and model is not None):
        raise UsageError("predict needs either DATASET or --model MODEL.")
    if model is not None and plan is not None:
        raise UsageError("--plan chooses among the plans of a DATASET; the model given by --model has its own.")
    if fast and shift:
        raise UsageError("--shift measures full predictions; leave out --fast.")
    workspace = o.start(work, quiet)
    request = PredictRequest(
        plan_name=plan,
        device=device,
        keep_finished=continue_,
        save_probabilities=save_probabilities,
        fast=fast,
        with_shift=shift,
        measurements=measurements,
        references=references,
    )
    result = predict_and_score(which, input_, output, workspace, request)
    _show_result(result, output, as_json)
    if result.failure is not None:
        raise result.failure


def _show_result(result: PredictionResult, output: Path, as_json: bool) -> None:
    from autoseg.cli.scoring import score_table

    unsure = sum(bool(judgement.reasons) for judgement in result.judged.values())
    about = f", {unsure} to be looked at ({output / 'quality.csv'})" if result.judged else ""
    rows = [f"{len(result.segmentations)} segmentations in {output}{about}."]
    if result.measurements is not None:
        rows.append(f"Volumes, diameters and intensities: {result.measurements}")
    if result.evaluation is not None:
        rows += [f"Scored against {result.references}:", score_table(result.evaluation)]
    following = f"autoseg evaluate {output} REFERENCES"
    if result.evaluation is not None:
        following = f"look at the worst cases in {output / 'evaluation.csv'}"
    content = {
        "segmentations": [str(path) for path in result.segmentations],
        "judged": {case: judgement.model_dump(mode="json") for case, judgement in result.judged.items()},
        "measurements": result.measurements and str(result.measurements),
        "references": result.references and str(result.references),
        "evaluation": result.evaluation and result.evaluation.model_dump(mode="json"),
        "failure": result.failure and str(result.failure),
    }
    o.show(content, as_json, "\n".join([*rows, f"Next: {following}"]))


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of segmentations.")],
    references: Annotated[Path, typer.Argument(help="Folder of reference labels with the same file names.")],
    dataset_json: Annotated[
        Path | None, typer.Option(help="Names of labels and regions; default: values found.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for JSON and CSV.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Second folder of segmentations, compared with the first case by case.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Groups: overlap,surface,lesions (default), boundary, probabilities; or all but the last."),
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MM",
            help="Surface tolerance of a target, or MM for all; repeatable. Default: 2, or the Decathlon task's own.",
        ),
    ] = None,
    lesion_overlap: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Share of a lesion to be covered, or iou=SHARE; default: 0.1."),
    ] = None,
    workers: o.Workers = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Score segmentations against references, or compare two sets; writes evaluation.json and evaluation.csv."""
    from autoseg.cli.scoring import comparison_table, read_scoring, score_table
    from autoseg.pipeline.evaluate import compare, default_scoring
    from autoseg.pipeline.evaluate import evaluate as stage

    o.start(None, quiet)
    scoring = read_scoring(default_scoring(references, dataset_json), metrics, tolerance, lesion_overlap)
    folder = predictions if output is None else output

    def score(segmentations: Path, into: Path) -> Evaluation:
        return stage(
            segmentations, references, dataset_json=dataset_json, output=into, scoring=scoring, num_workers=workers
        )

    records = [score(predictions, folder)]
    content, text = records[0].model_dump(mode="json"), score_table(records[0])
    following = f"look at the worst cases in {folder / 'evaluation.csv'}"
    if against is not None:
        against_folder = against if output is None else output / "against"
        records.append(score(against, against_folder))
        comparison = compare(records[0], records[1], (str(predictions), str(against)), folder)
        content, text = comparison.model_dump(mode="json"), comparison_table(comparison)
        following = (
            f"look at the cases behind it in {folder / 'evaluation.csv'} and {against_folder / 'evaluation.csv'}"
        )
    o.show(content, as_json, f"{text}\nNext: {following}")
    failed = {f"{case}: {why}": None for record in records for case, why in record.failed.items()}
    if failed:
        typer.echo("\n".join(f"failed {line}" for line in failed), err=True)
        raise typer.Exit(5)


def report(dataset: o.DatasetArgument, work: o.Work = None, as_json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Write an offline HTML report of everything done so far."""
    from autoseg.pipeline.ingest import ingest
    from autoseg.pipeline.report import report as stage

    paths = ingest(dataset, o.start(work, quiet))
    page = stage(paths)
    o.show({"report": str(page)}, as_json, f"Open {page} in a browser. Next: autoseg status {paths.folder.name}")


COMMANDS = (predict, evaluate, report)

"""Commands that make models: train, select, postprocess."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli import options as o
from autoseg.errors import UsageError


def train(
    dataset: o.DatasetArgument,
    configuration: Annotated[str, typer.Argument(help="2d, 3d_lowres, 3d_fullres or 3d_cascade_fullres.")],
    fold: Annotated[str | None, typer.Argument(help="A number, or `all`; left out: every fold in turn.")] = None,
    distractors: Annotated[
        bool,
        typer.Option(
            "--distractors",
            help="Fine-tune the trained configuration with its own false positives as a class of their own.",
        ),
    ] = False,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Fine-tune this model's weights: a packed model (zip), a model folder or a fold of it.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Time for the whole command, e.g. 90s, 15m, 2h; auto: until watched cases no longer gain; auto:2h."
        ),
    ] = None,
    cooldown: Annotated[
        bool,
        typer.Option("--cooldown", help="Let this fold's training, running or stopped, lower its rate and end soon."),
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the plan's.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Steps an epoch, instead of the plan's.")] = None,
    seed: o.Seed = None,
    plan: o.PlanName = None,
    device: o.Device = "auto",
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train one fold, all folds in turn, or one model on all cases; called again, it goes on where it stopped."""
    started = time.monotonic()
    from autoseg.pipeline.ingest import locate
    from autoseg.pipeline.trainings import TrainRequest, train_folds

    workspace = o.start(work, quiet)
    until_plateau, seconds = o.parse_budget(budget)
    request = TrainRequest(
        configuration=configuration,
        fold=fold,
        distractors=distractors,
        start=from_,
        cooldown=cooldown,
        until_plateau=until_plateau,
        budget_seconds=seconds,
        epochs=epochs,
        iterations=iterations,
        seed=seed,
        plan_name=plan,
        device=device,
        started_seconds=started,
    )
    trained = train_folds(dataset, workspace, request)
    if cooldown and not trained:
        text = "The running training was asked to cool down. Next: wait for it, then call train without --cooldown"
        o.show([], as_json, text)
        return
    rows = [
        f"{t.configuration} fold {t.fold}: "
        + ("trained on all cases" if t.mean_dice is None else f"mean Dice {t.mean_dice:.4f} on whole held-out volumes")
        for t in trained
    ]
    if any(t.validation_cases for t in trained):
        which = o.plan_option(locate(dataset, workspace), trained[-1].plan)
        rows.append(f"Next: autoseg select {dataset}{which}   (or train the next configuration first)")
    else:
        rows.append(f"Next: autoseg predict -i IMAGES -o OUT {dataset}")
    o.show([t.model_dump(mode="json") for t in trained], as_json, "\n".join(rows))


def select(
    dataset: o.DatasetArgument,
    objective: Annotated[
        str,
        typer.Option(
            metavar="METRIC[:TARGET][=WEIGHT],...",
            help="By what: dice, nsd, lesion_f1 or another score of `evaluate`; of one target; weighted.",
        ),
    ] = "dice",
    plan: o.PlanName = None,
    device: o.Device = "auto",
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Choose the best configuration or ensemble on held-out cases, its calibration and its post-processing."""
    from autoseg.pipeline.flow import choose
    from autoseg.pipeline.ingest import ingest
    from autoseg.reporting.choice import choice_lines

    paths = ingest(dataset, o.start(work, quiet))
    choice = choose(paths, plan, o.device_kind(device), objective)
    rows = choice_lines(choice.selection, choice.calibration, choice.trust)
    rows += [
        *o.describe_postprocessing(choice.rule),
        f"Next: autoseg predict -i IMAGES -o OUT {dataset}   and   autoseg report {dataset}",
    ]
    content = {
        "selection": choice.selection.model_dump(mode="json"),
        "calibration": choice.calibration.model_dump(mode="json"),
        "postprocessing": choice.rule.model_dump(mode="json"),
        "trust": choice.trust.model_dump(mode="json"),
    }
    o.show(content, as_json, "\n".join(rows))


def postprocess(
    dataset: o.DatasetArgument,
    input_: Annotated[
        Path | None, typer.Option("-i", "--input", help="Folder of predictions with probabilities to apply it to.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the segmentations.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the predictions' images; default: those of the dataset.")
    ] = None,
    objective: Annotated[str, typer.Option(help="What post-processing is chosen by: dice or lesion_f1.")] = "dice",
    truth: Annotated[
        str, typer.Option(metavar="MEASURE=VALUE", help="When a component is true: voxels=1, share=0.5, iou=0.1, ...")
    ] = "voxels=1",
    plan: o.PlanName = None,
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Choose post-processing by nested cross-validation; with -i apply it, listing every removed component."""
    from autoseg.pipeline.flow import learn_postprocessing, postprocess_predictions

    workspace = o.start(work, quiet)
    if input_ is not None:
        if output is None:
            raise UsageError("postprocess -i PREDICTIONS needs -o OUT as well.")
        written = postprocess_predictions(dataset, workspace, plan, input_, images, output)
        text = f"{len(written)} segmentations in {output}, changes of each in *.components.json. "
        o.show([str(path) for path in written], as_json, f"{text}Next: autoseg evaluate {output} REFERENCES")
        return
    paths, rule = learn_postprocessing(dataset, workspace, plan, o.parse_learning(objective, truth))
    text = "\n".join([*rule.reasons, f"Components: {paths.component_table}", f"Next: autoseg report {dataset}"])
    o.show(rule.model_dump(mode="json"), as_json, text)


COMMANDS = (train, select, postprocess)

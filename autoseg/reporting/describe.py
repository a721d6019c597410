"""Records of the stages before training in, report sections out: dataset, plan, and how the training went."""

from collections.abc import Mapping, Sequence

import numpy as np

from autoseg.console import duration
from autoseg.records.dataset import Dataset, Folds
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Configuration, Plan
from autoseg.records.recipe import loss_as_text
from autoseg.records.results import EpochRecord, TrainedFold
from autoseg.reporting.figures import draw_distributions, draw_losses
from autoseg.reporting.html import Block, Command, Drawing, Folded, Paragraph, Section, Table
from autoseg.spatial.orientation import canonical_axes, turned

Runs = Mapping[str, Mapping[str, tuple[TrainedFold | None, Sequence[EpochRecord]]]]
"""Configuration -> fold -> its record (None while it is being trained) and its history."""


def dataset_section(dataset: Dataset, fingerprint: Fingerprint | None, folds: Folds | None) -> Section:
    """What the data are: cases, channels, grids, class imbalance."""
    sides = f"Cases with labels: {len(dataset.training)}; test cases: {len(dataset.test)}"
    division = "" if folds is None else f"; {len(folds.folds)} folds for cross-validation ({folds.source})"
    channels = ", ".join(dataset.channel_names)
    blocks: list[Block] = [Paragraph(f"{sides}{division}. Channels: {channels}.")]
    if fingerprint is None:
        blocks.append(Command(f"autoseg fingerprint {dataset.name}", "Nothing has been measured yet:"))
        return Section("dataset", "Dataset", tuple(blocks))
    spacings, shapes = _grids(fingerprint)
    caption = "One dot a case. z runs to the head, y to the front, x to the right, however the files are stored."
    if max(shapes[:, 0]) == 1:
        caption = "One dot a case."
    blocks.append(Drawing(draw_distributions(spacings, shapes), caption))
    blocks.append(_grid_table(spacings, shapes))
    if fingerprint.class_imbalance:
        blocks.append(_imbalance_table(fingerprint))
    blocks.append(_intensity_table(dataset, fingerprint))
    return Section("dataset", "Dataset", tuple(blocks))


def plan_section(plan: Plan) -> Section:
    """The plan's configurations side by side, and why a value is what it is."""
    names = list(plan.configurations)
    columns = [_configuration_facts(plan.configurations[name]) for name in names]
    rows = tuple((fact, *(column[fact] for column in columns)) for fact in columns[0])
    blocks: list[Block] = [
        Paragraph(
            f"Plan {plan.name}, preset {plan.preset}, made for {plan.planned_for}. Orientation: {plan.orientation}; "
            f"axes in the order {plan.transpose}. Sizes and spacings run along z, y, x (2d: y, x)."
        ),
        Table(("", *names), rows, num_text_columns=1 + len(names)),
    ]
    if plan.reasons:
        reasons = tuple((field, reason) for field, reason in plan.reasons.items())
        blocks.append(Folded("Why these values", (Table(("Field", "Reason"), reasons, num_text_columns=2),)))
    return Section(f"plan-{plan.name}", f"Plan {plan.name}", tuple(blocks))


def training_section(dataset: str, plan: Plan, runs: Runs) -> Section:
    """How each fold was trained: lengths, times, losses."""
    blocks: list[Block] = []
    if not runs:
        first = next(iter(plan.configurations))
        blocks.append(Command(f"autoseg train {dataset} {first}", "Nothing has been trained yet:"))
    for configuration, folds in runs.items():
        histories = {fold: history for fold, (_, history) in folds.items() if history}
        if histories:
            caption = f"{configuration}: mean loss of each epoch. One that still falls at the end asks for more time."
            blocks.append(Drawing(draw_losses(histories), caption))
    rows = tuple(_run_row(c, fold, *run) for c, folds in runs.items() for fold, run in folds.items())
    if rows:
        columns = ("Configuration", "Fold", "Cases", "Epochs", "Steps an epoch", "Time", "Parameters", "Dice held out")
        blocks.append(Table(columns, rows, num_text_columns=2))
    return Section(f"training-{plan.name}", "Training", tuple(blocks))


def _grids(fingerprint: Fingerprint) -> tuple[np.ndarray, np.ndarray]:
    """Spacings and shapes of all cases (`N 3`), turned to canonical axes where the orientation was measured."""
    axes = [canonical_axes(case.orientation) for case in fingerprint.cases.values()]
    if len(axes) != len(fingerprint.spacings):
        return np.array(fingerprint.spacings), np.array(fingerprint.shapes_after_crop)
    both = zip(fingerprint.spacings, fingerprint.shapes_after_crop, axes, strict=True)
    grids = [(turned(spacing, order), turned(shape, order)) for spacing, shape, order in both]
    return np.array([spacing for spacing, _ in grids]), np.array([shape for _, shape in grids])


def _grid_table(spacings: np.ndarray, shapes: np.ndarray) -> Table:
    rows = []
    for name, values, digits in (("Spacing (mm)", spacings, 2), ("Size (voxels)", shapes, 0)):
        for axis, letter in enumerate("zyx"):
            column = values[:, axis]
            numbers = (column.min(), np.median(column), column.max())
            rows.append((f"{name}, {letter}", *(f"{number:.{digits}f}" for number in numbers)))
    return Table(("", "smallest", "median", "largest"), tuple(rows))


def _imbalance_table(fingerprint: Fingerprint) -> Table:
    rows = tuple(
        (
            c.name,
            _percent(c.fraction_of_foreground),
            _percent(c.presence),
            f"{c.median_volume_mm3 / 1000:.3g}",
            f"{c.median_components:g}",
        )
        for c in fingerprint.class_imbalance
    )
    columns = ("Class", "Share of foreground", "Occurs in", "Median volume (ml)", "Median components")
    return Table(columns, rows, "Class imbalance; medians over the cases in which the class occurs.")


def _intensity_table(dataset: Dataset, fingerprint: Fingerprint) -> Table:
    rows = []
    for key, s in fingerprint.foreground_intensity_properties_per_channel.items():
        number = int(key)
        name = dataset.channel_names[number] if number < len(dataset.channel_names) else key
        values = (s.mean, s.std, s.min, s.percentile_00_5, s.median, s.percentile_99_5, s.max)
        rows.append((name, *(f"{value:.4g}" for value in values)))
    columns = ("Channel", "mean", "std", "min", "0.5 %", "median", "99.5 %", "max")
    return Table(columns, tuple(rows), "Intensities inside the labels.")


def _configuration_facts(configuration: Configuration) -> dict[str, str]:
    recipe, network = configuration.recipe, configuration.network
    optimizer, schedule = recipe.optimizer, recipe.schedule
    return {
        "Spacing (mm)": _times(configuration.spacing_mm, 3),
        "Median size (voxels)": _times(configuration.median_shape, 0),
        "Patch (voxels)": _times(configuration.patch_size, 0),
        "Batch": str(configuration.batch_size),
        "Normalisation": ", ".join(configuration.normalization),
        "Network": network.architecture,
        "Features a stage": ", ".join(str(n) for n in network.features_per_stage),
        "Blocks a stage": ", ".join(str(n) for n in network.blocks_per_stage),
        "Loss": loss_as_text(recipe.loss),
        "Optimiser": f"{optimizer.name}, rate {optimizer.learning_rate:g}, {schedule.name}",
        "Foreground samples": _percent(recipe.sampling.foreground_fraction),
        "Previous stage": configuration.previous_stage or "none",
        "False positives of": "not taught" if recipe.distractors is None else recipe.distractors.base,
    }


def _run_row(configuration: str, fold: str, run: TrainedFold | None, history: Sequence[EpochRecord]) -> tuple[str, ...]:
    if run is None:
        seconds = sum(epoch.seconds for epoch in history)
        return (configuration, fold, "", f"{len(history)} so far", "", duration(seconds), "", "")
    dice = "" if run.mean_dice is None else f"{run.mean_dice:.4f}"
    length = (str(run.epochs), str(run.iterations_per_epoch), duration(run.seconds))
    return (
        configuration,
        fold,
        str(len(run.train_cases) - len(run.watched_cases)),
        *length,
        f"{run.num_parameters / 1e6:.2f} M",
        dice,
    )


def _times(values: Sequence[float], digits: int) -> str:
    return " x ".join(f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}" for value in values)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"

"""A packed model in, its card out; and the page that people read of it (Markdown)."""

from pathlib import Path

from autoseg.errors import ModelError
from autoseg.inference.model_folders import open_model
from autoseg.records.base import read_record
from autoseg.records.package import PACKAGE, Package
from autoseg.reporting.intervals import mean_text

_UNDEFINED = "not defined"
_METRICS = {"dice": "Dice", "nsd": "surface Dice", "lesion_f1": "lesion F1"}


def read_package(path: Path) -> Package | None:
    """The card of a packed model, or of the folder it was unpacked to; None: it has none. Raises as `open_model`."""
    with open_model(path) as where:
        card = (where if isinstance(where, Path) else where.folder) / PACKAGE
        return read_record(card, Package, ModelError) if card.is_file() else None


def readme(package: Package) -> str:
    """Data, folds, scores, limits, licence and how to cite, and how to predict with it."""
    first = next(iter(package.configurations.values()))
    rows = [
        f"# Segmentation model of {package.dataset}",
        "",
        f"Segments {', '.join(target.name for target in first.labels.targets)}.",
        "",
        "```bash",
        "autoseg predict --model THIS.zip -i IMAGES -o OUT",
        "```",
        "",
        "## Images that it needs",
        "",
        *(f"{number}. {name}" for number, name in enumerate(first.channel_names, 1)),
        "",
        "## What is inside",
        "",
        f"Predicts with {' + '.join(package.predicts)}"
        + (", post-processing" if package.has_postprocessing else "")
        + (", predicted quality" if package.has_trust else "")
        + ".",
        "",
        "| Configuration | Network | Spacing in mm | Fold | Training cases | Mean Dice, held-out cases |",
        "|---|---|---|---|---|---|",
    ]
    for name, card in package.configurations.items():
        spacing = " x ".join(f"{length:.3g}" for length in card.spacing_mm)
        for number, fold in card.folds.items():
            dice = "none held out" if fold.mean_dice is None else f"{fold.mean_dice:.4f} ({fold.num_validation_cases})"
            rows.append(f"| {name} | {card.architecture} | {spacing} | {number} | {fold.num_train_cases} | {dice} |")
    rows += ["", "## Scores", "", *_scores(package), "", "## Limits", "", *(f"- {limit}" for limit in package.limits)]
    for name, known in package.known.items():
        rows.append(f"- Trained on scans with a {name} of {known.smallest:.4g} to {known.largest:.4g}.")
    rows += ["", "## Licence", "", package.licence or "Not stated: ask whoever gave you this file before you use it."]
    rows += ["", "## How to cite", "", package.citation or "Not stated.", ""]
    return "\n".join(rows)


def _scores(package: Package) -> list[str]:
    if not package.scores:
        return ["Nothing was selected on held-out cases; the folds' own figures stand above."]
    metrics = [name for name in _METRICS if any(name in scores for scores in package.scores.values())]
    rows = [
        f"Mean over {package.num_held_out} held-out cases, each predicted by the fold that did not see it, with its "
        "95 % interval; post-processing is included.",
        "",
        f"| Target | {' | '.join(_METRICS[name] for name in metrics)} |",
        f"|---|{'---|' * len(metrics)}",
    ]
    for target, scores in package.scores.items():
        values = [
            mean_text(scores[name], 4, undefined=_UNDEFINED) if name in scores else _UNDEFINED for name in metrics
        ]
        rows.append(f"| {target} | {' | '.join(values)} |")
    return rows

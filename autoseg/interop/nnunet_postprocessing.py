"""What nnU-Net chose as post-processing of a configuration in, our rule out; what cannot be taken over is told.

`nnUNetv2_find_best_configuration` leaves `crossval_results_folds_<k>_<k>/postprocessing.pkl` beside the folds:
functions of its own as Python objects, which are never loaded. The `postprocessing.json` beside it names the same
steps: of which labels, taken together, only the largest component stays, one step after another. A region is a list of
labels.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from autoseg import console
from autoseg.errors import ModelError
from autoseg.interop.nnunet_files import read_json
from autoseg.records.labels import LabelScheme
from autoseg.records.results import PostprocessingRule

FILE = "postprocessing.json"
KEEP_LARGEST = "remove_all_but_largest_component_from_segmentation"
"""The one function that nnU-Net has."""
_FOLDER = "crossval_results_folds_"


def import_postprocessing(model: Path, folds: Collection[str], labels: LabelScheme) -> PostprocessingRule:
    """The rule that was chosen on exactly these folds; one that changes nothing where there is none, which is told.

    Args:
        model: nnU-Net's folder of a trained configuration.
        folds: that are imported.
        labels: of the model.
    """
    chosen_on = {path: set(path.name.removeprefix(_FOLDER).split("_")) for path in sorted(model.glob(f"{_FOLDER}*"))}
    known = [path for path in chosen_on if any(path.glob("postprocessing.*"))]
    if not known:
        console.say(f"{model.name}: nnU-Net chose no post-processing ({_FOLDER}*/{FILE} is not there).")
        return PostprocessingRule()
    matching = [path for path in known if chosen_on[path] == set(folds) - {"all"}]
    try:
        if not matching:
            raise ModelError(f"it was chosen on other folds than {', '.join(folds)}")
        rule = rule_in(matching[0], labels)
    except ModelError as error:
        console.warn(
            f"{model.name}: nnU-Net's post-processing is not taken over: {str(error).removesuffix('.')}. Apply it to "
            f"segmentations with nnUNetv2_apply_postprocessing -pp_pkl_file {known[0] / 'postprocessing.pkl'}."
        )
        return PostprocessingRule()
    for reason in rule.reasons:
        console.say(f"{model.name}: {reason}")
    return rule


def rule_in(folder: Path, labels: LabelScheme) -> PostprocessingRule:
    """The rule in a folder's `postprocessing.json`.

    Raises:
        ModelError: the file is missing or damaged, or steps are not nnU-Net's own or name labels that `labels` has not.
    """
    content = read_json(folder / FILE)
    functions, arguments = content.get("postprocessing_fns"), content.get("postprocessing_kwargs")
    if not isinstance(functions, list) or not isinstance(arguments, list) or len(functions) != len(arguments):
        raise ModelError(f"{FILE} lists no steps")
    if unknown := [str(function) for function in functions if function != KEEP_LARGEST]:
        raise ModelError(f"{FILE} names {', '.join(unknown)}; only {KEEP_LARGEST} is known")
    steps = tuple(_classes(given, labels) for given in arguments)
    reasons = [
        f"nnU-Net's choice: keep the largest component of {' + '.join(labels.class_names[number] for number in step)}"
        for step in steps
    ]
    return PostprocessingRule(
        keep_largest_together=steps,
        reasons=tuple(reasons) or ("nnU-Net's choice: no component is removed",),
    )


def _classes(given: Any, labels: LabelScheme) -> tuple[int, ...]:
    """Internal classes of one step."""
    if not isinstance(given, dict) or set(given) - {"labels_or_regions", "background_label"}:
        raise ModelError(f"{FILE} gives a step the arguments {given}")
    found = _flat(given.get("labels_or_regions"))
    foreground = labels.class_values[1:]
    if not found or given.get("background_label", 0) != 0 or any(value not in foreground for value in found):
        raise ModelError(f"{FILE} gives a step the arguments {given}; the model's labels are {list(foreground)}")
    return tuple(sorted({labels.class_values.index(value) for value in found}))


def _flat(given: Any) -> list[int]:
    """A label, a region's labels, or a list of either; empty for anything else."""
    if type(given) is int:  # not a truth value
        return [given]
    if not isinstance(given, list):
        return []
    parts = [_flat(part) for part in given]
    return [value for part in parts for value in part] if all(parts) else []

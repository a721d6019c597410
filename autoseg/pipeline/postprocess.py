"""Stage: held-out segmentations of the selected candidate in, `postprocessing.json` and `evaluation.json` out.

Each case is segmented once from the stored probabilities and measured into a table of its components; rules are
tried on the tables. `evaluation.json` is what the selected model, post-processing included, reaches on held-out cases.
"""

from autoseg import console
from autoseg.errors import UsageError
from autoseg.metrics.build import summarize
from autoseg.postprocessing.rules import choose_rule, scores_with_rule
from autoseg.postprocessing.table import component_table
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset
from autoseg.records.plan import Plan
from autoseg.records.results import PostprocessingRule, Selection
from autoseg.records.workspace import Paths
from autoseg.selection.held_out import common_cases, find_held_out, reference_of, segmentation_of


def choose_postprocessing(paths: Paths, plan: Plan) -> PostprocessingRule:
    """Choose the keep-largest rules for the selected candidate, and score it out of fold with them.

    Raises:
        UsageError: nothing is selected yet for this plan.
        ModelError: files of a trained fold are missing.
    """
    selection = read_record(paths.selection, Selection, UsageError, "Run `autoseg select` first.")
    if selection.plan != plan.name:
        raise UsageError(f"{paths.selection} is of plan {selection.plan}, not of {plan.name}: select again.")
    if paths.postprocessing.is_file() and paths.evaluation.is_file():
        earlier = read_record(paths.postprocessing, PostprocessingRule)
        if selection.decided_by and earlier.decided_by == selection.decided_by:
            console.say("post-processing: done already")
            return earlier
    held_out = {name: held for name, held in find_held_out(paths, plan).items() if name in selection.configurations}
    members, cases = list(held_out.values()), common_cases(held_out)
    dataset = read_record(paths.dataset, Dataset)
    tables = []
    for case in console.track(cases, len(cases), "measuring components"):
        classes, meta = segmentation_of(case, members, plan.labels)
        reference = reference_of(dataset, case, meta.geometry)
        tables.append(component_table(case, classes, reference, plan.labels, meta.geometry.voxel_volume_mm3))
    rule = choose_rule(tables, plan.labels).model_copy(update={"decided_by": selection.decided_by})
    title = f"{' + '.join(selection.configurations)} of plan {plan.name}, out of fold, with post-processing"
    write_record(paths.evaluation, summarize(title, {t.case: scores_with_rule(t, rule, plan.labels) for t in tables}))
    write_record(paths.postprocessing, rule)
    return rule

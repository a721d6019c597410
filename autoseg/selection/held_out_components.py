"""Held-out probabilities of the selected candidate in, the judged components of every case out."""

from collections.abc import Sequence
from pathlib import Path

from autoseg.inference.export import mean_disagreement
from autoseg.inference.probability_reader import FoldPrediction, classes_from_probabilities, mean_reader
from autoseg.inference.store import read_disagreement, read_meta
from autoseg.postprocessing.case_grid import read_case_grid
from autoseg.postprocessing.features import feature_names, measure
from autoseg.postprocessing.find import find_components
from autoseg.postprocessing.reference_match import match_reference
from autoseg.postprocessing.rows import Rows
from autoseg.records.dataset import Dataset
from autoseg.records.plan import Plan
from autoseg.records.postprocessing import ComponentSettings, LearningSettings
from autoseg.selection.held_out import HeldOut, calibrated_pieces, reference_of, training_case
from autoseg.spatial.orientation import Turn, turn


def held_out_rows(
    case_id: str,
    members: Sequence[HeldOut],
    dataset: Dataset,
    plan: Plan,
    configuration: str,
    components: ComponentSettings,
    learning: LearningSettings,
) -> Rows:
    """Components of one held-out case, measured and judged.

    Args:
        case_id: of a training case that every member held out.
        members: the configurations whose probabilities are averaged.
        dataset: for image and reference.
        plan: of all members.
        configuration: the one whose normalisation decides the scale of intensities.
        components: how components are found.
        learning: when a component is true.

    Raises:
        DataError: image, reference or probabilities cannot be read.
        ModelError: validation of a fold did not finish.
    """
    case = training_case(dataset, case_id)
    folders = [member.folders[case_id] for member in members]
    meta, labels = read_meta(folders[0], case_id), plan.labels
    probabilities = mean_reader([calibrated_pieces(member, case_id, labels) for member in members])
    disagreement = mean_disagreement([read_disagreement(folder, case_id) for folder in folders])
    classes = classes_from_probabilities([probabilities], labels)
    grid = read_case_grid(Path(dataset.root), case, meta, plan, configuration)
    found = find_components(classes, probabilities, labels, components, grid.planar)
    features = measure(found, classes, [FoldPrediction(probabilities, disagreement)], labels, grid, components.ring_mm)
    reference = turn(reference_of(dataset, case_id, meta.geometry), Turn(meta.axes, meta.flips))
    return match_reference(
        case=case,
        meta=meta,
        found=found,
        features=features,
        names=feature_names(len(grid.image)),
        classes=classes,
        reference=reference,
        labels=labels,
        settings=learning,
    )

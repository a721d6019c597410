"""Stage: images and a model of several folds in, how features of components differ between folds and ensemble out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoseg import console
from autoseg.datasets.folders import find_cases
from autoseg.devices import choose_device
from autoseg.errors import UsageError
from autoseg.inference.fold_predictions import fold_windows, predict_folds
from autoseg.inference.probability_reader import classes_from_probabilities
from autoseg.postprocessing.apply import ScoreInputs, component_features
from autoseg.postprocessing.case_grid import read_case_grid
from autoseg.postprocessing.features import feature_names, feature_shift
from autoseg.records.base import write_record
from autoseg.records.dataset import Case
from autoseg.records.postprocessing import FeatureShift
from autoseg.records.prediction_folder import COMPONENT_SHIFT
from autoseg.records.workspace import Paths
from autoseg.selection.predictor import Predictor, load_predictor, prepare
from autoseg.storage.atomic import scratch_folder
from autoseg.storage.locks import locked


def measure_shift(
    where: Paths | Path, images: Path, output: Path, *, plan_name: str | None = None, device: str = "auto"
) -> FeatureShift:
    """Load what predicts and measure its shift on images; arguments as for `predict`, the rest as for `shift_of`."""
    predictor = load_predictor(where, plan_name, choose_device(device))
    cases = find_cases(images, len(predictor.models[0].plan.channel_names))
    with locked(output, "predicting"):  # which removes the folds' probabilities that a killed one left
        return shift_of(predictor, images if images.is_dir() else images.parent, cases, output)


def shift_of(predictor: Predictor, root: Path, cases: Sequence[Case], output: Path) -> FeatureShift:
    """How far features of components differ between single fold models and the ensemble, on cases that all predict.

    Learned post-processing is fitted on components of single models (only they predict a case out of fold), and applied
    to those of the ensemble with features averaged over the models. The networks' time is that of a prediction;
    `output` gets `component_shift.json`, and holds the folds' probabilities meanwhile.

    Raises:
        UsageError: there is but one fold model, or no component rule to measure for.
        DataError, ModelError: a case cannot be predicted.
    """
    rule, labels = predictor.rule.components, predictor.models[0].plan.labels
    if rule is None or max(len(model.networks) for model in predictor.models) < 2:
        raise UsageError("A shift can be measured only where several folds predict with a rule of components.")
    single, averaged = [], []
    model, num_folds = predictor.models[0], 0
    for case in console.track(cases, len(cases), "measuring the shift"):
        grids = prepare(predictor, root, case)
        with scratch_folder(output) as folder:
            windows = fold_windows(predictor.models, grids, predictor.device)
            counts = [len(one.networks) for one in predictor.models]
            predictions = predict_folds(windows, counts, grids[model.configuration].meta, labels, folder, kept=False)
            grid = read_case_grid(root, case, predictions.meta, model.plan, model.configuration)
            num_folds = max(predictions.num_folds)
            joint = classes_from_probabilities([predictions.probabilities], labels)
            inputs = ScoreInputs(predictions.probabilities, predictions.folds(), grid)
            averaged.append(component_features(joint, labels, rule, inputs))
            for fold in predictions.folds():
                classes = classes_from_probabilities([fold.probabilities], labels)
                inputs = ScoreInputs(fold.probabilities, [fold], grid)
                single.append(component_features(classes, labels, rule, inputs))
    names = feature_names(len(model.plan.channel_names))
    shifts, spreads = feature_shift(single, np.concatenate(averaged), names)
    shift = FeatureShift(
        num_cases=len(cases),
        num_folds=num_folds,
        num_single=sum(len(matrix) for matrix in single),
        num_averaged=sum(len(matrix) for matrix in averaged),
        shifts=shifts,
        spreads=spreads,
    )
    write_record(output / COMPONENT_SHIFT, shift)
    return shift

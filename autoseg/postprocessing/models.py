"""A classifier kept as a record and rows of features in, the probability of each row out, by numpy alone.

The numbers are those of scikit-learn's own predictions (tests compare within 1e-12), but a file with them can be
read in ten years, holds no code, and says what it does.
"""

import numpy as np

from autoseg.postprocessing.rows import Floats
from autoseg.records.postprocessing import Boosting, Isotonic, Logistic, TargetRule, Tree


def rule_scores(rule: TargetRule, features: Floats, names: tuple[str, ...]) -> Floats | None:
    """Score of each row by a target's rule, `n`; None for a rule without one.

    Args:
        rule: of the rows' target.
        features: `n f`, NaN where not defined.
        names: of the features; those of the rule must be among them.
    """
    if rule.feature is not None:
        scores = features[:, names.index(rule.feature)]
    elif rule.logistic is not None:
        scores = logistic_scores(rule.logistic, _chosen(rule.logistic.features, features, names))
    elif rule.boosting is not None:
        scores = boosting_scores(rule.boosting, _chosen(rule.boosting.features, features, names))
    else:
        return None
    return scores if rule.isotonic is None else calibrated(rule.isotonic, scores)


def logistic_scores(model: Logistic, features: Floats) -> Floats:
    """Probability of each row of `n f` (columns as in `model.features`)."""
    return expit(scaled(model, features) @ np.array(model.coefficients) + model.intercept)


def scaled(model: Logistic, features: Floats) -> Floats:
    """Features as the linear model takes them: logarithm, standardised, 0 where not defined."""
    values = scale_input(features, model.logarithmic)
    values = (values - np.array(model.means)) / np.array(model.scales)
    return np.where(np.isfinite(values), values, 0.0)


def scale_input(features: Floats, logarithmic: tuple[bool, ...]) -> Floats:
    """log(1 + value) in the columns that ask for it."""
    chosen = np.array(logarithmic, dtype=bool)
    values = features.copy()
    values[:, chosen] = np.log1p(np.maximum(values[:, chosen], 0))
    return values


def boosting_scores(model: Boosting, features: Floats) -> Floats:
    """Probability of each row of `n f` (columns as in `model.features`)."""
    total = np.full(len(features), model.baseline)
    for tree in model.trees:
        total += tree_values(tree, features)
    return expit(total)


def tree_values(tree: Tree, features: Floats) -> Floats:
    """Value of the leaf that each row of `n f` falls into."""
    feature, threshold = np.array(tree.feature), np.array(tree.threshold)
    missing_left, left, right = np.array(tree.missing_left), np.array(tree.left), np.array(tree.right)
    node = np.zeros(len(features), dtype=np.int64)
    walking = np.arange(len(features)) if feature[0] >= 0 else np.zeros(0, dtype=np.int64)
    while walking.size:
        here = node[walking]
        values = features[walking, feature[here]]
        goes_left = np.where(np.isnan(values), missing_left[here], values <= threshold[here])
        node[walking] = np.where(goes_left, left[here], right[here])
        walking = walking[feature[node[walking]] >= 0]
    return np.array(tree.value)[node]


def calibrated(curve: Isotonic, scores: Floats) -> Floats:
    """Calibrated probability of each score; beyond the knots that of the nearest one."""
    return np.interp(scores, curve.scores, curve.probabilities)


def expit(values: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1 / (1 + small), small / (1 + small))


def _chosen(wanted: tuple[str, ...], features: Floats, names: tuple[str, ...]) -> Floats:
    return features[:, [names.index(name) for name in wanted]]

"""Features and truths of components in, a fitted classifier as a record out (scikit-learn fits, the record stays).

Two kinds. Logistic regression: standardised, L2. Gradient boosting: shallow trees that are monotone where the meaning
of a feature says so (`features.FEATURES`: a larger, surer component cannot be less likely to be true), which keeps
small data from teaching nonsense. Boosting's own early stopping is off: it would hold out components of the very cases
it learns from.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from autoseg.postprocessing.features import feature_of
from autoseg.postprocessing.models import boosting_scores, logistic_scores, scale_input
from autoseg.postprocessing.rows import Floats, Ints
from autoseg.records.postprocessing import Boosting, Isotonic, Logistic, Tree

Model = Logistic | Boosting

NUM_TREES, DEPTH, LEARNING_RATE = 100, 3, 0.1
"""scikit-learn's defaults, but shallow: interactions of three features, on some hundred components."""
_LARGEST = float(np.finfo(np.float64).max)


def fit_logistic(features: Floats, truth: Ints, names: Sequence[str]) -> Logistic:
    """Fit on rows `n f` with truths 0 and 1; features that never vary are left out."""
    from sklearn.linear_model import LogisticRegression

    logarithmic = tuple(feature_of(name).logarithmic for name in names)
    values = scale_input(features, logarithmic)
    means, scales = _moments(values)
    used = np.flatnonzero(scales > 0).tolist()
    standard = (values[:, used] - means[used]) / scales[used]
    fitted = LogisticRegression(C=1.0, max_iter=1000).fit(np.where(np.isfinite(standard), standard, 0.0), truth)
    return Logistic(
        features=tuple(names[i] for i in used),
        logarithmic=tuple(logarithmic[i] for i in used),
        means=_plain(means[used]),
        scales=_plain(scales[used]),
        coefficients=_plain(fitted.coef_[0]),
        intercept=float(fitted.intercept_[0]),
    )


def fit_boosting(features: Floats, truth: Ints, names: Sequence[str]) -> Boosting:
    """Fit on rows `n f` with truths 0 and 1; features that never vary are left out."""
    used = np.flatnonzero(_moments(features)[1] > 0).tolist()
    chosen = [names[i] for i in used]
    fitted = boosting_classifier(len(truth), chosen).fit(features[:, used], truth)
    return boosting_record(fitted, chosen)


def boosting_classifier(num_rows: int, names: Sequence[str]) -> Any:
    """The classifier before it is fitted."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=NUM_TREES,
        learning_rate=LEARNING_RATE,
        max_depth=DEPTH,
        min_samples_leaf=max(5, min(20, num_rows // 20)),
        l2_regularization=1.0,
        early_stopping=False,
        monotonic_cst=[feature_of(name).sign for name in names],
        random_state=0,
    )


def boosting_record(fitted: Any, names: Sequence[str]) -> Boosting:
    """The trees of a fitted `HistGradientBoostingClassifier` for two classes."""
    trees = []
    for (predictor,) in fitted._predictors:
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        trees.append(
            Tree(
                feature=tuple(np.where(leaf, -1, nodes["feature_idx"]).tolist()),
                # A split between defined and missing values has an infinite threshold, which JSON does not know.
                threshold=tuple(np.clip(nodes["num_threshold"], -_LARGEST, _LARGEST).tolist()),
                missing_left=tuple(nodes["missing_go_to_left"].astype(bool).tolist()),
                left=tuple(nodes["left"].tolist()),
                right=tuple(nodes["right"].tolist()),
                value=tuple(nodes["value"].tolist()),
            )
        )
    baseline = float(np.asarray(fitted._baseline_prediction).ravel()[0])
    return Boosting(features=tuple(names), baseline=baseline, trees=tuple(trees))


def fit_isotonic(scores: Floats, truth: Ints) -> Isotonic:
    """The rising curve that fits truths best (least squares), from scores that the classifier gave unseen rows."""
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, truth)
    return Isotonic(scores=_plain(fitted.X_thresholds_), probabilities=_plain(fitted.y_thresholds_))


def model_scores(model: Model, features: Floats, names: Sequence[str]) -> Floats:
    """Probability of each row of `n f`."""
    columns = features[:, [list(names).index(name) for name in model.features]]
    return logistic_scores(model, columns) if isinstance(model, Logistic) else boosting_scores(model, columns)


CLASSIFIERS: dict[str, Callable[[Floats, Ints, Sequence[str]], Model]] = {
    "logistic": fit_logistic,
    "boosting": fit_boosting,
}


def _moments(values: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of each column over its defined values; 0 where none is defined."""
    defined = np.isfinite(values)
    count = np.maximum(defined.sum(axis=0), 1)
    means = np.where(defined, values, 0.0).sum(axis=0) / count
    deviations = np.sqrt((np.where(defined, values - means, 0.0) ** 2).sum(axis=0) / count)
    # Rounding must not make a constant column vary.
    return means, np.where(deviations > 1e-9 * np.maximum(np.abs(means), 1e-9), deviations, 0.0)


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in values)

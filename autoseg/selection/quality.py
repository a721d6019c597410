"""Features and Dice of held-out cases in, a model that predicts the Dice of a case without reference out.

Ridge regression on standardised features, whose coefficients may only point where they make sense (surer is better,
disagreement is worse): a few dozen cases would otherwise teach nonsense about features that say nearly the same. The
penalty is the one with the smallest error in five-fold cross-validation. Everything that is reported comes from nested
cross-validation: the cases of one group are predicted by a model, its penalty included, that was fitted on the
other groups.

The model with all features stands only if it orders the held-out cases better than their mean probability alone does:
if the bootstrap 95 % interval over cases of the difference of the areas under the two risk-coverage curves (nested for
the model) lies above zero. Else the regression on the mean probability is stored. A case is flagged when its predicted
Dice is lower than that of all but the worst tenth of the held-out cases; nothing is flagged where what is stored orders
the held-out cases no better than chance.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize

from autoseg.metrics.risk_coverage import area, risk_coverage
from autoseg.records.results import Aggregate
from autoseg.records.trust import Curve, QualityModel, QualityScores
from autoseg.selection.features import DIRECTIONS, MEAN_PROBABILITY

FloatArray = npt.NDArray[np.float64]

FEWEST_CASES = 10
"""Below, a model of quality would be a guess, and so would be what is said about it."""
FLAGGED_SHARE = 0.1
_NUM_RESAMPLES = 1000
_PENALTIES = tuple(10.0**exponent for exponent in range(-2, 4))
_FEWEST_GROUPS = 3
_GROUPS = 5


class _Fitted(NamedTuple):
    centres: FloatArray
    scales: FloatArray
    coefficients: FloatArray
    intercept: float
    ridge: float

    def predict(self, rows: FloatArray) -> FloatArray:
        linear = self.intercept + (rows - self.centres) / self.scales @ self.coefficients
        limited: FloatArray = np.clip(linear, 0.0, 1.0)
        return limited


def fit_quality(
    features: Mapping[str, Mapping[str, float]], dice: Mapping[str, float | None], groups: Mapping[str, str]
) -> QualityModel | None:
    """Fit and score the model.

    Args:
        features: case id -> feature -> value; a case in which nothing was segmented has none and does not enter.
        dice: case id -> mean Dice; cases where it is not defined do not enter.
        groups: case id -> what must not be split in cross-validation (the fold that held it out).

    Returns:
        The model; None with fewer than `FEWEST_CASES`.
    """
    cases = sorted(case for case, values in features.items() if values and dice.get(case) is not None)
    if len(cases) < FEWEST_CASES:
        return None
    names = [name for name in features[cases[0]] if all(name in features[case] for case in cases)]
    rows = np.array([[features[case][name] for name in names] for case in cases])
    wanted = np.array([dice[case] for case in cases], dtype=np.float64)
    parts = _parts([groups[case] for case in cases])
    confidence = rows[:, names.index(MEAN_PROBABILITY)]
    nested = _nested(rows, wanted, parts, names)
    gain = _gain(1 - wanted, nested, confidence)
    if gain.low is None or gain.low <= 0:
        names, rows = [MEAN_PROBABILITY], confidence[:, None]
        nested = _nested(rows, wanted, parts, names)
    final, scores = _fit(rows, wanted, names), _scores(wanted, nested, confidence, gain)
    return QualityModel(
        features=tuple(names),
        centres=_plain(final.centres),
        scales=_plain(final.scales),
        coefficients=_plain(final.coefficients),
        intercept=final.intercept,
        ridge=final.ridge,
        flag_below=float(np.quantile(nested, FLAGGED_SHARE)) if scores.predicted.area < scores.random.area else None,
        scores=scores,
    )


def predict_quality(model: QualityModel, features: Mapping[str, float]) -> float | None:
    """Predicted Dice of a case, 0 to 1; None where a feature is missing, since nothing was segmented."""
    if any(name not in features for name in model.features):
        return None
    row = np.array([features[name] for name in model.features])
    fitted = _Fitted(
        np.array(model.centres), np.array(model.scales), np.array(model.coefficients), model.intercept, model.ridge
    )
    return float(fitted.predict(row))


def _parts(groups: Sequence[str]) -> list[npt.NDArray[np.bool_]]:
    """Test masks of the outer cross-validation: one a group, or every fifth case where the groups are too few."""
    distinct = sorted(set(groups))
    if len(distinct) >= _FEWEST_GROUPS:
        return [np.array([group == one for group in groups]) for one in distinct]
    return [np.arange(len(groups)) % _GROUPS == part for part in range(_GROUPS)]


def _nested(
    rows: FloatArray, wanted: FloatArray, parts: Sequence[npt.NDArray[np.bool_]], names: Sequence[str]
) -> FloatArray:
    predicted = np.empty(len(rows))
    for held_out in parts:
        predicted[held_out] = _fit(rows[~held_out], wanted[~held_out], names).predict(rows[held_out])
    return predicted


def _fit(rows: FloatArray, wanted: FloatArray, names: Sequence[str]) -> _Fitted:
    """Ridge regression with the penalty of the smallest error in five-fold cross-validation."""
    part = np.arange(len(rows)) % _GROUPS
    errors = []
    for penalty in _PENALTIES:
        residuals = [
            _fit_with(rows[part != one], wanted[part != one], names, penalty).predict(rows[part == one])
            - wanted[part == one]
            for one in range(_GROUPS)
        ]
        errors.append(float(np.square(np.concatenate(residuals)).mean()))
    return _fit_with(rows, wanted, names, _PENALTIES[int(np.argmin(errors))])


def _fit_with(rows: FloatArray, wanted: FloatArray, names: Sequence[str], penalty: float) -> _Fitted:
    """Ridge regression as bounded least squares: the penalty is a row more for each coefficient."""
    centres, deviations = rows.mean(0), rows.std(0)
    scales = np.where(deviations > 1e-9, deviations, 1.0)
    standard, mean = (rows - centres) / scales, float(wanted.mean())
    left = np.concatenate([standard, np.sqrt(penalty) * np.eye(len(names))])
    right = np.concatenate([wanted - mean, np.zeros(len(names))])
    directions = [DIRECTIONS.get(name, 0) for name in names]
    bounds = ([0.0 if d > 0 else -np.inf for d in directions], [0.0 if d < 0 else np.inf for d in directions])
    solved = optimize.lsq_linear(left, right, bounds, method="bvls", tol=1e-12)
    return _Fitted(centres, scales, solved.x, mean, penalty)


def _gain(risk: FloatArray, predicted: FloatArray, confidence: FloatArray) -> Aggregate:
    """Area by mean probability minus area by prediction, with the bootstrap 95 % interval over cases."""
    rng, gains = np.random.default_rng(12345), []
    for _ in range(_NUM_RESAMPLES):
        drawn = rng.integers(len(risk), size=len(risk))
        alone = area(risk_coverage(risk[drawn], confidence[drawn]))
        gains.append(alone - area(risk_coverage(risk[drawn], predicted[drawn])))
    low, high = np.percentile(gains, [2.5, 97.5])
    mean = area(risk_coverage(risk, confidence)) - area(risk_coverage(risk, predicted))
    return Aggregate(mean=mean, low=float(low), high=float(high), num_cases=len(risk))


def _scores(wanted: FloatArray, nested: FloatArray, confidence: FloatArray, gain: Aggregate) -> QualityScores:
    risk = 1 - wanted
    return QualityScores(
        num_cases=len(wanted),
        predicted=_curve(risk, nested),
        mean_probability=_curve(risk, confidence),
        random=_curve(risk, np.zeros(len(risk))),
        perfect=_curve(risk, wanted),
        gain=gain,
        mean_absolute_error=float(np.abs(nested - wanted).mean()),
    )


def _curve(risks: FloatArray, confidences: FloatArray) -> Curve:
    curve = risk_coverage(risks, confidences)
    return Curve(area=area(curve), risks=_plain(curve))


def _plain(values: FloatArray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)

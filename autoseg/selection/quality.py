"""Features and Dice of held-out cases in, a model that predicts the Dice of a case without reference out.

Ridge regression on standardised features; the penalty is the one with the smallest leave-one-out error, which for
ridge needs no refitting (Golub, Heath and Wahba 1979). Everything that is reported comes from nested
cross-validation: the cases of one group are predicted by a model, its penalty included, that was fitted on the
other groups.

The model with all features stands only if it orders the held-out cases better (a smaller area under the nested
risk-coverage curve) than the one that knows the mean probability of the answer alone; else that one is stored.
A case is flagged when its predicted Dice is as low as that of the worst tenth of the held-out cases.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from autoseg.metrics.risk_coverage import area, risk_coverage
from autoseg.records.trust import Curve, QualityModel, QualityScores
from autoseg.selection.features import MEAN_PROBABILITY

FloatArray = npt.NDArray[np.float64]

FEWEST_CASES = 10
"""Below, a model of quality would be a guess, and so would be what is said about it."""
FLAGGED_SHARE = 0.1
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
    nested, chosen = _nested(rows, wanted, parts), names
    alone = _nested(confidence[:, None], wanted, parts)
    if area(risk_coverage(1 - wanted, nested)) >= area(risk_coverage(1 - wanted, confidence)):
        nested, chosen, rows = alone, [MEAN_PROBABILITY], confidence[:, None]
    final = _fit(rows, wanted)
    return QualityModel(
        features=tuple(chosen),
        centres=_plain(final.centres),
        scales=_plain(final.scales),
        coefficients=_plain(final.coefficients),
        intercept=final.intercept,
        ridge=final.ridge,
        flag_below=float(np.quantile(nested, FLAGGED_SHARE)),
        scores=_scores(wanted, nested, confidence),
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


def _nested(rows: FloatArray, wanted: FloatArray, parts: Sequence[npt.NDArray[np.bool_]]) -> FloatArray:
    predicted = np.empty(len(rows))
    for held_out in parts:
        predicted[held_out] = _fit(rows[~held_out], wanted[~held_out]).predict(rows[held_out])
    return predicted


def _fit(rows: FloatArray, wanted: FloatArray) -> _Fitted:
    """Ridge regression with the penalty of the smallest leave-one-out error."""
    centres, deviations = rows.mean(0), rows.std(0)
    scales = np.where(deviations > 1e-9, deviations, 1.0)
    standard, mean = (rows - centres) / scales, float(wanted.mean())
    left, singular, right = np.linalg.svd(standard, full_matrices=False)
    rest = left.T @ (wanted - mean)
    best: tuple[float, float] | None = None
    for penalty in _PENALTIES:
        shrunk = singular**2 / (singular**2 + penalty)
        leverage = 1 / len(rows) + (left**2 * shrunk).sum(1)
        residuals = (wanted - mean - left @ (shrunk * rest)) / np.maximum(1 - leverage, 1e-9)
        error = float(np.square(residuals).mean())
        if best is None or error < best[0]:
            best = (error, penalty)
    assert best is not None
    coefficients = right.T @ (singular / (singular**2 + best[1]) * rest)
    return _Fitted(centres, scales, coefficients, mean, best[1])


def _scores(wanted: FloatArray, nested: FloatArray, confidence: FloatArray) -> QualityScores:
    risk = 1 - wanted
    return QualityScores(
        num_cases=len(wanted),
        predicted=_curve(risk, nested),
        mean_probability=_curve(risk, confidence),
        random=_curve(risk, np.zeros(len(risk))),
        perfect=_curve(risk, wanted),
        mean_absolute_error=float(np.abs(nested - wanted).mean()),
    )


def _curve(risks: FloatArray, confidences: FloatArray) -> Curve:
    curve = risk_coverage(risks, confidences)
    return Curve(area=area(curve), risks=_plain(curve))


def _plain(values: FloatArray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)

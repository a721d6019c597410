"""Classifiers as records: scikit-learn's own predictions within 1e-12, through JSON and back, and nothing missing."""

import json

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from autoseg.postprocessing.fitting import (
    boosting_classifier,
    boosting_record,
    fit_boosting,
    fit_isotonic,
    fit_logistic,
    model_scores,
)
from autoseg.postprocessing.models import boosting_scores, calibrated, expit, logistic_scores, rule_scores, scale_input
from autoseg.records.base import record_to_json
from autoseg.records.postprocessing import Boosting, Isotonic, Logistic, TargetRule, Tree

NAMES = ("volume_mm3", "probability_mean", "entropy_mean", "body_z", "mirror_mean")


def data(seed: int = 0, num: int = 400, missing: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = np.stack([rng.lognormal(3, 1, num), *rng.random((4, num))], axis=1)
    score = features[:, 1] * 4 - features[:, 2] * 2 + np.log(features[:, 0]) - 4 + rng.normal(0, 1, num)
    features[:, 1:][rng.random((num, 4)) < missing] = np.nan
    return features, (score > 0).astype(int)


def through_json(record):
    content = json.loads(record_to_json(record))
    content.pop("schema_version")
    return type(record).model_validate(content)


def test_boosting_equals_sklearn() -> None:
    features, truth = data()
    fitted = boosting_classifier(len(truth), NAMES).fit(features, truth)
    record = through_json(boosting_record(fitted, NAMES))
    new, _ = data(1)
    np.testing.assert_allclose(boosting_scores(record, new), fitted.predict_proba(new)[:, 1], rtol=0, atol=1e-12)
    assert len(record.trees) == 100


def test_boosting_is_monotone_where_it_should_be() -> None:
    features, truth = data(missing=0)
    record = fit_boosting(features, truth, NAMES)
    rising = np.repeat(features[:20], 50, axis=0).reshape(20, 50, -1)
    for column, sign in ((0, 1), (1, 1), (2, -1), (4, -1)):
        rows = rising.copy()
        rows[:, :, column] = np.linspace(features[:, column].min(), features[:, column].max(), 50)
        scores = model_scores(record, rows.reshape(-1, len(NAMES)), NAMES).reshape(20, 50)
        assert (sign * np.diff(scores, axis=1) >= -1e-12).all(), NAMES[column]


def test_a_split_between_defined_and_missing_values() -> None:
    """Its threshold is infinite in scikit-learn, which JSON does not know."""
    rng = np.random.default_rng(0)
    features = rng.random((300, 5))
    truth = rng.integers(0, 2, 300)
    features[truth == 1, 3] = np.nan
    fitted = boosting_classifier(300, NAMES).fit(features, truth)
    assert any(np.isinf(p.nodes["num_threshold"]).any() for (p,) in fitted._predictors)
    record = through_json(boosting_record(fitted, NAMES))
    np.testing.assert_allclose(boosting_scores(record, features), fitted.predict_proba(features)[:, 1], atol=1e-12)


def test_logistic_equals_sklearn() -> None:
    features, truth = data(missing=0)
    record = through_json(fit_logistic(features, truth, NAMES))
    assert record.logarithmic == (True, False, False, False, False)
    standard = scale_input(features, record.logarithmic)
    standard = (standard - standard.mean(axis=0)) / standard.std(axis=0)
    fitted = LogisticRegression(C=1.0, max_iter=1000).fit(standard, truth)
    np.testing.assert_allclose(logistic_scores(record, features), fitted.predict_proba(standard)[:, 1], atol=1e-12)


def test_logistic_takes_what_is_not_defined_for_the_mean() -> None:
    features, truth = data()
    record = fit_logistic(features, truth, NAMES)
    row = features[:1].copy()
    row[0, 1] = np.nan
    filled = row.copy()
    filled[0, 1] = record.means[record.features.index("probability_mean")]
    assert logistic_scores(record, row) == pytest.approx(logistic_scores(record, filled))


def test_isotonic_equals_sklearn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(200)
    truth = (rng.random(200) < scores**2).astype(int)
    record = through_json(fit_isotonic(scores, truth))
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, truth)
    new = np.linspace(-0.5, 1.5, 777)
    np.testing.assert_allclose(calibrated(record, new), fitted.predict(new), atol=1e-12)


def test_features_that_never_vary_are_left_out() -> None:
    features, truth = data(missing=0)
    features[:, 3], features[:, 4] = 0.1 + 0.2, np.nan
    for fit in (fit_logistic, fit_boosting):
        assert fit(features, truth, NAMES).features == NAMES[:3]


def test_a_rule_reads_its_columns_by_name() -> None:
    features, truth = data()
    model = fit_boosting(features, truth, NAMES)
    rule = TargetRule(target="a", method="boosting", boosting=model)
    other = tuple(reversed(NAMES))
    np.testing.assert_array_equal(
        rule_scores(rule, features, NAMES), rule_scores(rule, features[:, ::-1].copy(), other)
    )
    curve = Isotonic(scores=(0.0, 0.5, 1.0), probabilities=(0.0, 0.0, 1.0))
    low = rule_scores(rule.model_copy(update={"isotonic": curve}), features, NAMES)
    assert low.min() == 0
    assert rule_scores(TargetRule(target="a", method="nothing"), features, NAMES) is None
    by_volume = TargetRule(target="a", method="minimum_volume", feature="volume_mm3")
    np.testing.assert_array_equal(rule_scores(by_volume, features, NAMES), features[:, 0])


def test_trees_that_lead_nowhere_are_refused() -> None:
    leaf = {"threshold": (0.0,), "missing_left": (True,), "left": (0,), "right": (0,), "value": (1.0,)}
    assert Tree(feature=(-1,), **leaf).value == (1.0,)
    with pytest.raises(ValidationError, match="points to"):
        Tree(feature=(0,), **leaf)  # would walk in a circle
    with pytest.raises(ValidationError, match="one length"):
        Tree(feature=(-1, -1), **leaf)


def test_a_tree_of_one_leaf() -> None:
    tree = Tree(feature=(-1,), threshold=(0.0,), missing_left=(True,), left=(0,), right=(0,), value=(1.0,))
    model = Boosting(features=("volume_mm3",), baseline=-1.0, trees=(tree,))
    assert boosting_scores(model, np.zeros((2, 1))).tolist() == [0.5, 0.5]


def test_expit_does_not_overflow() -> None:
    np.testing.assert_allclose(expit(np.array([-1e4, 0.0, 1e4])), [0, 0.5, 1])


def test_records_are_plain_data() -> None:
    features, truth = data()
    for record in (fit_logistic(features, truth, NAMES), fit_boosting(features, truth, NAMES)):
        assert through_json(record) == record
        assert isinstance(record, Logistic | Boosting)

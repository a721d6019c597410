"""Predicted quality: planted relations are learned, noise is not mistaken for one, and few cases give no model."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from autoseg.metrics.risk_coverage import risk_coverage
from autoseg.records.base import parse_record, read_record, write_record
from autoseg.records.trust import QualityModel
from autoseg.selection import quality
from autoseg.selection.features import EXPECTED_DICE, MEAN_PROBABILITY, MIRRORING
from autoseg.selection.quality import FEWEST_CASES, fit_quality, predict_quality


def planted(num: int = 40, seed: int = 0, helpful: float = 1.0) -> tuple[dict, dict, dict]:
    """Dice that depends on `shape`, which the mean probability knows little of."""
    rng = np.random.default_rng(seed)
    shape, other = rng.standard_normal((2, num))
    dice = np.clip(0.7 + helpful * 0.1 * shape + 0.02 * rng.standard_normal(num), 0, 1)
    probability = 0.9 + 0.01 * shape * helpful + 0.02 * rng.standard_normal(num)
    names = [f"case_{n:02d}" for n in range(num)]
    features = {
        name: {MEAN_PROBABILITY: float(p), "shape": float(s), "other": float(o)}
        for name, p, s, o in zip(names, probability, shape, other, strict=True)
    }
    groups = {name: f"fold_{n % 5}" for n, name in enumerate(names)}
    return features, dict(zip(names, dice.tolist(), strict=True)), groups


def test_a_planted_relation_is_learned_and_beats_mean_probability() -> None:
    model = fit_quality(*planted())
    assert model is not None
    assert set(model.features) == {MEAN_PROBABILITY, "shape", "other"}
    scores = model.scores
    assert scores.perfect.area < scores.predicted.area < scores.mean_probability.area < scores.random.area
    assert scores.predicted.area - scores.perfect.area < 0.1 * (scores.random.area - scores.perfect.area)
    assert scores.mean_absolute_error < 0.03
    features, dice, _ = planted(seed=1)
    errors = [predict_quality(model, values) - dice[case] for case, values in features.items()]
    assert np.mean(np.abs(errors)) < 0.03


def test_where_features_are_noise_the_mean_probability_stands_alone() -> None:
    """Dice depends on the mean probability alone; two features of pure noise may only harm."""
    alone = 0
    for seed in range(20):
        features, _, groups = planted(num=15, seed=seed, helpful=0.0)
        dice = {case: min(1.0, 5 * values[MEAN_PROBABILITY] - 3.8) for case, values in features.items()}
        model = fit_quality(features, dice, groups)
        alone += model.features == (MEAN_PROBABILITY,)
        assert model.scores.predicted.area <= model.scores.random.area
    assert alone >= 18


def test_pure_noise_is_never_reported_as_better_than_random() -> None:
    """Nested cross-validation is honest, even a little pessimistic: what is left out of a mean lowers it."""
    gains = []
    for seed in range(30):
        features, _, groups = planted(seed=seed, helpful=0.0)
        rng = np.random.default_rng(1000 + seed)
        dice = {case: float(rng.uniform(0.3, 0.9)) for case in features}
        scores = fit_quality(features, dice, groups).scores
        gains.append(scores.random.area - scores.predicted.area)
    assert np.mean(gains) < 0.005


def of_sklearn(rows: np.ndarray, wanted: np.ndarray, penalty: float, **options) -> Ridge:
    return Ridge(alpha=penalty, **options).fit((rows - rows.mean(0)) / rows.std(0), wanted)


def test_ridge_is_that_of_sklearn_with_the_penalty_of_the_smallest_error() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(2.0, [1.0, 5.0, 0.1], (25, 3))
    wanted = 0.5 + 0.05 * rows[:, 0] - 0.01 * rows[:, 1] + 0.05 * rng.standard_normal(25)
    fitted, errors = quality._fit(rows, wanted, ["u", "v", "w"]), {}
    for penalty in quality._PENALTIES:
        residuals = []
        for part in range(5):
            left_out = np.arange(25) % 5 == part
            model = of_sklearn(rows[~left_out], wanted[~left_out], penalty)
            standard = (rows[left_out] - rows[~left_out].mean(0)) / rows[~left_out].std(0)
            residuals += (np.clip(model.predict(standard), 0, 1) - wanted[left_out]).tolist()
        errors[penalty] = np.mean(np.square(residuals))
    assert fitted.ridge == min(errors, key=errors.get)
    np.testing.assert_allclose(fitted.coefficients, of_sklearn(rows, wanted, fitted.ridge).coef_, rtol=1e-6)


def test_coefficients_point_where_they_make_sense() -> None:
    """What a sample says against it is nonsense: such a coefficient is 0, the others are those of sklearn."""
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((30, 3))
    wanted = 0.6 - 0.05 * rows[:, 0] + 0.05 * rows[:, 1] - 0.05 * rows[:, 2]
    fitted = quality._fit_with(rows, wanted, [MEAN_PROBABILITY, EXPECTED_DICE, MIRRORING], 1.0)
    flipped = rows * [1, 1, -1]
    reference = of_sklearn(flipped, wanted, 1.0, positive=True, tol=1e-12)
    np.testing.assert_allclose(fitted.coefficients, reference.coef_ * [1, 1, -1], atol=1e-6)
    assert fitted.coefficients[0] == 0
    assert fitted.coefficients[1] > 0 > fitted.coefficients[2]


def test_twins_of_the_mean_probability_are_not_turned_against_each_other() -> None:
    """Nearly equal features and little signal, as on few real cases: new cases are ordered no worse for it."""
    losses = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        probability = rng.normal(0.87, 0.01, 140)
        twin, dice = probability + rng.normal(0, 0.003, 140), 0.8 + 2 * (probability - 0.87) + rng.normal(0, 0.05, 140)
        names = [f"{n:03d}" for n in range(140)]
        features = {
            n: {MEAN_PROBABILITY: p, EXPECTED_DICE: t} for n, p, t in zip(names, probability, twin, strict=True)
        }
        seen = {n: features[n] for n in names[:40]}
        model = fit_quality(seen, dict(zip(names, dice, strict=True)), dict.fromkeys(names, "fold_0"))
        predicted = [predict_quality(model, features[n]) for n in names[40:]]
        order = risk_coverage(1 - dice[40:], predicted).mean(), risk_coverage(1 - dice[40:], probability[40:]).mean()
        losses.append(order[0] - order[1])
    assert np.mean(losses) < 0.005


def test_held_out_groups_are_predicted_by_models_that_never_saw_them() -> None:
    """Each group's Dice is constant and known by its own indicator alone: only a leak could predict it."""
    names = [f"case_{n:02d}" for n in range(40)]
    groups = {name: f"fold_{n % 5}" for n, name in enumerate(names)}
    levels = {"fold_0": 0.2, "fold_1": 0.9, "fold_2": 0.5, "fold_3": 0.7, "fold_4": 0.4}
    features = {
        name: {MEAN_PROBABILITY: 0.9, **{fold: float(groups[name] == fold) for fold in levels}} for name in names
    }
    dice = {name: levels[groups[name]] for name in names}
    honest = fit_quality(features, dice, groups)
    leaking = fit_quality(features, dice, {name: f"fold_{n // 8}" for n, name in enumerate(names)})
    assert leaking.scores.mean_absolute_error < 0.05
    assert honest.scores.mean_absolute_error > 0.15


def test_flagged_are_those_as_low_as_the_worst_tenth() -> None:
    features, dice, groups = planted(num=100)
    model = fit_quality(features, dice, groups)
    flagged = [case for case, values in features.items() if predict_quality(model, values) < model.flag_below]
    assert 5 <= len(flagged) <= 15
    worst = sorted(dice, key=dice.get)[:10]
    assert len(set(worst) & set(flagged)) >= 7


def test_nothing_is_flagged_where_nothing_can_be_told() -> None:
    """Dice that falls with the mean probability: the only sensible coefficient is 0, the order that of chance."""
    features, _, groups = planted()
    dice = {case: 1.7 - values[MEAN_PROBABILITY] for case, values in features.items()}
    features = {case: {MEAN_PROBABILITY: values[MEAN_PROBABILITY]} for case, values in features.items()}
    model = fit_quality(features, dice, groups)
    assert model.coefficients == (0.0,)
    assert model.flag_below is None
    assert model.scores.predicted.area >= model.scores.random.area - 1e-9


def test_few_cases_empty_cases_and_undefined_dice() -> None:
    features, dice, groups = planted(num=FEWEST_CASES + 2)
    assert fit_quality(features, dice, groups) is not None
    first, second, third = sorted(features)[:3]
    assert fit_quality({**features, first: {}}, {**dice, second: None}, groups).scores.num_cases == FEWEST_CASES
    assert fit_quality({**features, first: {}, third: {}}, {**dice, second: None}, groups) is None


def test_a_feature_that_some_cases_lack_is_not_used_and_one_that_is_missing_later_gives_no_number() -> None:
    features, dice, groups = planted()
    del features["case_03"]["other"]
    model = fit_quality(features, dice, groups)
    assert "other" not in model.features
    assert predict_quality(model, {}) is None
    assert predict_quality(model, {MEAN_PROBABILITY: 0.9}) is None


def test_constant_features_and_one_fold_do_no_harm() -> None:
    features, dice, groups = planted()
    features = {case: {**values, "constant": 1.0} for case, values in features.items()}
    model = fit_quality(features, dice, dict.fromkeys(groups, "fold_0"))
    assert 0 <= predict_quality(model, features["case_00"]) <= 1
    assert model.scores.predicted.area < model.scores.random.area


def test_predictions_stay_between_0_and_1_and_the_model_survives_its_file(tmp_path) -> None:
    model = fit_quality(*planted())
    extreme = {MEAN_PROBABILITY: 0.9, "shape": 100.0, "other": 0.0}
    assert predict_quality(model, extreme) == 1.0
    write_record(tmp_path / "model.json", model)
    again = read_record(tmp_path / "model.json", QualityModel)
    assert again == model
    assert predict_quality(again, {**extreme, "shape": 0.1}) == predict_quality(model, {**extreme, "shape": 0.1})
    with pytest.raises(Exception, match="unknown"):
        parse_record({**model.model_dump(), "unknown": 1}, QualityModel, "file")

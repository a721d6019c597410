"""Rules applied to a case: removed, restored, regions, nothing there; and everything that was changed is told."""

import numpy as np
import pytest

from autoseg.postprocessing import apply
from autoseg.postprocessing.apply import ScoreInputs, clean_components
from autoseg.postprocessing.features import CaseGrid
from autoseg.postprocessing.position_features import world_mm
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme
from autoseg.records.postprocessing import ComponentRule, ComponentSettings, LearningSettings, Logistic, TargetRule
from autoseg.records.results import PreprocessedCase
from autoseg.spatial.orientation import Turn, turn
from tests.inference.whole import in_memory
from tests.pipeline.fakes import oblique_grid, stored_as
from tests.postprocessing.test_find import ONE, REGIONS, TWO, line, two_heads

STORED = Turn((2, 0, 1), (True, False, True))
BY_CONFIDENCE = Logistic(
    features=("probability_max",), logarithmic=(False,), means=(0.5,), scales=(0.1,), coefficients=(1.0,), intercept=0.0
)


def rule_of(*targets: TargetRule) -> ComponentRule:
    return ComponentRule(
        components=ComponentSettings(),
        learning=LearningSettings(),
        targets=targets,
        num_cases=5,
        num_groups=5,
        counts={},
        scores=(),
    )


def meta_of(geometry: Geometry, how: Turn = Turn((0, 1, 2), (False,) * 3), margin: int = 0) -> PreprocessedCase:
    shape = tuple(geometry.shape[a] for a in how.axes)
    return PreprocessedCase(
        id="case",
        geometry=geometry,
        axes=how.axes,
        flips=how.flips,
        crop=tuple((margin, n - margin) for n in shape),
        shape_before_crop=shape,
        spacing_before_mm=tuple(geometry.spacing_mm[a] for a in how.axes),
        shape=shape,
        spacing_mm=(1.0, 1.0, 1.0),
    )


def cleaned(classes: np.ndarray, rule: ComponentRule, probabilities=None, labels: LabelScheme = ONE):
    meta = meta_of(oblique_grid(classes.shape, (1.0, 1.0, 1.0)))
    grid = CaseGrid(np.zeros((1, *classes.shape), np.float32), ((0.0, 1.0),), (1.0, 1.0, 1.0), False)
    inputs = (
        None
        if probabilities is None
        else ScoreInputs(in_memory(probabilities), [(in_memory(probabilities), None)], grid)
    )
    return clean_components(classes, meta, labels, rule, inputs)


@pytest.mark.parametrize("rows", [1, 1 << 20])
def test_unsure_components_go_and_sure_misses_come(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "_ROWS_AT_A_TIME", rows)
    own = line(0.9, 0, 0.55, 0, 0.45, 0, 0.2)
    rule = rule_of(TargetRule(target="a", method="logistic", logistic=BY_CONFIDENCE, minimum=0.7, restore_from=0.35))
    after, changes = cleaned((own > 0.5).astype(np.int16), rule, two_heads(own))
    assert after.ravel().tolist() == [1, 0, 0, 0, 1, 0, 0]
    assert [(c.action, c.target, c.method) for c in changes] == [
        ("removed", "a", "logistic"),
        ("restored", "a", "logistic"),
    ]
    assert changes[0].probability == pytest.approx(1 / (1 + np.exp(-0.5)), abs=1e-2)
    assert changes[0].features["volume_mm3"] == 1
    assert changes[0].features["mirror_mean"] is None
    assert changes[1].features["is_decided"] == 0


def test_simple_rules_need_the_segmentation_alone() -> None:
    classes = np.array([1, 1, 0, 1, 0, 2, 0, 2, 2], np.int16).reshape(1, 1, 9)
    largest = TargetRule(target="a", method="keep_largest", keep_largest="own")
    small = TargetRule(target="b", method="minimum_volume", feature="volume_mm3", minimum=1.5)
    after, changes = cleaned(classes, rule_of(largest, small), labels=TWO)
    assert after.ravel().tolist() == [1, 1, 0, 0, 0, 0, 0, 2, 2]
    assert {c.probability for c in changes} == {None}
    foreground = TargetRule(target="b", method="keep_largest", keep_largest="foreground")
    beside = np.array([1, 1, 2, 0, 2, 2], np.int16).reshape(1, 1, 6)
    assert cleaned(beside, rule_of(foreground), labels=TWO)[0].ravel().tolist() == [1, 1, 2, 0, 0, 0]


def test_nothing_to_do_and_nothing_there() -> None:
    classes = np.array([1, 0, 1], np.int16).reshape(1, 1, 3)
    after, changes = cleaned(classes, rule_of(TargetRule(target="a", method="nothing")))
    np.testing.assert_array_equal(after, classes)
    assert changes == ()
    small = rule_of(TargetRule(target="a", method="minimum_volume", feature="volume_mm3", minimum=2.0))
    after, changes = cleaned(np.zeros((2, 3, 4), np.int16), small)
    assert not after.any()
    assert changes == ()
    learned = rule_of(TargetRule(target="a", method="logistic", logistic=BY_CONFIDENCE, minimum=0.5))
    after, changes = cleaned(np.zeros((2, 3, 4), np.int16), learned, np.zeros((2, 2, 3, 4), np.float16))
    assert not after.any()


@pytest.mark.parametrize("rows", [1, 1 << 20])
def test_a_removed_core_stays_part_of_the_tumour(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "_ROWS_AT_A_TIME", rows)
    classes = np.array([1, 2, 1, 0, 1, 2, 2, 3, 1], np.int16).reshape(1, 1, 9)
    core = TargetRule(target="tumour core", method="minimum_volume", feature="volume_mm3", minimum=2.0)
    assert cleaned(classes, rule_of(core), labels=REGIONS)[0].ravel().tolist() == [1, 1, 1, 0, 1, 2, 2, 3, 1]
    whole = TargetRule(target="whole", method="keep_largest", keep_largest="own")
    after, changes = cleaned(classes, rule_of(whole), labels=REGIONS)
    assert after.ravel().tolist() == [0, 0, 0, 0, 1, 2, 2, 3, 1]
    assert [c.target for c in changes] == ["whole"]


def test_changes_are_made_on_the_files_own_grid() -> None:
    """A turned and cropped case: the right component goes, and its centre is told in the patient's coordinates."""
    classes = np.zeros((6, 7, 8), np.int16)
    classes[1:4, 2:5, 2:5], classes[4, 5, 6] = 1, 1
    grid = oblique_grid(classes.shape)
    stored, geometry = stored_as(classes, grid, STORED)
    inverse_axes = tuple(STORED.axes.index(a) for a in range(3))
    how = Turn(inverse_axes, tuple(STORED.flips[a] for a in inverse_axes))
    np.testing.assert_array_equal(turn(stored, how), classes)
    meta = meta_of(geometry, how, margin=1)
    rule = rule_of(TargetRule(target="a", method="keep_largest", keep_largest="own"))
    after, changes = clean_components(stored, meta, ONE, rule, None)
    expected = classes.copy()
    expected[4, 5, 6] = 0
    np.testing.assert_array_equal(turn(after, how), expected)
    world = grid.matrix @ np.array([4, 5, 6, 1.0])
    np.testing.assert_allclose(changes[0].centre_mm, world[:3])
    np.testing.assert_allclose(world_mm(np.array([[3.0, 4.0, 5.0]]), meta)[0], world[:3])

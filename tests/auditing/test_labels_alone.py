"""What labels tell alone: volumes and places by hand, size explained away, sides."""

import numpy as np
import pytest
from scipy import stats

from autoseg.auditing.labels_alone import (
    LabelFacts,
    label_facts,
    log_volumes,
    median_volume,
    presence,
    side_distances,
)
from autoseg.auditing.rarity import unusualness
from tests.auditing.small import LABELS, cube, grid


def made(volumes: tuple[float, ...], size_mm3: float = 1e6, sides: tuple[float, float] | None = None) -> LabelFacts:
    places = [(x, 0.0, 0.0) for x in sides] if sides else [None] * len(volumes)
    return LabelFacts(volumes, tuple(places), (None,) * len(volumes), 1.0, size_mm3)


def test_facts_by_hand() -> None:
    classes = cube((4, 6, 8), ((0, 2, 4), (2, 4, 8), 1))
    facts = label_facts(classes, grid((4, 6, 8)), LABELS)
    assert facts.volumes_mm3 == (2 * 2 * 4 * 3.0, 0.0)
    assert facts.centres_mm[0] == pytest.approx((5.5 * 1.5, 2.5 * 1.0, 0.5 * 2.0))  # right, front, head
    assert facts.centres_mm[1] is None
    assert facts.voxels == ((0, 2, 6), None)
    assert facts.size_mm3 == 4 * 6 * 8 * 3.0
    assert label_facts(classes, grid((4, 6, 8)), LABELS, relative_size=0.5).size_mm3 == 2 * 6 * 8 * 3.0


def test_a_small_patient_has_small_organs() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.uniform(0.3, 3, 40)
    facts = {
        f"c{k}": made(tuple(size * volume * np.exp(rng.normal(0, 0.05)) for volume in (100.0, 200.0, 300.0)))
        for k, size in enumerate(sizes)
    }
    facts["c7"] = made((facts["c7"].volumes_mm3[0] / 3, *facts["c7"].volumes_mm3[1:]))
    scores = unusualness(log_volumes(facts, 0), 0.1)
    assert min(scores, key=scores.__getitem__) == "c7"
    assert scores["c7"] < -5
    assert max(abs(score) for case, score in scores.items() if case != "c7") < 3.5
    raw = unusualness({case: float(np.log(f.volumes_mm3[0])) for case, f in facts.items()}, 0.1)
    assert abs(raw["c7"]) < 3.5, "without the size of the patient it would be missed"


def test_with_one_class_the_image_tells_the_size() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.uniform(0.3, 3, 30)
    facts = {f"c{k}": made((float(50 * size),), size_mm3=float(1e5 * size)) for k, size in enumerate(sizes)}
    assert np.ptp(list(log_volumes(facts, 0).values())) < 1e-6


def test_the_line_is_theil_sens() -> None:
    rng = np.random.default_rng(2)
    sizes, noise = rng.uniform(-1, 1, 25), rng.normal(0, 0.1, 25)
    noise[:4] += 3  # wrong labels
    facts = {
        f"c{k}": made((float(np.exp(0.7 * size + off)),), size_mm3=float(np.exp(size)))
        for k, (size, off) in enumerate(zip(sizes, noise, strict=True))
    }
    own = 0.7 * sizes + noise
    slope = stats.theilslopes(own, sizes)[0]
    assert slope == pytest.approx(0.7, abs=0.15)
    expected = own - slope * (sizes - np.median(sizes))
    assert list(log_volumes(facts, 0).values()) == pytest.approx(expected.tolist())


def test_volumes_of_absent_classes_are_left_out() -> None:
    facts = {"a": made((10.0, 0.0)), "b": made((20.0, 5.0)), "c": made((60.0, 0.0))}
    assert set(log_volumes(facts, 1)) == {"b"}
    assert median_volume(facts, 0) == 20
    assert median_volume({"a": facts["a"]}, 1) is None
    assert presence(facts, 1) == pytest.approx(1 / 3)
    assert log_volumes({"a": facts["a"]}, 1) == {}


def test_side_distances() -> None:
    facts = {
        "a": made((1.0, 1.0), sides=(-20.0, 30.0)),
        "b": made((1.0, 1.0), sides=(25.0, -15.0)),
        "c": made((1.0, 0.0)),
    }
    assert side_distances(facts, (0, 1)) == {"a": 50.0, "b": -40.0}

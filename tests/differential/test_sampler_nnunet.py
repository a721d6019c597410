"""Which patches are drawn, against nnU-Net's preprocessor and loader: forced foreground, classes, places, cases.

Runs where AUTOSEG_PEER_PYTHON names an interpreter that has nnU-Net. A patch centred on foreground is moved into the
volume on both sides by us and on the lower side only by nnU-Net, so its places are moved on the upper side here.
"""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from autoseg.preprocessing.locations import draw_locations
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.recipe import Augmentation, Mirroring, Recipe, Sampling
from autoseg.training.batches import Sampler, draw_batch, wants_foreground
from autoseg.training.rng import sample_rng
from autoseg.training.source import Source, TrainingCase
from tests.differential.peer import run_peer

pytestmark = pytest.mark.slow  # the peer takes half a minute to start

COUNT, SMALLEST_P = 1500, 1e-5
SIZES, FRACTIONS = tuple(range(1, 14)), (0.0, 0.1, 0.25, 0.33, 0.5, 0.67, 1.0)
CASES = tuple("abcde")
SHAPE = (12, 11, 14)
# Foreground voxels of each class: in the middle, at both ends of the axes, and alone.
VOXELS = {1: [(6, 5, 7), (6, 6, 7), (0, 0, 0)], 2: [(11, 10, 13), (5, 10, 2)], 3: [(2, 8, 12)]}
REGIONS = ((1, 2, 3), (2, 3), (3,))


def _volume(shape=SHAPE, classes=(1, 2, 3), ignore=False):
    """With an ignore label few voxels are annotated, some of them outside the nonzero mask."""
    volume = np.full(shape, 4 if ignore else 0, dtype=np.int16)
    if ignore:
        volume[3, 4:7, 5], volume[8, 2, 9] = 0, -1
    for number in classes:
        for place in VOXELS[number]:
            volume[tuple(min(p, n - 1) for p, n in zip(place, shape, strict=True))] = number
    return volume


def _scene(volume, patch, forced, regions=(), has_ignore=False):
    return {"volume": volume, "patch": patch, "forced": forced, "regions": regions, "has_ignore": has_ignore}


SCENES = {
    "anywhere": _scene(_volume(), (8, 8, 10), False),
    "foreground": _scene(_volume(), (8, 8, 10), True),
    "foreground, odd patch": _scene(_volume(), (7, 5, 9), True),
    "two classes of three": _scene(_volume(classes=(1, 3)), (8, 8, 10), True),
    "no foreground": _scene(_volume(classes=()), (8, 8, 10), True),
    "smaller than the patch, anywhere": _scene(_volume((5, 6, 9)), (8, 8, 8), False),
    "smaller than the patch": _scene(_volume((5, 6, 9)), (8, 8, 8), True),
    "one slice": _scene(_volume((1, 11, 14)), (1, 8, 8), True),
    "regions": _scene(_volume(), (8, 8, 10), True, REGIONS),
    "regions, one absent": _scene(_volume(classes=(1, 2)), (8, 8, 10), True, REGIONS),
    "ignore label": _scene(_volume(ignore=True), (4, 3, 4), True, has_ignore=True),
    "ignore label, annotated": _scene(_volume(ignore=True), (4, 3, 4), False, has_ignore=True),
    "ignore label, no foreground": _scene(_volume(classes=(), ignore=True), (4, 3, 4), True, has_ignore=True),
    "ignore label, nothing annotated": _scene(np.full(SHAPE, 4, np.int16), (8, 8, 10), False, has_ignore=True),
}


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    scenes = {
        name: {**{k: v for k, v in scene.items() if k != "volume"}, "num_classes": 4} for name, scene in SCENES.items()
    }
    settings = {"scenes": scenes, "count": COUNT, "sizes": SIZES, "fractions": FRACTIONS, "cases": CASES}
    given = {f"volume {name}": scene["volume"] for name, scene in SCENES.items()}
    return run_peer(
        "sampler_peer.py", {**given, "settings": np.array(json.dumps(settings))}, tmp_path_factory.mktemp("peer")
    )


def _sampler(cases, labels, patch, sampling):
    recipe = Recipe(sampling=sampling, augmentation=Augmentation(spatial=None), mirroring=Mirroring(axes=()))
    source = Source(tuple(cases), 1, "memory", lambda *_: (torch.empty(0), torch.empty(0)))
    return Sampler(source, recipe, labels, patch, 1, 5, torch.device("cpu"))


def _our_starts(scene):
    labels = LabelScheme(
        class_names=("background", "a", "b", "c"),
        class_values=(0, 1, 2, 3),
        regions=tuple(Target(name=str(members), members=members) for members in scene["regions"]),
        region_order=tuple(range(1, 1 + len(scene["regions"]))),
        ignore_value=4 if scene["has_ignore"] else None,
        num_entries=4,
    )
    found, _ = draw_locations("one", scene["volume"], labels)
    case = TrainingCase("one", scene["volume"].shape, tuple(found[number] for number in sorted(found)))
    sampling = Sampling(foreground_fraction=float(scene["forced"]), rounding="probabilistic")
    sampler = _sampler([case], labels, scene["patch"], sampling)
    centres = [draw_batch(sampler, (0, step))[0].centre for step in range(COUNT)]
    return np.array(centres) - np.array(scene["patch"]) // 2


@pytest.mark.parametrize("name", SCENES)
def test_patches_lie_where_the_peers_do(peer, name):
    scene = SCENES[name]
    room = np.array(scene["volume"].shape) - np.array(scene["patch"])
    last = np.where(room >= 0, room, -(-room // 2))
    ours, theirs = (
        Counter(map(tuple, starts.tolist())) for starts in (_our_starts(scene), np.minimum(peer[name], last))
    )
    assert ours.keys() == theirs.keys()
    if len(ours) > 1:
        table = [[counts[place] for place in sorted(ours)] for counts in (ours, theirs)]
        assert stats.chi2_contingency(table).pvalue > SMALLEST_P


def test_the_same_samples_are_forced(peer):
    rows = iter(peer["forced"])
    for size in SIZES:
        for fraction in FRACTIONS:
            sampling, rng = Sampling(foreground_fraction=fraction), sample_rng(0, 0, 0, 0)
            forced = [wants_foreground(sampling, size, number, rng) for number in range(size)]
            assert forced == next(rows)[:size].tolist(), (size, fraction)


def test_odds_of_forced_samples_and_of_cases_are_the_peers(peer):
    sampling = Sampling(foreground_fraction=0.3, rounding="probabilistic")
    labels = LabelScheme(class_names=("background", "a"), class_values=(0, 1), num_entries=2)
    ours = [wants_foreground(sampling, 2, 0, sample_rng(0, 0, step, 0)) for step in range(COUNT)]
    table = [[sum(side), COUNT - sum(side)] for side in (ours, peer["share"].tolist())]
    assert stats.chi2_contingency(table).pvalue > SMALLEST_P
    cases = [TrainingCase(name, (9, 9, 9), (np.arange(5, dtype=np.int32),)) for name in CASES]
    sampler = _sampler(cases, labels, (8, 8, 8), sampling)
    drawn = Counter(CASES[draw_batch(sampler, (1, step))[0].case] for step in range(COUNT))
    theirs = Counter(peer["cases"].flatten().tolist())
    assert stats.chi2_contingency([[side[name] for name in CASES] for side in (drawn, theirs)]).pvalue > SMALLEST_P

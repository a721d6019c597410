"""Whole chains of augmentation against nnU-Net's: statistics of many patches with three channels and a cascade.

Runs where AUTOSEG_PEER_PYTHON names an interpreter that has nnU-Net.
"""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from autoseg.augmentation.policies import POLICIES
from autoseg.records.labels import LabelScheme
from autoseg.records.recipe import Mirroring, Recipe, Sampling
from autoseg.training.batches import Sampler, assemble, draw_batch, prepare_sample
from autoseg.training.source import Source, TrainingCase
from tests.differential.peer import run_peer

# Volume and patch have the same parity, so that the middle of one is that of the other.
COUNT = 600
SHAPES = {"volume": ((46, 46, 46), (20, 20, 16)), "slices": ((6, 46, 46), (6, 20, 20))}
LABELS = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=3)
# Of about 25 statistics a chain; 4.5 standard errors are exceeded by luck once in 6000 chains.
MOST_STANDARD_ERRORS, SMALLEST_P = 4.5, 1e-5


@pytest.fixture(scope="module", params=SHAPES)
def given(request):
    """A volume; slices are so few that they are turned in the plane."""
    rng, (shape, patch) = np.random.default_rng(3), SHAPES[request.param]
    smooth = [ndimage.gaussian_filter(rng.normal(size=shape), 3) for _ in range(3)]
    labels, previous = np.argmax(smooth, axis=0), np.argmax([np.roll(field, 2, 0) for field in smooth], axis=0)
    image = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), s) for s in (0.5, 1, 2)])
    image = image / image.std(axis=(1, 2, 3), keepdims=True) + 0.5 * labels
    return {
        "image": image.astype(np.float32),
        "maps": np.stack([labels, previous]).astype(np.int16),
        "patch": np.array(patch),
        "in_plane": np.array(request.param == "slices"),
        "count": np.array(COUNT),
    }


@pytest.fixture(scope="module")
def peer(given, tmp_path_factory):
    return run_peer("chains_peer.py", given, tmp_path_factory.mktemp("peer"))


def _ours(given, policy):
    image, maps = torch.from_numpy(given["image"]), torch.from_numpy(given["maps"])
    shape, patch = maps.shape[1:], tuple(int(n) for n in given["patch"])
    # One voxel to be drawn: the middle, of a case that has nothing but it.
    middle = np.array([np.ravel_multi_index([n // 2 for n in shape], shape)], dtype=np.int32)
    source = Source(
        (TrainingCase("one", shape, (middle, middle)),), 3, "memory", lambda _, box: (image[:, *box], maps[:, *box])
    )
    recipe = Recipe(
        augmentation=POLICIES[policy](False, patch),
        mirroring=Mirroring(),
        sampling=Sampling(foreground_fraction=1.0, rounding="probabilistic"),
    )
    sampler = Sampler(source, recipe, LABELS, patch, 1, 5, torch.device("cpu"), LABELS)
    images, labels = [], []
    for step in range(COUNT):
        place = (0, step)
        batch = assemble(sampler, [(draw, prepare_sample(sampler, draw)) for draw in draw_batch(sampler, place)])
        images.append(batch.images[0].numpy())
        labels.append(batch.labels[0].numpy())
    return np.stack(images), np.stack(labels)


def _statistics(images, labels):
    """Name -> one number a patch."""
    found = {f"label {k}": (labels == k).mean((1, 2, 3)) for k in (1, 2)}
    for number in range(3):
        channel = images[:, number].reshape(len(images), -1)
        found |= {f"mean {number}": channel.mean(1), f"deviation {number}": channel.std(1)}
        low, middle, high = np.quantile(channel, [0.05, 0.5, 0.95], axis=1)
        found |= {f"low {number}": low, f"middle {number}": middle, f"high {number}": high}
        found[f"roughness {number}"] = np.abs(np.diff(images[:, number], axis=-1)).mean((1, 2, 3))
    for number in (3, 4):  # the previous stage
        found[f"previous {number}"] = images[:, number].mean((1, 2, 3))
        edges = np.abs(np.diff(images[:, number], axis=-1))
        found[f"previous's surface {number}"] = edges.mean((1, 2, 3))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["nnunet", "da5"])
def test_chains_are_distributed_as_the_peers(given, peer, policy):
    images, labels = _ours(given, policy)
    assert images.shape == peer[f"{policy}_image"].shape
    ours, theirs = _statistics(images, labels), _statistics(peer[f"{policy}_image"], peer[f"{policy}_labels"])
    for name in ours:
        a, b = ours[name], theirs[name]
        error = np.sqrt(a.var() / len(a) + b.var() / len(b))
        assert abs(a.mean() - b.mean()) < MOST_STANDARD_ERRORS * error, f"{name}: {a.mean()} against {b.mean()}"
        assert stats.ks_2samp(a, b).pvalue > SMALLEST_P, f"{name} is distributed otherwise"

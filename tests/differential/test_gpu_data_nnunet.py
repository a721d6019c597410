"""What nnU-Net's trainer is given on a GPU machine (`benchmarks/gpu`), against its own preprocessing.

Runs where AUTOSEG_PEER_PYTHON names an interpreter that has nnU-Net.
"""

import json

import numpy as np
import pytest

from autoseg.preprocessing.prepare import crop_case, onto_grid
from tests.benchmarks.test_gpu import GPU, load_program
from tests.differential.peer import run_peer
from tests.preprocessing.cases import canonical_matrix, plan, volume

SPACING = (1.3, 1.0, 1.1)
"""Of the case; the plan's is 1 mm, so that it is resampled."""


def _case():
    """A ball of tissue in air with a hole of zeros, and labels of which one reaches out of it."""
    z, y, x = np.indices((26, 30, 28))
    far = np.sqrt((z - 13) ** 2 + (y - 15) ** 2 + (x - 12) ** 2)
    image = np.where(far < 10, np.random.default_rng(4).uniform(0.5, 2, (1, *far.shape)), 0).astype(np.float32)
    image[:, 12:14, 14:16, 11:13] = 0
    return image, (np.where(np.abs(far - 9) < 3, 1, 0) * (x > 12) + 2 * (far < 4)).astype(np.int16)


@pytest.mark.parametrize("masked", [False, True], ids=["normalised everywhere", "normalised inside the mask"])
def test_its_trainer_sees_what_its_own_preprocessing_leaves(tmp_path, monkeypatch, masked):
    monkeypatch.syspath_prepend(str(GPU))
    image, labels = _case()
    if masked:
        labels[(image[0] == 0)] = 0  # labelled voxels outside the mask are measured by nnU-Net, not by us
    chosen = plan(spacing_mm=(1.0, 1.0, 1.0), masked=masked)
    matrix, values = canonical_matrix(SPACING), np.array(chosen.labels.class_values)
    cropped = crop_case("x", volume(image, matrix), volume(values[labels][None], matrix), chosen)
    ready = onto_grid(cropped, chosen, "3d_fullres")
    content = {
        "configuration": chosen.configurations["3d_fullres"].model_dump(mode="json"),
        "intensities": {key: value.model_dump(mode="json") for key, value in chosen.intensities.items()},
        "class_names": chosen.labels.class_names,
        "channel_names": chosen.channel_names,
        "split": {"train": ["x"], "val": []},
    }
    given = {
        "content": np.array(json.dumps(content)),
        "image": ready.image,
        "labels": load_program("data").nnunet_labels(cropped, ready.meta),
        "raw_image": image,
        "raw_labels": labels,
        "spacing_mm": np.array(SPACING),
    }
    peer = run_peer("preprocessed_peer.py", given, tmp_path)
    assert set(np.unique(peer["labels"])) == {-1, 0, 1, 2}
    np.testing.assert_array_equal(peer["labels"], peer["own_labels"])
    np.testing.assert_allclose(peer["image"], peer["own_image"], atol=1e-4)
    for number in (1, 2):
        np.testing.assert_array_equal(peer[f"locations_{number}"], peer[f"own_locations_{number}"])

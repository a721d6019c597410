"""Zeros outside the nonzero mask after augmentation, against nnU-Net's crop and batchgeneratorsv2's transforms.

Runs where AUTOSEG_PEER_PYTHON names an interpreter that has nnU-Net.
"""

import numpy as np
import pytest
import torch

from autoseg.augmentation.draw import SpatialParameters, affine_matrix
from autoseg.augmentation.intensity import IntensityParameters
from autoseg.augmentation.spatial import outside_label
from autoseg.preprocessing import store
from autoseg.records.recipe import Augmentation, CascadeAugmentation, Mirroring, Recipe
from autoseg.storage.arrays import write_array
from autoseg.training.batches import Draw, Sampler, assemble, read_draw
from autoseg.training.source import open_source
from autoseg.training.tiers import held_types
from tests.differential.peer import run_peer
from tests.preprocessing.cases import canonical_matrix, configuration, plan, prepare_case, volume

# The case is cropped to 19 voxels an axis: with the same parity the middle of volume and patch is the same.
SPACING, SHAPE, PATCH = (1.0, 1.0, 1.0), (28, 30, 26), (21, 25, 17)
ANGLES, SCALE, OFFSET = (23.0, -11.0, 28.0), 1.27, 0.5


def _case():
    """A ball of tissue in air with a hole of zeros, a label that reaches out of it, and a coarse segmentation."""
    rng = np.random.default_rng(4)
    z, y, x = np.indices(SHAPE)
    far = np.sqrt((z - 13) ** 2 + (y - 15) ** 2 + (x - 12) ** 2)
    image = np.where(far < 10, rng.uniform(0.5, 2, (2, *SHAPE)), 0).astype(np.float32)
    image[:, 12:14, 14:16, 11:13] = 0
    labels = np.where(np.abs(far - 9) < 3, 1, 0) * (x > 12) + 2 * (far < 4)
    return image, labels.astype(np.int16), np.roll(labels, 2, axis=1).astype(np.int16)


def test_masked_patches_equal_the_peers(tmp_path):
    image, labels, previous = _case()
    chosen = plan(spacing_mm=SPACING, normalization=("zscore", "zscore"))
    masked = configuration(SPACING, ("zscore", "none")).model_copy(update={"use_mask_for_norm": (True, False)})
    chosen = chosen.model_copy(update={"configurations": {"3d_fullres": masked}})
    matrix, values = canonical_matrix(SPACING), np.array(chosen.labels.class_values)
    label = volume(values[labels][None], matrix)
    ready = prepare_case("x", volume(image, matrix), label, chosen, "3d_fullres")
    given = {
        "image": image,
        "labels": labels,
        "previous": previous,
        "normalised": ready.image,
        "patch": np.array(PATCH),
        "angles": np.deg2rad(ANGLES),
        "scale": np.array(SCALE),
        "offset": np.array(OFFSET, dtype=np.float32),
    }
    peer = run_peer("masking_peer.py", given, tmp_path)
    np.testing.assert_array_equal(ready.labels, peer["cropped"])
    assert (ready.labels == -1).any()

    stored = store.write_case(tmp_path, ready.image, ready.labels, ready.locations, ready.meta, (8, 8, 8))
    store.write_manifest(tmp_path, {}, [stored])
    (z, y, x) = ready.meta.crop
    write_array(tmp_path / "previous.b2nd", previous[slice(*z), slice(*y), slice(*x)], (8, 8, 8))
    classes = chosen.labels.num_classes
    held = held_types(masked.normalization, classes, outside_label(classes))
    manifest, known = store.open_store(tmp_path), {"x": tmp_path / "previous.b2nd"}
    source = open_source(tmp_path, manifest, ["x"], 2, torch.device("cpu"), known, held=held)
    quiet = CascadeAugmentation(morphology_probability=0, drop_probability=0)
    recipe = Recipe(augmentation=Augmentation(cascade=quiet), mirroring=Mirroring(axes=()))

    def offset(images, maps, cases, place):
        assert {-1} == set(np.unique(maps)) - {0, 1, 2}
        return images + OFFSET, maps

    sampler = Sampler(
        source, recipe, chosen.labels, PATCH, 1, 0, torch.device("cpu"), chosen.labels, offset, masked_channels=(0,)
    )
    centre = tuple(n // 2 for n in ready.labels.shape)
    spatial = SpatialParameters(matrix=affine_matrix(ANGLES, SCALE, in_plane=False))
    draw = Draw(0, centre, spatial, IntensityParameters(), np.random.default_rng(0))
    batch = assemble(sampler, (0, 0), [(draw, read_draw(sampler, draw))])

    ours = batch.images[0].numpy()
    same = batch.labels[0].numpy() == peer["maps"][0]
    assert same.mean() > 0.998  # the peer scores labels in half precision: near ties fall otherwise now and then
    np.testing.assert_allclose(ours[1], peer["image"][1], atol=5e-5)
    zero = peer["image"][0] == 0
    assert 0.2 < zero.mean() < 0.8
    assert ((ours[0] == 0) == zero).mean() > 0.998
    both = (ours[0] == 0) == zero
    np.testing.assert_allclose(ours[0][both], peer["image"][0][both], atol=5e-5)
    for number in (1, 2):
        assert ((ours[1 + number] > 0) == (peer["maps"][1] == number)).mean() > 0.998


@pytest.mark.parametrize("channel", [0, 1])
def test_where_nothing_is_masked_air_is_background(channel):
    image, labels, _ = _case()
    chosen = plan(spacing_mm=SPACING, normalization=("zscore", "zscore"))
    values = np.array(chosen.labels.class_values)
    matrix = canonical_matrix(SPACING)
    ready = prepare_case("x", volume(image, matrix), volume(values[labels][None], matrix), chosen, "3d_fullres")
    assert ready.labels.min() == 0
    assert ready.image[channel, 0, 0, 0] != 0

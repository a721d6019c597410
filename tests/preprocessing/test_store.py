import subprocess
import sys

import numpy as np
import pytest

from autoseg.errors import DataError, UsageError
from autoseg.preprocessing import store
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint
from tests.preprocessing.cases import canonical_matrix, plan, prepare_case, volume


def prepared():
    rng = np.random.default_rng(0)
    image = volume(rng.integers(1, 99, (1, 6, 7, 8)).astype(np.int16), canonical_matrix((2.0, 1.0, 1.0)))
    label = volume(rng.choice([0, 3, 700], (1, 6, 7, 8)), canonical_matrix((2.0, 1.0, 1.0)))
    return prepare_case("x", image, label, plan(), "3d_fullres")


def written(folder):
    ready = prepared()
    stored = store.write_case(folder, ready.image, ready.labels, ready.locations, ready.meta, (4, 4, 4))
    store.write_manifest(folder, {"a": "b"}, [stored])
    return ready


def fingerprint(digest: str = "1") -> Fingerprint:
    case = CaseFingerprint(
        shape=(6, 7, 8),
        shape_after_crop=(6, 7, 8),
        spacing_mm=(2.0, 1.0, 1.0),
        relative_size_after_crop=1.0,
        image_sha256=(digest,),
        label_sha256="2",
        voxels_per_class=(1, 1, 1),
        components_per_class=(0, 1, 1),
    )
    return Fingerprint(
        spacings=(case.spacing_mm,),
        shapes_after_crop=(case.shape,),
        foreground_intensity_properties_per_channel={},
        median_relative_size_after_cropping=1.0,
        cases={"x": case},
    )


def test_round_trip(tmp_path):
    ready = written(tmp_path)
    manifest = store.open_store(tmp_path)
    assert manifest.cases["x"] == ready.meta
    np.testing.assert_array_equal(store.read_image(tmp_path, "x"), ready.image)
    labels = store.read_labels(tmp_path, "x")
    np.testing.assert_array_equal(labels, ready.labels)
    assert labels.dtype == np.uint8
    box = (slice(1, 5), slice(0, 3), slice(6, 8))
    np.testing.assert_array_equal(store.read_image(tmp_path, "x", box), ready.image[(slice(None), *box)])
    np.testing.assert_array_equal(store.read_labels(tmp_path, "x", box), ready.labels[box])
    for target, found in enumerate(store.read_locations(tmp_path, "x")):
        np.testing.assert_array_equal(found, ready.locations[target])
        assert found.dtype == np.int32


@pytest.mark.parametrize("name", ["x.image.b2nd", "x.labels.b2nd", "x.locations.safetensors"])
def test_a_flipped_bit_is_found(tmp_path, name):
    written(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-3] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        store.open_store(tmp_path)


def test_missing_parts(tmp_path):
    with pytest.raises(UsageError, match="autoseg preprocess"):
        store.open_store(tmp_path)
    written(tmp_path)
    assert store.find_case(tmp_path, "x") is not None
    (tmp_path / "x.labels.b2nd").unlink()
    assert store.find_case(tmp_path, "x") is None
    with pytest.raises(DataError, match=r"x\.labels\.b2nd"):
        store.open_store(tmp_path)
    (tmp_path / "x.locations.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot be read"):
        store.read_locations(tmp_path, "x")


def test_voxels_outside_the_mask_are_background_for_whoever_does_not_ask(tmp_path):
    ready = prepared()
    marked = ready.labels.copy()
    marked[0, 0, :2] = -1
    store.write_case(tmp_path, ready.image, marked, ready.locations, ready.meta, (4, 4, 4))
    box = (slice(0, 1), slice(0, 1), slice(0, 3))
    np.testing.assert_array_equal(store.read_labels(tmp_path, "x"), np.maximum(marked, 0))
    np.testing.assert_array_equal(store.read_marked_labels(tmp_path, "x", box), marked[box])


def test_digest_follows_what_decides_and_nothing_else():
    base = store.digest(plan(), "3d_fullres", fingerprint())
    same = plan().model_copy(update={"name": "other", "reasons": {"a": "b"}, "intensities": {}})
    assert store.digest(same, "3d_fullres", fingerprint()) == base
    assert store.digest(plan(), "3d_cascade_fullres", fingerprint()) == base  # only the patch differs
    changed = [
        (plan(spacing_mm=(2.0, 1.0, 1.1)), fingerprint()),
        (plan(orientation="stored"), fingerprint()),
        (plan(transpose=(1, 0, 2)), fingerprint()),
        (plan(normalization=("none",)), fingerprint()),
        (plan(masked=True), fingerprint()),
        (plan(normalization=("ct",), masked=True), fingerprint()),
        (plan(), fingerprint("9")),
    ]
    assert len({base, *(store.digest(p, "3d_fullres", f) for p, f in changed)}) == len(changed) + 1
    # Folders without a mask keep the name that they had before labels were marked, the others are made anew.
    assert "outside" in store.decided_by(plan(masked=True), "3d_fullres", fingerprint())
    for unmarked in (plan(), plan(normalization=("ct",), masked=True)):
        assert "outside" not in store.decided_by(unmarked, "3d_fullres", fingerprint())
    ct = plan(normalization=("ct",))
    assert store.digest(ct, "3d_fullres", fingerprint()) != store.digest(
        ct.model_copy(update={"intensities": {}}), "3d_fullres", fingerprint()
    )


def test_needs_no_image_library():
    code = """
import sys, autoseg.preprocessing.store
print([m for m in ("SimpleITK", "nibabel", "PIL", "tifffile", "skimage", "sklearn", "pandas") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

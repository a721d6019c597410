"""nnU-Net's own choice of post-processing, imported: what is removed from its predictions is what nnU-Net removes."""

from pathlib import Path

import numpy as np
import pytest

from autoseg.images.reading import read_label
from autoseg.images.writing import write_label
from autoseg.interop.nnunet_postprocessing import import_postprocessing
from autoseg.postprocessing.rules import apply_rule
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme
from tests.differential import nnunet_models as nn
from tests.interop.models import LABELS

NESTED = LabelScheme(class_names=("background", "a", "b", "c"), class_values=(0, 1, 2, 3), num_entries=5)
CASES = {"labels": (nn.LABELS, LABELS, ()), "regions": (nn.REGIONS, NESTED, (1, 2, 3))}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(CASES))
def test_the_same_components_are_removed(kind: str, tmp_path: Path) -> None:
    given, labels, order = CASES[kind]
    model = tmp_path / "model"
    predictions, references = model / "crossval_results_folds_0_1", tmp_path / "references"
    write_case(predictions, references, labels.num_classes)
    network = nn.architecture("PlainConvUNet", *nn.ISOTROPIC)
    plans = nn.plans({"3d_fullres": nn.configuration((1, 1, 1), (8, 8, 8), network)})
    job = {"do": "postprocess", "predictions": str(predictions), "references": str(references), "plans": plans}
    nn.ask_peer([{**job, "dataset": nn.dataset(given, order=order)}], tmp_path)
    rule = import_postprocessing(model, ("0", "1"), labels)
    assert len(rule.keep_largest_together) > 1
    found = read_label(predictions / "case.nii.gz").array[0]
    expected = read_label(predictions / "postprocessed" / "case.nii.gz").array[0]
    assert (found != expected).any()
    np.testing.assert_array_equal(apply_rule(found.astype(np.int16), rule), expected)


def write_case(predictions: Path, references: Path, num_classes: int) -> None:
    """Nested boxes, of which the prediction has strays: beside all of it, and of the last class inside the first."""
    truth = np.zeros((28, 28, 40), np.int16)
    for number in range(1, num_classes):
        truth[(slice(4 * number - 3, 31 - 4 * number),) * 3] = number
    found = truth.copy()
    found[1:4, 1:5, 30:33] = 1
    found[8:10, 8:10, 30:32] = num_classes - 1
    found[1:3, 1:3, 1:3] = num_classes - 1
    geometry = Geometry(shape=truth.shape, spacing_mm=(1, 1, 1), affine=((0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0)))
    for folder, classes in ((predictions, found), (references, truth)):
        folder.mkdir(parents=True)
        write_label(folder / "case.nii.gz", classes, geometry)

"""Published values: found for the Decathlon's folders only, and equal to the per-case values they summarise."""

import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.reporting.published import published_dice


def test_decathlon_names_in_either_layout_are_known() -> None:
    assert published_dice("Task04_Hippocampus", 2)["nnU-Net v2"] == (0.8985, 0.8823)
    assert published_dice("Dataset004_Hippocampus", 2) == published_dice("Task04_Hippocampus", 2)


@pytest.mark.parametrize("name", ["Hippocampus", "Task14_Hippocampus", "Task04_HippocampusSubset", "Task90_Liver"])
def test_other_datasets_have_no_published_values(name: str) -> None:
    assert published_dice(name, 2) == {}


def test_another_number_of_classes_is_another_dataset() -> None:
    assert published_dice("Task03_Liver", 1) == {}


@pytest.mark.parametrize("name", ["BrainTumour", "Liver", "Hippocampus", "Prostate", "Pancreas", "Spleen"])
def test_the_table_agrees_with_the_published_cases(shared_reference: Path, name: str) -> None:
    (file,) = (shared_reference / "nnunet_percase_dice").glob(f"Dataset*_{name}.json")
    content = json.loads(file.read_text())["dice"]
    methods = {"nnunetv2_default": "nnU-Net v2", "nnunetv2_resencM": "ResEnc M", "nnunetv2_resencL": "ResEnc L"}
    found = 0
    for method, title in methods.items():
        if method in content:
            values = np.array(list(content[method].values()), dtype=float)
            expected = np.nanmean(values, axis=0)
            assert np.allclose(published_dice(file.stem, values.shape[1])[title], expected, atol=6e-5)
            found += 1
    assert found >= 2

"""Other data than phantoms through the command line: pictures, regions, a cascade, one case, flipped labels.

Every dataset is two boxes whose brightness tells their class; networks are as small as they can be.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from autoseg.cli.main import main
from autoseg.selection.comparison import MEAN

Array = npt.NDArray[Any]

QUICK = ["--device", "cpu", "-q", "--workers", "1"]


def tiny(*names: str) -> list[str]:
    """Settings that make configurations small: patches of 32 x 32 or 16 x 16 x 16."""
    settings = []
    for name in names:
        ones, twos, threes, patch = ("[1,1]", "[2,2]", "[3,3]", "[32,32]")
        if name != "2d":
            ones, twos, threes, patch = ("[1,1,1]", "[2,2,2]", "[3,3,3]", "[16,16,16]")
        settings += [
            f"{name}.network.strides=[{ones},{twos}]",
            f"{name}.network.kernel_sizes=[{threes},{threes}]",
            f"{name}.network.features_per_stage=[4,4]",
            f"{name}.network.blocks_per_stage=[1,1]",
            f"{name}.network.decoder_blocks_per_stage=[1]",
            f"{name}.patch_size={patch}",
            f"{name}.batch_size=2",
            f"{name}.recipe.mirroring.in_prediction=false",
            f"{name}.recipe.precision=float32",  # else the faster arithmetic of the moment is taken
        ]
    return [part for setting in settings for part in ("--set", setting)]


def two_boxes(shape: Sequence[int], seed: int) -> tuple[Array, Array]:
    """Classes 0, 1, 2 and an image of them, both of `shape`; the boxes lie in one corner, so no flip keeps them."""
    rng = np.random.default_rng(seed)
    classes = np.zeros(shape, np.uint8)
    starts = [int(rng.integers(2, max(3, size // 8))) for size in shape]
    for number in (1, 2):
        box = [slice(start, start + size // 2 // number) for start, size in zip(starts, shape, strict=True)]
        classes[tuple(box)] = number
    image = 20 + 90 * classes + rng.normal(0, 5, shape)
    return classes, np.clip(np.rint(image), 0, 255)


def save_nifti(path: Path, array: Array, affine: Array, dtype: type = np.int16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.astype(dtype), affine), path)


def describe(folder: Path, **content: Any) -> None:
    (folder / "dataset.json").write_text(json.dumps(content))


def decathlon(folder: Path, shape: tuple[int, int, int], num_training: int, num_test: int = 1) -> Path:
    """A dataset of classes 0, 1, 2 in Decathlon's layout; arrays x y z."""
    names = [f"c{number}" for number in range(num_training + num_test)]
    for number, name in enumerate(names):
        classes, image = two_boxes(shape, number)
        part = "Tr" if number < num_training else "Ts"
        save_nifti(folder / f"images{part}" / f"{name}.nii.gz", image, np.eye(4))
        if part == "Tr":
            save_nifti(folder / "labelsTr" / f"{name}.nii.gz", classes, np.eye(4), np.uint8)
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names[:num_training]]
    test = [f"./imagesTs/{n}.nii.gz" for n in names[num_training:]]
    labels = {"0": "background", "1": "outer", "2": "inner"}
    describe(folder, modality={"0": "MRI"}, labels=labels, training=training, test=test)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_colour_pictures_in_nnunets_layout(tmp_path: Path) -> None:
    folder = tmp_path / "Pictures"
    values = np.array([0, 3, 255], np.uint8)
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True)
    for number in range(5):
        classes, image = two_boxes((40, 48), number)
        picture = np.stack([image, 255 - image, image[::-1]], axis=-1).astype(np.uint8)
        Image.fromarray(picture).save(folder / ("imagesTr" if number < 4 else "imagesTs") / f"p{number}_0000.png")
        if number < 4:
            Image.fromarray(values[classes]).save(folder / "labelsTr" / f"p{number}.png")
    channels = {"0": "R", "1": "G", "2": "B"}
    labels = {"background": 0, "outer": 3, "inner": 255}
    describe(folder, channel_names=channels, labels=labels, numTraining=4, file_ending=".png")

    arguments = ["run", str(folder), "--work", str(tmp_path / "work"), "--preset", "small", "--folds", "2", *QUICK]
    assert main([*arguments, *tiny("2d"), "--epochs", "1", "--iterations", "40"]) == 0
    done = tmp_path / "work" / "Pictures"
    predictions = sorted((done / "predictions").glob("*.png"))
    assert [path.name for path in predictions] == ["p4.png"]
    held_out = list(done.glob("models/small/2d/fold_*/validation/*.png"))
    assert sorted(path.name for path in held_out) == [f"p{number}.png" for number in range(4)]
    found: set[int] = set()
    for path in (*predictions, *held_out):
        segmentation = np.asarray(Image.open(path))
        assert segmentation.shape == (40, 48)
        found |= set(np.unique(segmentation).tolist())
    assert {0} < found <= {0, 3, 255}
    assert (done / "report" / "index.html").is_file()


def test_regions_with_an_ignored_value_and_two_channels_in_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "Regions"
    values = np.array([0, 4, 7], np.uint8)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    for number in range(5):
        classes, image = two_boxes((32, 28, 12), number)
        label = values[classes]
        label[:, :3] = 9
        both = np.stack([image, 255 - image], axis=-1)
        save_nifti(folder / ("imagesTr" if number < 4 else "imagesTs") / f"r{number}.nii.gz", both, affine)
        if number < 4:
            save_nifti(folder / "labelsTr" / f"r{number}.nii.gz", label, affine, np.uint8)
    training = [{"image": f"./imagesTr/r{n}.nii.gz", "label": f"./labelsTr/r{n}.nii.gz"} for n in range(4)]
    describe(
        folder,
        modality={"0": "T1", "1": "T2"},
        labels={"background": 0, "whole": [4, 7], "core": [7], "ignore": 9},
        regions_class_order=[4, 7],
        training=training,
        test=["./imagesTs/r4.nii.gz"],
    )
    arguments = ["run", str(folder), "--work", str(tmp_path / "work"), "--preset", "small", "--folds", "2", *QUICK]
    assert main([*arguments, "-c", "2d", *tiny("2d"), "--epochs", "1", "--iterations", "30"]) == 0
    done = tmp_path / "work" / "Regions"
    files = [done / "predictions" / "r4.nii.gz", *done.glob("models/small/2d/fold_*/validation/*.nii.gz")]
    assert len(files) == 5
    found = set()
    for path in files:
        segmentation = nibabel.load(path)
        assert segmentation.shape == (32, 28, 12)
        found |= set(np.unique(np.asanyarray(segmentation.dataobj)).tolist())
    assert {0} < found <= {0, 4, 7}
    evaluation = read(done / "evaluation.json")
    assert set(evaluation["targets"]) == {"whole", "core"}


def test_a_cascade_is_trained_selected_and_predicts(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "Cascade", (48, 48, 48), num_training=2)
    work = ["--work", str(tmp_path / "work"), "--device", "cpu", "-q"]
    cascade = ("3d_lowres", "3d_cascade_fullres")
    planned = ["plan_and_preprocess", str(folder), "--preset", "nnunet", "--gpu-memory", "0.02", "--folds", "2"]
    chosen = [part for name in cascade for part in ("-c", name)]
    assert main([*planned, *chosen, *tiny(*cascade), *work]) == 0
    done = tmp_path / "work" / "Cascade"
    configurations = read(done / "plans" / "nnunet.json")["configurations"]
    assert configurations["3d_cascade_fullres"]["previous_stage"] == "3d_lowres"
    assert configurations["3d_lowres"]["spacing_mm"] > configurations["3d_fullres"]["spacing_mm"]
    for name in cascade:
        assert main(["train", "Cascade", name, "--epochs", "1", "--iterations", "1", *work]) == 0
    assert main(["select", "Cascade", *work]) == 0
    assert {tuple(c["configurations"]) for c in read(done / "selection.json")["candidates"]} >= {
        (name,) for name in cascade
    }
    model = done / "models" / "nnunet" / "3d_cascade_fullres"
    out = tmp_path / "out"
    for where in (["Cascade"], ["--model", str(model)]):
        images = str(folder / "imagesTs")
        assert main(["predict", "-i", images, "-o", str(out / where[0].strip("-")), *where, *work]) == 0
    for made in out.glob("*/*.nii.gz"):
        assert nibabel.load(made).shape == (48, 48, 48)
    assert len(list(out.glob("*/c2.nii.gz"))) == 2


def test_a_single_training_case(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "Single", (32, 32, 8), num_training=1)
    arguments = ["run", str(folder), "--work", str(tmp_path / "work"), "--preset", "small", "-c", "2d", *QUICK]
    assert main([*arguments, *tiny("2d"), "--epochs", "1", "--iterations", "2"]) == 0
    done = tmp_path / "work" / "Single"
    assert (done / "report" / "index.html").is_file()
    assert (done / "models" / "small" / "2d" / "fold_all" / "fold.json").is_file()
    assert nibabel.load(done / "predictions" / "c1.nii.gz").shape == (32, 32, 8)


def test_labels_stored_in_another_order_score_the_same(tmp_path: Path) -> None:
    straight = decathlon(tmp_path / "Straight", (32, 32, 8), num_training=4)
    flipped = decathlon(tmp_path / "Flipped", (32, 32, 8), num_training=4)
    for path in sorted((flipped / "labelsTr").glob("*.nii.gz")):
        label = nibabel.load(path)
        # Index i of the flipped x and y axes is 31 - i of the straight ones, at the same place in the patient.
        affine = np.diag([-1.0, -1.0, 1.0, 1.0])
        affine[:2, 3] = 31
        save_nifti(path, np.asanyarray(label.dataobj)[::-1, ::-1], affine, np.uint8)
    work = ["--work", str(tmp_path / "work"), "--preset", "small", "-c", "2d", "--device", "cpu", "-q"]
    dice: dict[str, Any] = {}
    for folder in (straight, flipped):
        length = ["--epochs", "1", "--iterations", "60", "--set", "2d.recipe.optimizer.learning_rate=0.02"]
        assert main(["run", str(folder), "--folds", "2", "--workers", "1", *work, *tiny("2d"), *length]) == 0
        done = tmp_path / "work" / folder.name
        out = tmp_path / f"benchmark_{folder.name}"
        assert main(["benchmark", str(folder), "--budget", "1s", "-o", str(out), *work]) == 0
        rows = {row["target"]: row["dice"]["mean"] for row in read(out / "benchmark.json")["rows"]}
        folds = [read(path)["mean_dice"] for path in sorted(done.glob("models/small/2d/fold_*/fold.json"))]
        dice[folder.name] = {"benchmark": rows, "folds": folds, "cases": read(done / "evaluation.json")["cases"]}
    assert dice["Flipped"] == dice["Straight"]
    # Only a segmentation that found the boxes tells the two orders apart.
    assert dice["Straight"]["benchmark"]["outer"] > 0.5
    assert dice["Straight"]["benchmark"][MEAN] == pytest.approx(np.mean(dice["Straight"]["folds"]), abs=1e-6)

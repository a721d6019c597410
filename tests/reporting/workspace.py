"""A workspace as a finished cross-validation leaves it, made of phantoms and predictions with known faults."""

import json
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from autoseg.datasets.phantom_shapes import CLASSES
from autoseg.datasets.phantoms import make_phantom
from autoseg.images.reading import read_image, read_label
from autoseg.images.writing import write_image, write_label
from autoseg.metrics.build import score_case, summarize
from autoseg.metrics.statistics import aggregate
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Case, Dataset, Fold, Folds
from autoseg.records.fingerprint import CaseFingerprint, ClassStatistics, Fingerprint, IntensityStatistics
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration, NetworkSpec, Plan
from autoseg.records.results import Candidate, EpochRecord, PostprocessingRule, Selection, TrainedFold
from autoseg.records.workspace import Paths
from autoseg.spatial.orientation import orientation_code

LABELS = LabelScheme(class_names=CLASSES, class_values=tuple(range(len(CLASSES))), num_entries=len(CLASSES))
CONFIGURATIONS = ("2d", "3d_fullres")
INTENSITIES = {
    "0": IntensityStatistics(
        mean=110, median=108, std=40, min=-80, max=260, percentile_00_5=-20, percentile_99_5=220
    )
}  # fmt: skip


def make_dataset(root: Path, num_cases: int, name: str = "Task90_Phantoms") -> Dataset:
    """Write `num_cases` phantoms and describe them."""
    cases = []
    for number in range(num_cases):
        image, classes, geometry = make_phantom(0, number)
        case = f"phantom_{number:03d}"
        write_image(root / "imagesTr" / f"{case}.nii.gz", image[None], geometry)
        write_label(root / "labelsTr" / f"{case}.nii.gz", classes, geometry)
        cases.append(Case(id=case, images=(f"imagesTr/{case}.nii.gz",), label=f"labelsTr/{case}.nii.gz"))
    return Dataset(
        name=name,
        root=str(root),
        layout="decathlon",
        channel_names=("CT",),
        labels=LABELS,
        file_ending=".nii.gz",
        training=tuple(cases),
        test=(Case(id="phantom_900", images=("imagesTs/phantom_900.nii.gz",)),),
    )


def flip_label(folder: Path, case: str) -> None:
    """Store a label in another voxel order at the same place, as some tools do."""
    label = nibabel.load(folder / "data" / "labelsTr" / f"{case}.nii.gz")
    path = folder / "data" / "labelsTr" / f"{case}.nii.gz"
    nibabel.save(label.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]])), path)


def change_format(folder: Path, paths: Paths, case: str, ending: str) -> None:
    """Give one image, and so its segmentations, another format than the others have."""
    image = read_image([folder / "data" / "imagesTr" / f"{case}.nii.gz"])
    write_image(folder / "data" / "imagesTr" / f"{case}{ending}", image.array, image.geometry)
    for old in paths.folder.glob(f"models/*/*/fold_*/validation/{case}.nii.gz"):
        write_label(old.with_name(case + ending), read_label(old).array[0], image.geometry)
        old.unlink()
    dataset = read_record(paths.dataset, Dataset)
    changed = [
        c.model_copy(update={"images": (f"imagesTr/{case}{ending}",)}) if c.id == case else c for c in dataset.training
    ]
    write_record(paths.dataset, dataset.model_copy(update={"training": tuple(changed)}))


def make_fingerprint(dataset: Dataset) -> Fingerprint:
    """Measurements as the stage before would make them, simple ones."""
    grids = [make_phantom(0, number)[2] for number in range(dataset.num_training)]
    return Fingerprint(
        spacings=tuple(grid.spacing_mm for grid in grids),
        shapes_after_crop=tuple(grid.shape for grid in grids),
        foreground_intensity_properties_per_channel=INTENSITIES,
        median_relative_size_after_cropping=1.0,
        cases={
            case.id: CaseFingerprint(
                shape=grid.shape,
                shape_after_crop=grid.shape,
                spacing_mm=grid.spacing_mm,
                orientation=orientation_code(grid.matrix),
                relative_size_after_crop=1.0,
                image_sha256=("0",),
                label_sha256="0",
                voxels_per_class=(1,) * len(CLASSES),
                components_per_class=(0, 1, 1, 1, 2),
            )
            for case, grid in zip(dataset.training, grids, strict=True)
        },
        class_imbalance=tuple(
            ClassStatistics(
                name=class_name,
                fraction_of_foreground=fraction,
                presence=presence,
                median_volume_mm3=volume,
                median_components=components,
            )
            for class_name, fraction, presence, volume, components in (
                ("liver", 0.77, 1.0, 28000, 1),
                ("left kidney", 0.09, 1.0, 3300, 1),
                ("right kidney", 0.09, 1.0, 3400, 1),
                ("lesion", 0.05, 0.75, 1900, 2),
            )
        ),
    )


def make_plan(dataset: Dataset) -> Plan:
    """A small plan with a 2d and a 3d configuration."""
    configurations = {}
    for name, dims in (("2d", 2), ("3d_fullres", 3)):
        network = NetworkSpec(
            architecture="plain_unet",
            features_per_stage=(16, 32),
            strides=((1,) * dims, (2,) * dims),
            kernel_sizes=((3,) * dims,) * 2,
            blocks_per_stage=(2, 2),
            decoder_blocks_per_stage=(2,),
        )
        configurations[name] = Configuration(
            spacing_mm=(3.0, 1.5, 1.5)[-dims:],
            patch_size=(24, 64, 64)[-dims:],
            batch_size=2,
            median_shape=(28, 69, 74),
            normalization=("ct",),
            use_mask_for_norm=(False,),
            batch_dice=False,
            network=network,
        )
    return Plan(
        name="small",
        preset="small",
        dataset=dataset.name,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        orientation="canonical",
        transpose=(0, 1, 2),
        intensities=INTENSITIES,
        original_median_spacing_mm=(3.0, 1.5, 1.5),
        configurations=configurations,
        reasons={"3d_fullres.batch_size": "as large as two cores train in the time"},
        planned_for="cpu",
    )


def flawed(classes: np.ndarray, geometry: Geometry, number: int) -> np.ndarray:
    """A prediction with a fault that grows with the case's number: organs eroded, one lesion invented."""
    predicted = classes.copy()
    for label in range(1, len(CLASSES)):
        mask = classes == label
        if number:
            kept = ndimage.binary_erosion(mask, iterations=1 + number // 3)
            predicted[mask & ~kept] = 0
    predicted[: 1 + number, :3, :4] = 4
    return predicted


def finish_training(paths: Paths, dataset: Dataset, plan: Plan) -> None:
    """Leave two folds a configuration behind: records, histories, segmentations, scores."""
    cases = [case.id for case in dataset.training]
    for position, configuration in enumerate(CONFIGURATIONS):
        for fold in range(2):
            folder, held_out = paths.fold(plan.name, configuration, str(fold)), cases[fold::2]
            scores = {}
            for case in held_out:
                number = cases.index(case)
                _, classes, geometry = make_phantom(0, number)
                predicted = flawed(classes, geometry, number + 1 - position)
                write_label(folder / "validation" / f"{case}.nii.gz", predicted, geometry)
                scores[case] = score_case(predicted, classes, LABELS, geometry)
            evaluation = summarize(f"{configuration} fold {fold}", scores)
            write_record(folder / "validation.json", evaluation)
            history = [
                EpochRecord(
                    epoch=e, steps=10 * e + 10, train_loss=1.2 / (e + 1 + fold), learning_rate=0.01, seconds=2.5
                )
                for e in range(20)
            ]
            lines = [json.dumps(record.model_dump(mode="json")) for record in history]
            (folder / "history.jsonl").write_text("\n".join(lines) + "\n")
            trained = TrainedFold(
                plan=plan.name,
                configuration=configuration,
                fold=str(fold),
                train_cases=tuple(cases[1 - fold :: 2]),
                validation_cases=tuple(held_out),
                epochs=20,
                iterations_per_epoch=10,
                seconds=50.0,
                num_parameters=1_234_567,
                device="cpu (2 threads)",
                mean_dice=evaluation.foreground_mean["dice"].mean,
            )
            write_record(folder / "fold.json", trained)


def make_workspace(folder: Path, num_cases: int = 4) -> Paths:
    """The whole workspace, every stage done but the prediction of the test case."""
    dataset = make_dataset(folder / "data", num_cases)
    paths = Paths(folder=folder / "work" / dataset.name)
    plan = make_plan(dataset)
    ids = [case.id for case in dataset.training]
    halves = (ids[0::2], ids[1::2])
    folds = tuple(Fold(train=tuple(halves[1 - k]), validation=tuple(halves[k])) for k in range(2))
    write_record(paths.dataset, dataset)
    write_record(paths.fingerprint, make_fingerprint(dataset))
    write_record(paths.folds, Folds(folds=folds, source="kfold"))
    write_record(paths.plan(plan.name), plan)
    finish_training(paths, dataset, plan)
    names = [target.name for target in LABELS.targets]
    candidates = tuple(
        Candidate(configurations=c, dice=aggregate([v, v + 0.1]), targets={n: aggregate([v, v + 0.1]) for n in names})
        for c, v in ((("3d_fullres",), 0.8), (("2d", "3d_fullres"), 0.79), (("2d",), 0.7))
    )
    folds_used = {"3d_fullres": ("0", "1")}
    write_record(
        paths.selection,
        Selection(plan=plan.name, configurations=("3d_fullres",), folds=folds_used, candidates=candidates),
    )
    reasons = ("largest component of liver: Dice 0.912 -> 0.915, accepted",)
    write_record(paths.postprocessing, PostprocessingRule(keep_largest=(1,), reasons=reasons))
    return paths

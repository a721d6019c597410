"""Small plans and volumes for the tests of preprocessing."""

import numpy as np

from autoseg.images.volume import Volume
from autoseg.preprocessing.prepare import Prepared, crop_case, onto_grid
from autoseg.records.fingerprint import IntensityStatistics
from autoseg.records.geometry import Geometry, affine_rows
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.plan import Configuration, NetworkSpec, Plan
from autoseg.spatial.orientation import Turn, turn, turned

LABELS = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 3, 700), num_entries=3)
REGIONS = LabelScheme(
    class_names=("background", "edema", "core"),
    class_values=(0, 1, 2),
    regions=(Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
    region_order=(1, 2),
    ignore_value=9,
    num_entries=4,
)
STATISTICS = IntensityStatistics(
    mean=40.0, median=38.0, std=20.0, min=-50.0, max=300.0, percentile_00_5=-20.0, percentile_99_5=180.0
)


def prepare_case(case_id: str, image: Volume, label: Volume | None, plan: Plan, configuration: str) -> Prepared:
    """One case on the grid of one configuration."""
    return onto_grid(crop_case(case_id, image, label, plan), plan, configuration)


def network(dims: int) -> NetworkSpec:
    return NetworkSpec(
        architecture="plain_unet",
        features_per_stage=(4,),
        strides=((1,) * dims,),
        kernel_sizes=((3,) * dims,),
        blocks_per_stage=(1,),
        decoder_blocks_per_stage=(),
    )


def configuration(spacing_mm, normalization=("zscore",), masked=False) -> Configuration:
    dims = len(spacing_mm)
    return Configuration(
        spacing_mm=spacing_mm,
        patch_size=(4,) * dims,
        batch_size=2,
        median_shape=(8, 8, 8),
        normalization=normalization,
        use_mask_for_norm=(masked,) * len(normalization),
        batch_dice=False,
        network=network(dims),
    )


def plan(
    spacing_mm=(2.0, 1.0, 1.0), normalization=("zscore",), masked=False, labels=LABELS, orientation="canonical", **more
) -> Plan:
    fullres = configuration(spacing_mm, normalization, masked)
    cascade = fullres.model_copy(update={"previous_stage": "3d_lowres", "patch_size": (2, 2, 2)})
    return Plan(
        name="plan",
        preset="default",
        dataset="Fake",
        channel_names=("MRI",) * len(normalization),
        labels=labels,
        orientation=orientation,
        intensities={"0": STATISTICS},
        original_median_spacing_mm=spacing_mm,
        configurations={
            "2d": configuration(spacing_mm[1:], normalization, masked),
            "3d_fullres": fullres,
            "3d_cascade_fullres": cascade,
        },
        **{"transpose": (0, 1, 2), **more},
    )


def volume(array: np.ndarray, matrix: np.ndarray) -> Volume:
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    z, y, x = (round(float(s), 6) for s in spacing)
    geometry = Geometry(shape=array.shape[1:], spacing_mm=(z, y, x), affine=affine_rows(matrix))
    return Volume(array, geometry)


def canonical_matrix(spacing_mm=(3.0, 0.7, 0.9)) -> np.ndarray:
    """Array z, y, x -> world of a grid whose axes run S, A, R."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, ::-1] * spacing_mm
    matrix[:3, 3] = (-11.0, 5.0, 40.0)
    return matrix


def stored_as(source: Volume, how: Turn) -> Volume:
    """The same voxels at the same places, in another axis order and direction."""
    shape = source.geometry.shape
    index = np.zeros((4, 4))
    index[3, 3] = 1
    for axis, (old, flip) in enumerate(zip(how.axes, how.flips, strict=True)):
        index[old, axis] = -1 if flip else 1
        index[old, 3] = shape[old] - 1 if flip else 0
    geometry = Geometry(
        shape=turned(shape, how.axes),
        spacing_mm=turned(source.geometry.spacing_mm, how.axes),
        affine=affine_rows(source.geometry.matrix @ index),
    )
    return Volume(np.ascontiguousarray(turn(source.array, how)), geometry)

"""A CT and a plan for it, made up: what `large_case.py` and `case_memory.py` measure with."""

from pathlib import Path

import numpy as np

from autoseg.images.writing import write_image
from autoseg.records.fingerprint import IntensityStatistics
from autoseg.records.geometry import Geometry, IntTriple
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration, NetworkSpec, Plan
from autoseg.records.recipe import Recipe

CONFIGURATION, SPACING_MM = "3d_fullres", (1.0, 0.8, 0.8)
INTENSITIES = IntensityStatistics(
    mean=0, median=0, std=300, min=-1000, max=1000, percentile_00_5=-1000, percentile_99_5=1000
)


def plan_of(heads: int, network: NetworkSpec, zoom: float = 1.0, recipe: Recipe | None = None) -> Plan:
    """A plan whose network's voxels are `zoom` times as long as those of the image."""
    z_mm, y_mm, x_mm = SPACING_MM
    settings = Configuration(
        spacing_mm=(z_mm * zoom, y_mm * zoom, x_mm * zoom),
        patch_size=(64, 128, 128),
        batch_size=2,
        median_shape=(300, 512, 512),
        normalization=("ct",),
        use_mask_for_norm=(False,),
        batch_dice=False,
        network=network,
        recipe=recipe or Recipe(),
    )
    return Plan(
        name="large",
        preset="small",
        dataset="Large",
        channel_names=("CT",),
        labels=LabelScheme(
            class_names=("background", *(f"class {n}" for n in range(1, heads))),
            class_values=tuple(range(heads)),
            num_entries=heads,
        ),
        orientation="canonical",
        transpose=(0, 1, 2),
        intensities={"0": INTENSITIES},
        original_median_spacing_mm=SPACING_MM,
        configurations={CONFIGURATION: settings},
    )


def geometry_of(shape: IntTriple) -> Geometry:
    z_mm, y_mm, x_mm = SPACING_MM
    affine = ((0, 0, x_mm, 0), (0, y_mm, 0, 0), (z_mm, 0, 0, 0))
    return Geometry(shape=shape, spacing_mm=SPACING_MM, affine=affine)


def write_case(path: Path, shape: IntTriple) -> None:
    """int16, air around a body of blocks of different brightness."""
    num_slices, height, width = shape
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    inside = (y / 0.7) ** 2 + (x / 0.9) ** 2 < 1
    blocks = np.kron(rng.normal(40, 200, (8, 8)), np.ones((-(-height // 8), -(-width // 8))))[:height, :width]
    noise = rng.normal(0, 10, (height, width))
    image = np.full((1, *shape), -1000, np.int16)
    for z in range(num_slices):  # rolled noise: drawing millions of numbers would take longer than the rest
        bright = np.roll(blocks, (z // 32) * 7, 1) + np.roll(noise, (13 * z, 7 * z), (0, 1))
        image[0, z] = np.where(inside, bright, -1000)
    write_image(path, image, geometry_of(shape))

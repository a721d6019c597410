"""Small synthetic datasets and fingerprints, written out so that a reader can follow what is planned from them."""

from collections.abc import Sequence

import numpy as np

from autoseg.records.dataset import Dataset
from autoseg.records.fingerprint import CaseFingerprint, ClassStatistics, Fingerprint, IntensityStatistics
from autoseg.records.labels import LabelScheme, Target

INTENSITIES = IntensityStatistics(
    mean=40, median=42, std=20, min=-80, max=300, percentile_00_5=-20, percentile_99_5=120
)


def scheme(
    names: Sequence[str] = ("organ", "lesion"), regions: Sequence[tuple[str, tuple[int, ...]]] = ()
) -> LabelScheme:
    """Background and the named classes, with values 0, 1, 2, ..."""
    return LabelScheme(
        class_names=("background", *names),
        class_values=tuple(range(len(names) + 1)),
        regions=tuple(Target(name=name, members=members) for name, members in regions),
        region_order=tuple(max(members) for _, members in regions),
        num_entries=len(names) + 1,
    )


def dataset(labels: LabelScheme | None = None, channels: Sequence[str] = ("CT",)) -> Dataset:
    """A dataset without files."""
    return Dataset(
        name="Example",
        root="/nowhere",
        layout="decathlon",
        channel_names=tuple(channels),
        labels=labels or scheme(),
        file_ending=".nii.gz",
        training=(),
    )


def fingerprint(
    spacing_mm: tuple[float, float, float] = (2.5, 1.0, 1.0),
    shape: tuple[int, int, int] = (80, 256, 256),
    num_cases: int = 20,
    *,
    orientation: str = "RAS",
    fractions: Sequence[float] = (0.6, 0.4),
    foreground_share: float = 0.05,
    channels: int = 1,
    with_cases: bool = True,
) -> Fingerprint:
    """`num_cases` cases around one shape (every third is 10 % larger, every third 10 % smaller)."""
    factors = [(1.0, 1.1, 0.9)[number % 3] for number in range(num_cases)]
    shapes = [tuple(max(1, round(edge * f)) if edge > 1 else 1 for edge in shape) for f in factors]
    cases = {
        f"case_{number:03d}": CaseFingerprint(
            shape=found,
            shape_after_crop=found,
            spacing_mm=spacing_mm,
            orientation=orientation,
            relative_size_after_crop=1.0,
            image_sha256=("0",) * channels,
            label_sha256="0",
            voxels_per_class=(
                round(np.prod(found) * (1 - foreground_share)),
                *(round(np.prod(found) * foreground_share * fraction) for fraction in fractions),
            ),
            components_per_class=(0, *(1 for _ in fractions)),
        )
        for number, found in enumerate(shapes)
    }
    return Fingerprint(
        spacings=(spacing_mm,) * num_cases,
        shapes_after_crop=tuple(shapes),
        foreground_intensity_properties_per_channel={str(channel): INTENSITIES for channel in range(channels)},
        median_relative_size_after_cropping=1.0,
        cases=cases if with_cases else {},
        class_imbalance=tuple(
            ClassStatistics(
                name=f"class {number}",
                fraction_of_foreground=fraction,
                presence=1.0,
                median_volume_mm3=1000.0,
                median_components=1.0,
            )
            for number, fraction in enumerate(fractions)
        )
        if with_cases
        else (),
    )

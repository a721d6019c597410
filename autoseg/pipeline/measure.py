"""Stage: images and their segmentations in, `measurements.csv` out: volumes, diameters, places and intensities."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from autoseg import console
from autoseg.datasets.folders import find_cases
from autoseg.datasets.pairs import read_case_image
from autoseg.errors import DataError
from autoseg.images.formats import output_ending
from autoseg.images.reading import read_label
from autoseg.metrics.measurements import measure_case
from autoseg.records.labels import LabelScheme
from autoseg.records.measurements import Measurement
from autoseg.records.prediction_folder import MEASUREMENTS
from autoseg.storage.atomic import write_text
from autoseg.storage.tables import csv_text

_STATISTICS = ("mean", "std", "minimum", "median", "maximum")
_DIAMETERS = ("longest_mm", "longest_axial_mm", "perpendicular_mm", "axial_slice")
_FIRST = ("case", "target", "component", "components", "voxels", "volume_mm3", *_DIAMETERS, "x_mm", "y_mm", "z_mm")


def measure(
    images: Path, segmentations: Path, labels: LabelScheme, channel_names: Sequence[str], cases: Collection[str]
) -> Path:
    """Measure segmentations of images; a case that cannot be read is warned of and left out.

    Args:
        images: folder of images or one image file, as for `predict`.
        segmentations: folder of what `predict` made of them; `measurements.csv` is written into it.
        labels: scheme of the segmentations.
        channel_names: of the images.
        cases: ids of those that are segmented; others are not looked at.

    Raises:
        ResourceError: the disk is full.
    """
    root = images if images.is_dir() else images.parent
    files = {
        case: segmentations / (case.id + output_ending(case.images[0]))
        for case in find_cases(images, len(channel_names))
    }
    waiting = [case for case, file in files.items() if case.id in cases and file.is_file()]
    measured: dict[str, tuple[Measurement, ...]] = {}
    for case in console.track(waiting, len(waiting), "measuring"):
        try:
            image = read_case_image(root, case, len(channel_names))
            classes = labels.to_internal(read_label(files[case]).array[0], str(files[case]))
            if classes.shape != image.geometry.shape:
                raise DataError(f"{files[case]} has {classes.shape} voxels, its image {image.geometry.shape}")
        except DataError as error:
            console.warn(f"{case.id} is not measured: {error}")
            continue
        measured[case.id] = measure_case(classes, image.array, labels, image.geometry)
    path = segmentations / MEASUREMENTS
    write_text(path, measurements_csv(measured, channel_names))
    return path


def measurements_csv(measured: Mapping[str, Sequence[Measurement]], channel_names: Sequence[str]) -> str:
    """One row a case, target and component (`all`: the target as a whole); cells of what is not defined are empty."""
    columns = [*_FIRST, *(f"{name} {what}" for name in channel_names for what in _STATISTICS)]
    return csv_text(columns, (_row(case, one) for case, rows in sorted(measured.items()) for one in rows))


def _row(case: str, one: Measurement) -> list[object]:
    lengths = [None if one.diameters is None else _rounded(getattr(one.diameters, name)) for name in _DIAMETERS]
    place = [None] * 3 if one.centroid_mm is None else [_rounded(value) for value in one.centroid_mm]
    statistics = [_rounded(getattr(channel, name)) for channel in one.intensities for name in _STATISTICS]
    number = "all" if one.component is None else one.component
    volume = _rounded(one.volume_mm3)
    return [case, one.target, number, one.num_components, one.num_voxels, volume, *lengths, *place, *statistics]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)

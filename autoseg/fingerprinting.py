"""Volumes of one case in, its measurements out; the measurements of all cases in, the dataset's fingerprint out.

Intensities follow nnU-Net's rule in distribution: it draws the same number of foreground voxels from every case (with
replacement, 1e8 over all), so each case weighs alike however large its foreground. Here every voxel counts with the
weight 1 / (foreground voxels of its case), which is what that sample estimates, without its noise: mean, standard
deviation, minimum and maximum are exact, and percentiles come from at most 8192 quantiles a case and
channel (exact where there are fewer different values), so memory stays bounded and cases merge in any order.
Foreground is every class above background inside the box around nonzero; voxels to ignore are not in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from autoseg.images.volume import Volume
from autoseg.records.fingerprint import CaseFingerprint, ClassStatistics, Fingerprint, IntensityStatistics
from autoseg.records.labels import LabelScheme
from autoseg.spatial.components import value_components
from autoseg.spatial.cropping import crop, mask_box, nonzero_box
from autoseg.spatial.orientation import orientation_code

_EDGES = np.concatenate(
    [np.linspace(0, 0.02, 2049)[:-1], np.linspace(0.02, 0.98, 4097), np.linspace(0.98, 1, 2049)[1:]]
)
"""Ranks between which one quantile is kept: 8192 of them, narrow at both ends, where the percentiles are read."""
_MOST_SORTED = 4_000_000
"""Voxels that are sorted at most; a larger foreground is thinned at regular steps for the percentiles alone."""


class Intensities(NamedTuple):
    """One channel's foreground in one case: moments, and values with the share of the foreground each stands for."""

    mean: float
    mean_square: float
    values: npt.NDArray[np.float32]
    shares: npt.NDArray[np.float32]
    """Sum to 1."""


class CaseMeasurement(NamedTuple):
    """What is measured on one case."""

    fingerprint: CaseFingerprint
    intensities: tuple[Intensities, ...]
    """One a channel; empty where the case has no foreground."""
    voxel_volume_mm3: float


def measure_case(image: Volume, label: Volume, labels: LabelScheme) -> CaseMeasurement:
    """Measure one case.

    Args:
        image: C Z Y X.
        label: 1 Z Y X in file values, on the image's grid.
        labels: what the values mean.

    Raises:
        DataError: the label has values that `labels` does not know.
    """
    classes = labels.to_internal(label.array[0])
    if labels.ignore_index is not None:
        classes[classes == labels.ignore_index] = -1
    box = nonzero_box(image.array)
    inner_classes = crop(classes, box)
    foreground = inner_classes > 0
    counts, components = _count(classes, labels.num_classes)
    intensities: tuple[Intensities, ...] = ()
    if foreground.any():
        intensities = tuple(_intensities(channel[foreground]) for channel in crop(image.array, box))
    geometry = image.geometry
    z, y, x = inner_classes.shape
    measured = CaseFingerprint(
        shape=geometry.shape,
        shape_after_crop=(z, y, x),
        spacing_mm=geometry.spacing_mm,
        orientation=orientation_code(geometry.matrix),
        relative_size_after_crop=inner_classes.size / classes.size,
        image_sha256=image.sha256,
        label_sha256=label.sha256[0],
        voxels_per_class=counts,
        components_per_class=components,
    )
    return CaseMeasurement(measured, intensities, geometry.voxel_volume_mm3)


def combine(measurements: Mapping[str, CaseMeasurement], labels: LabelScheme, num_channels: int) -> Fingerprint:
    """Combine the measurements of all cases into the fingerprint of the dataset.

    Args:
        measurements: case id -> measurement; their order does not matter.
        labels: scheme of the dataset.
        num_channels: of its images.
    """
    ordered = {case_id: measurements[case_id] for case_id in sorted(measurements)}
    cases = {case_id: measured.fingerprint for case_id, measured in ordered.items()}
    channels = {}
    for channel in range(num_channels):
        found = [m.intensities[channel] for m in ordered.values() if m.intensities]
        channels[str(channel)] = _statistics(found)
    return Fingerprint(
        spacings=tuple(case.spacing_mm for case in cases.values()),
        shapes_after_crop=tuple(case.shape_after_crop for case in cases.values()),
        foreground_intensity_properties_per_channel=channels,
        median_relative_size_after_cropping=float(np.median([c.relative_size_after_crop for c in cases.values()])),
        cases=cases,
        class_imbalance=_class_statistics(list(ordered.values()), labels),
    )


def _count(classes: npt.NDArray[np.int16], num_classes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Voxels of each class, and 26-connected components of each foreground class (0 for the background).

    One labelling numbers the components of all classes at once (neighbours of different class are not joined);
    the box around the foreground is all that is looked at.
    """
    box = mask_box(classes > 0)
    inner = np.maximum(crop(classes, box), 0)
    counts = np.bincount(inner.ravel(), minlength=num_classes)
    counts[0] = classes.size - int(np.count_nonzero(classes))
    numbers, num_components = value_components(inner)
    class_of = np.zeros(num_components + 1, dtype=np.int64)
    class_of[numbers.ravel()] = inner.ravel()
    components = np.bincount(class_of[1:], minlength=num_classes)
    components[0] = 0
    return tuple(int(n) for n in counts), tuple(int(n) for n in components)


def _intensities(values: npt.NDArray[Any]) -> Intensities:
    """Summary of one case's foreground voxels of one channel (one-dimensional, not empty)."""
    exact = values.astype(np.float64)
    mean, mean_square = float(exact.mean()), float(np.square(exact).mean())
    low, high = exact.min(), exact.max()
    if len(values) > _MOST_SORTED:
        values = values[:: -(-len(values) // _MOST_SORTED)]
    distinct, counts = np.unique(values, return_counts=True)
    shares = counts / counts.sum()
    if len(distinct) >= len(_EDGES):
        distinct = distinct[np.searchsorted(np.cumsum(shares), (_EDGES[:-1] + _EDGES[1:]) / 2)]
        shares = np.diff(_EDGES)
    kept = distinct.astype(np.float32)
    kept[0], kept[-1] = low, high
    return Intensities(mean, mean_square, kept, shares.astype(np.float32))


def _statistics(found: Sequence[Intensities]) -> IntensityStatistics:
    """Statistics over cases that weigh alike; all zero where no case has foreground."""
    if not found:
        return IntensityStatistics(
            mean=0.0, median=0.0, std=0.0, min=0.0, max=0.0, percentile_00_5=0.0, percentile_99_5=0.0
        )
    mean = float(np.mean([f.mean for f in found]))
    variance = float(np.mean([f.mean_square for f in found])) - mean**2
    values = np.concatenate([f.values for f in found])
    order = np.argsort(values, kind="stable")
    upper = np.cumsum(np.concatenate([f.shares for f in found])[order], dtype=np.float64)
    at = np.searchsorted(upper, np.array([0.005, 0.5, 0.995]) * upper[-1])
    low, median, high = (float(v) for v in values[order][np.minimum(at, len(values) - 1)])
    return IntensityStatistics(
        mean=mean,
        median=median,
        std=max(variance, 0.0) ** 0.5,
        min=float(values.min()),
        max=float(values.max()),
        percentile_00_5=low,
        percentile_99_5=high,
    )


def _class_statistics(cases: list[CaseMeasurement], labels: LabelScheme) -> tuple[ClassStatistics, ...]:
    voxels = np.array([case.fingerprint.voxels_per_class for case in cases], dtype=np.float64)
    components = np.array([case.fingerprint.components_per_class for case in cases])
    volumes = voxels * np.array([case.voxel_volume_mm3 for case in cases])[:, None]
    total = max(float(voxels[:, 1:].sum()), 1.0)
    rows = []
    for number in range(1, labels.num_classes):
        present = voxels[:, number] > 0
        rows.append(
            ClassStatistics(
                name=labels.class_names[number],
                fraction_of_foreground=float(voxels[:, number].sum()) / total,
                presence=float(present.mean()),
                median_volume_mm3=float(np.median(volumes[present, number])) if present.any() else 0.0,
                median_components=float(np.median(components[present, number])) if present.any() else 0.0,
            )
        )
    return tuple(rows)

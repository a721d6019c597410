"""What is measured on a segmentation: of each target as a whole and of each of its components."""

from autoseg.records.base import Record
from autoseg.records.geometry import Triple


class Intensities(Record):
    """The values of one channel inside, as they stand in the image."""

    mean: float | None
    """Likewise of all: None where nothing is segmented or a value is not finite."""
    std: float | None
    """Standard deviation of the voxels, divided by their number."""
    minimum: float | None
    median: float | None
    maximum: float | None


class Diameters(Record):
    """Lengths of one component; a voxel is a box, so that a lesion is measured from edge to edge."""

    longest_mm: float | None
    """Longest distance between two points of it in space; None for a 2-D image."""
    longest_axial_mm: float
    """Longest distance between two of its points in one axial slice, over all slices (RECIST 1.1's longest diameter).
    The axial axis is the stored one that is nearest to head-foot."""
    perpendicular_mm: float
    """In that slice, distance between the two lines along the longest diameter that just enclose the component."""
    axial_slice: int
    """Index of that slice along the axial axis of the file, from 0."""


class Measurement(Record):
    """One target of a case, or one of its components (26-connected)."""

    target: str
    component: int | None
    """From 1, the largest first; None: the target as a whole."""
    num_components: int
    """Of the target."""
    num_voxels: int
    volume_mm3: float
    """mm2 for a 2-D image."""
    centroid_mm: Triple | None
    """Mean of the voxels' centres, x, y, z in the patient (RAS+); None: nothing is segmented."""
    diameters: Diameters | None
    """None for a target as a whole: its pieces have diameters, their scatter has none."""
    intensities: tuple[Intensities, ...]
    """One a channel."""

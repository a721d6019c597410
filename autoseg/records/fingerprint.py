"""What was measured on a dataset before anything was decided."""

from collections.abc import Iterable, Sequence

from pydantic import Field

from autoseg.errors import DataError
from autoseg.records.base import Record
from autoseg.records.geometry import IntTriple, Triple
from autoseg.storage.hashing import sha256_json


class IntensityStatistics(Record):
    """Intensities of one channel at voxels with a label above background, over the whole dataset."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


class CaseFingerprint(Record):
    """What was measured on one case. Shapes and spacings are in stored array order z, y, x."""

    shape: IntTriple
    """Voxels before the crop."""
    shape_after_crop: IntTriple
    """Voxels of the box around everything nonzero."""
    spacing_mm: Triple
    orientation: str = Field(pattern="^[RLAPSI]{3}$", default="RAS")
    """Anatomical direction of the file's x, y and z axes (nibabel's axis codes)."""
    relative_size_after_crop: float
    """Voxels of the box over voxels of the image, 0 to 1."""
    image_sha256: tuple[str, ...]
    """Digest of each image file as stored (compressed)."""
    label_sha256: str
    voxels_per_class: tuple[int, ...]
    """Voxels of each internal class, background first; ignored voxels are in none."""
    components_per_class: tuple[int, ...]
    """26-connected components of each internal class; 0 is written for the background."""

    @property
    def files_digest(self) -> str:
        """`case_digest` of the files that were measured."""
        return case_digest([*self.image_sha256, self.label_sha256])


def case_digest(files_sha256: Sequence[str]) -> str:
    """One digest of a case's files, from those of its images in the order of the channels and of its label."""
    return sha256_json(list(files_sha256))


class ClassStatistics(Record):
    """How common and how large one class is, over the training cases."""

    name: str
    fraction_of_foreground: float
    """Its voxels over all foreground voxels, 0 to 1."""
    presence: float
    """Share of the cases in which it occurs, 0 to 1."""
    median_volume_mm3: float
    """Median volume over the cases in which it occurs; 0 when it occurs in none."""
    median_components: float
    """Median number of 26-connected components over the cases in which it occurs."""


class Fingerprint(Record):
    """The whole dataset's measurements; the first four fields are nnU-Net's, in nnU-Net's form.

    Lists run over the training cases in the order of their sorted ids.
    """

    spacings: tuple[Triple, ...]
    """Spacing of each case in mm, z y x as stored."""
    shapes_after_crop: tuple[IntTriple, ...]
    """Box around nonzero of each case, z y x as stored."""
    foreground_intensity_properties_per_channel: dict[str, IntensityStatistics]
    """Channel number as text (`"0"`) -> intensities in the foreground."""
    median_relative_size_after_cropping: float
    """Median over cases of (voxels after crop / voxels before)."""
    cases: dict[str, CaseFingerprint] = {}
    """Case id -> its own measurements; empty for a fingerprint made by nnU-Net."""
    class_imbalance: tuple[ClassStatistics, ...] = ()
    """One entry a foreground class, in internal order; empty for a fingerprint made by nnU-Net."""


def check_same_cases(fingerprint: Fingerprint, case_ids: Iterable[str], dataset: str) -> None:
    """Raise a DataError when the fingerprint was taken of other cases than the dataset has now."""
    now, then = set(case_ids), set(fingerprint.cases)
    if now == then:
        return
    parts = [
        f"{', '.join(sorted(ids)[:10])}{' and others' if len(ids) > 10 else ''} {what}"
        for ids, what in ((now - then, "came since"), (then - now, "went since"))
        if ids
    ]
    raise DataError(
        f"{dataset}: its fingerprint was taken of other cases: {'; '.join(parts)}. Fingerprint and preprocess it "
        "again: `autoseg plan_and_preprocess DATASET`."
    )

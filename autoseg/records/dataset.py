"""What a dataset folder holds: cases, channels, labels, folds."""

from pydantic import Field

from autoseg.records.base import Record
from autoseg.records.labels import LabelScheme


class Case(Record):
    """One subject's image (all channels) with its label, if it has one. Paths are relative to the dataset's root."""

    id: str
    """Name without file ending; unique in the dataset; letters, digits, `.`, `_` and `-`."""
    images: tuple[str, ...]
    """One file with all channels on a fourth axis (Decathlon), or one file a channel (nnU-Net)."""
    label: str | None = None
    """Label file; None for test cases."""
    patient: str | None = None
    """Patient the case belongs to; cases of one patient are never divided between training and validation."""


class Dataset(Record):
    """A dataset as found on disk; nothing in its folder is ever changed."""

    name: str
    """Folder name of its workspace, for example `Task04_Hippocampus`."""
    root: str
    """Absolute path of the dataset folder."""
    layout: str = Field(pattern="^(decathlon|nnunet)$")
    """How the folder is laid out."""
    channel_names: tuple[str, ...]
    """Modality of each channel in the dataset's own words; decides normalisation (`CT`, `MRI`, `zscore`, ...)."""
    labels: LabelScheme
    """Classes, regions and ignore label."""
    file_ending: str
    """Ending of the training images, for example `.nii.gz`."""
    training: tuple[Case, ...]
    """Cases with labels, sorted by id."""
    test: tuple[Case, ...] = ()
    """Cases without labels, sorted by id."""

    @property
    def num_training(self) -> int:
        """Number of training cases."""
        return len(self.training)


class Fold(Record):
    """One division of the training cases."""

    train: tuple[str, ...]
    """Case ids to train on, sorted."""
    validation: tuple[str, ...]
    """Case ids held out, sorted."""


class Folds(Record):
    """The cross-validation folds of a dataset; each case is held out exactly once."""

    folds: tuple[Fold, ...]
    """The folds, in order."""
    source: str
    """Where they come from: `kfold`, `grouped kfold` or the path of a `splits_final.json`."""
    num_folds: int | None = None
    """Folds that were asked for, to be made again when the cases change; None: they come from a file or by hand."""
    patient_regex: str | None = None
    """Expression that found the patients in the case ids, if one was given; used again when the cases change."""

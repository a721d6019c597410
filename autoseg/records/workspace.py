"""Where everything of a dataset lies: one function a path, nothing else knows the layout.

`--work DIR` > `AUTOSEG_WORK` > nearest parent with `autoseg.toml` > `./autoseg_work`.
"""

import os
from pathlib import Path

from autoseg.records.base import Record

MODELS = "models"
"""Folder of all trained folds in that of a dataset."""

POSTPROCESSING = "postprocessing.json"
"""Record `PostprocessingRule`, in a dataset's folder or beside the folds of an imported configuration."""


def find_workspace(given: Path | None = None) -> Path:
    """The workspace folder by the rule above; it need not exist yet."""
    if given is not None:
        return given.resolve()
    if os.environ.get("AUTOSEG_WORK"):
        return Path(os.environ["AUTOSEG_WORK"]).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "autoseg.toml").is_file():
            return folder / "autoseg_work"
    return here / "autoseg_work"


class Paths(Record):
    """The files of one dataset in the workspace."""

    folder: Path
    """`<workspace>/<Dataset>`."""

    @property
    def dataset(self) -> Path:
        """Record `Dataset`."""
        return self.folder / "dataset.json"

    @property
    def fingerprint(self) -> Path:
        """Record `Fingerprint`."""
        return self.folder / "fingerprint.json"

    @property
    def measured_files(self) -> Path:
        """Record `MeasuredFiles`: the files that the fingerprint was taken of."""
        return self.folder / "files.json"

    @property
    def folds(self) -> Path:
        """Record `Folds`."""
        return self.folder / "folds.json"

    @property
    def plans(self) -> Path:
        """Folder of all plans."""
        return self.folder / "plans"

    def plan(self, name: str) -> Path:
        """Record `Plan` called `name`."""
        return self.plans / f"{name}.json"

    def preprocessed(self, digest: str) -> Path:
        """Folder of preprocessed cases, named by the hash of all that decides them."""
        return self.folder / "preprocessed" / digest[:16]

    def configuration(self, plan: str, configuration: str) -> Path:
        """Folder of all folds of a configuration."""
        return self.folder / MODELS / plan / configuration

    def fold(self, plan: str, configuration: str, fold: str) -> Path:
        """Folder of one trained fold; `fold` is a number as text or `all`."""
        return self.configuration(plan, configuration) / f"fold_{fold}"

    @property
    def predictions(self) -> Path:
        """Segmentations of the test cases."""
        return self.folder / "predictions"

    @property
    def selection(self) -> Path:
        """Record `Selection`."""
        return self.folder / "selection.json"

    @property
    def calibration(self) -> Path:
        """Record `Calibration` of the folds that were compared."""
        return self.folder / "calibration.json"

    @property
    def trust(self) -> Path:
        """Record `Trust` of the selected candidate."""
        return self.folder / "trust.json"

    @property
    def postprocessing(self) -> Path:
        """Record `PostprocessingRule`."""
        return self.folder / POSTPROCESSING

    @property
    def component_table(self) -> Path:
        """One row for each component of the out-of-fold segmentations that post-processing was chosen on."""
        return self.folder / "component_table.csv"

    @property
    def false_positives(self) -> Path:
        """Record `FalsePositiveComparison`."""
        return self.folder / "false_positives.json"

    @property
    def evaluation(self) -> Path:
        """Record `Evaluation` of the selected candidate."""
        return self.folder / "evaluation.json"

    @property
    def report(self) -> Path:
        """The report's first page."""
        return self.folder / "report" / "index.html"

    @property
    def audit(self) -> Path:
        """Folder of the audit of the reference labels: `audit.json`, `audit.csv`, `index.html`."""
        return self.folder / "audit"

"""A folder that a model predicts into: which segmentations it holds, what was said of them, and what has to go first.

`predicted.json` and `quality.csv` are written after every case, so they hold for what is there when a run is killed.
"""

import errno
from collections.abc import Sequence
from pathlib import Path

from autoseg import console
from autoseg.errors import DataError, PartialError
from autoseg.images.formats import ENDINGS, output_ending
from autoseg.inference.store import disagreement_path, folds_path, meta_path, probabilities_path
from autoseg.postprocessing.apply import changes_path
from autoseg.records.base import write_record
from autoseg.records.dataset import Case
from autoseg.records.prediction_folder import (
    FINISHED,
    QUALITY_TABLE,
    TABLES,
    Finished,
    read_finished,
    remove_outdated,
)
from autoseg.records.trust import Judgement
from autoseg.selection.case_quality import quality_table, warn_of_case
from autoseg.selection.predictor import Predictor
from autoseg.storage.atomic import write_text

Outcome = Judgement | str | None
"""What is said about a segmentation, or as text why there is none; None: it was not judged."""


class PredictionFolder:
    """The cases that a model is asked to predict into a folder, and what became of each."""

    def __init__(self, output: Path, predictor: Predictor, cases: Sequence[Case], keep_finished: bool) -> None:
        """Look at what an earlier run left.

        Args:
            output: the folder.
            predictor: the model whose segmentations it will hold.
            cases: all that were asked for.
            keep_finished: whether finished segmentations of this very model stay.

        Raises:
            DataError: the record of an earlier run is damaged, and its segmentations were to be kept.
        """
        self._output, self._predictor, self._num_cases = output, predictor, len(cases)
        self._unnamed = {case: fault for case in cases if (fault := _fault_of_name(output, case.id)) is not None}
        self._cases = [case for case in cases if case not in self._unnamed]
        self.targets = {case.id: output / (case.id + output_ending(case.images[0])) for case in self._cases}
        earlier = _read_earlier(output, keep_finished)
        # Other models' segmentations may stay where they are, but what is said here of labels holds for this model's.
        own = {case for case, digest in earlier.cases.items() if keep_finished and digest == predictor.digest}
        self.waiting = [case for case in self._cases if case.id not in own or not self.targets[case.id].is_file()]
        own -= {case.id for case in self.waiting}
        self._finished = dict.fromkeys(sorted(own), predictor.digest)
        self._judged = {case: judgement for case, judgement in earlier.judged.items() if case in own}
        self._endings = {case: end for case, end in earlier.endings.items() if (output / (case + end)).is_file()}
        self._failed: dict[str, str] = {}

    def begin(self) -> None:
        """Remove what is about segmentations that will be replaced, and name the cases that cannot be written."""
        if len(self.waiting) < len(self._cases):
            console.say(f"{len(self._cases) - len(self.waiting)} of {len(self._cases)} cases are segmented already")
        outdated = (*(TABLES if self.waiting else ()), *(() if self._judged else (QUALITY_TABLE,)))
        remove_outdated(self._output, outdated, self.targets.values())
        self._write()
        for case, fault in self._unnamed.items():
            self.record(case, fault)

    def remove(self, case: Case) -> None:
        """Remove an earlier segmentation of a case and all that lies beside it, so that none of it passes for new.

        That of an image in another format goes too.
        """
        if probabilities_path(self._output, case.id).is_file():
            meta_path(self._output, case.id).unlink(missing_ok=True)  # no other file of this general a name is ours
        for beside in (probabilities_path, disagreement_path, folds_path, changes_path):
            beside(self._output, case.id).unlink(missing_ok=True)
        self.targets[case.id].unlink(missing_ok=True)
        if (ending := self._endings.pop(case.id, None)) in ENDINGS:
            (self._output / (case.id + ending)).unlink(missing_ok=True)

    def record(self, case: Case, outcome: Outcome) -> None:
        """Note that a case is written, or warn of why it is not."""
        if isinstance(outcome, str):
            self._failed[case.id] = outcome
            console.warn(f"{case.id}: {outcome}")
            return
        self._finished[case.id] = self._predictor.digest
        self._endings[case.id] = output_ending(case.images[0])
        if outcome is not None:
            self._judged[case.id] = outcome
            warn_of_case(case.id, outcome)
        self._write()

    def segmentations(self) -> list[Path]:
        """All segmentations, in the order of the cases.

        Raises:
            PartialError: some cases could not be predicted; it names each with its reason.
        """
        if self._failed:
            lines = [f"  {case}: {reason}" for case, reason in self._failed.items()]
            title = f"{len(self._failed)} of {self._num_cases} cases could not be predicted:"
            raise PartialError("\n".join([title, *lines]))
        return [self.targets[case.id] for case in self._cases]

    def _write(self) -> None:
        if self._judged:
            write_text(self._output / QUALITY_TABLE, quality_table(self._judged))
        plan = self._predictor.models[0].plan
        about = {"labels": plan.labels, "channel_names": plan.channel_names, "judged": self._judged}
        write_record(self._output / FINISHED, Finished(**about, cases=self._finished, endings=self._endings))


def _read_earlier(output: Path, keep_finished: bool) -> Finished:
    """What an earlier run says of a folder; of a damaged record nothing, unless its segmentations are to be trusted."""
    try:
        return read_finished(output)
    except DataError:
        if keep_finished:
            raise
        return Finished()


def _fault_of_name(folder: Path, case: str) -> str | None:
    """Why no results can be written under the name of a case; None: they can."""
    try:
        case.encode("utf-8")  # tables and records are UTF-8; older systems name files in other encodings
        probabilities_path(folder, f"{case}__").is_file()  # the longest name that is written, temporary ones too
    except UnicodeEncodeError:
        return "its file's name is not UTF-8; rename it."
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return "its file's name is too long for the results beside it; shorten it or choose another -o."
    return None

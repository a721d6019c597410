"""Records of a dataset and folders of folds in, what a training is or was begun with out, and which is of old data.

A corrected label, another preprocessing or a coarse stage that was trained anew change nothing in a fold that is
trained already. Resuming with them would mix both, so it is refused; a finished fold stays, and is named wherever
its results are used.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from autoseg.datasets.measured_files import MeasuredFiles, case_digests_now
from autoseg.errors import ModelError
from autoseg.preprocessing import store
from autoseg.records.base import read_record
from autoseg.records.dataset import Dataset, Folds
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.provenance import TrainingInputs, describe_changes
from autoseg.records.workspace import Paths
from autoseg.storage.hashing import sha256_json
from autoseg.training.out_of_fold import Earlier, folds_digest
from autoseg.training.schedule import SCHEDULE, TrainingSchedule


def learned_from(paths: Paths, plan: Plan, configuration: str) -> Earlier:
    """Folders of the folds that a cascade and a training with distractors learn from, trained or not."""
    settings = plan.configurations[configuration]  # type: ignore[index]
    distractors = settings.recipe.distractors
    numbers = range(len(read_record(paths.folds, Folds).folds)) if settings.previous_stage or distractors else ()

    def folds(name: str | None) -> tuple[Path, ...]:
        return () if name is None else tuple(paths.fold(plan.name, name, str(number)) for number in numbers)

    return Earlier(folds(settings.previous_stage), folds(None if distractors is None else distractors.base))


def training_inputs(
    paths: Paths, plan: Plan, configuration: str, fingerprint: Fingerprint, cases: Sequence[str]
) -> TrainingInputs:
    """What a training on these cases would be begun with; a case that was not measured is left out."""
    voxels = {key: value for key, value in store.decided_by(plan, configuration, fingerprint).items() if key != "files"}
    earlier = learned_from(paths, plan, configuration)
    return TrainingInputs(
        cases={case: fingerprint.cases[case].files_digest for case in cases if case in fingerprint.cases},
        preprocessing=sha256_json(voxels),
        previous_stage=folds_digest(earlier.previous_stage),
        base=folds_digest(earlier.base),
    )


def outdated_folds(paths: Paths, plan: Plan) -> dict[tuple[str, str], str]:
    """(Configuration, fold) -> what changed since it was begun, of the plan's finished folds of which it is known.

    Files of the dataset count as they are on disk now, whether or not they were measured again.
    """
    if not (paths.fingerprint.is_file() and paths.dataset.is_file()):
        return {}
    fingerprint, files = read_record(paths.fingerprint, Fingerprint), digests_now(paths)
    found: dict[tuple[str, str], str] = {}
    for configuration in plan.configurations:
        for folder, schedule in _finished(paths.configuration(plan.name, configuration)):
            if (then := schedule.inputs) is None:
                continue
            now = training_inputs(paths, plan, configuration, fingerprint, list(then.cases))
            now = now.model_copy(update={"cases": {case: files[case] for case in then.cases if case in files}})
            if changes := describe_changes(then, now):
                found[configuration, folder.name.removeprefix("fold_")] = "; ".join(changes)
    return found


def digests_now(paths: Paths) -> Mapping[str, str]:
    """Case id -> digest of its files as they are on disk now; see `case_digests_now`."""
    known = read_record(paths.measured_files, MeasuredFiles) if paths.measured_files.is_file() else None
    return case_digests_now(read_record(paths.dataset, Dataset), known)


def _finished(configuration: Path) -> Iterator[tuple[Path, TrainingSchedule]]:
    for path in sorted(configuration.glob("fold_*/fold.json")):
        if (path.parent / SCHEDULE).is_file():
            yield path.parent, read_record(path.parent / SCHEDULE, TrainingSchedule, ModelError)

"""Stage: a dataset's selected model or a model folder in, one zip with all that predicts out.

Inside it is laid out like the dataset's folder in the workspace, with nothing but what predicts: plans, weights,
temperatures, post-processing, what judges the segmentations, and a card. So the zip predicts exactly as the workspace
does. Names of cases are replaced by numbers.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg.errors import ModelError
from autoseg.inference.model import WEIGHTS, fold_folders, read_fold
from autoseg.inference.model_card import CARD, describe_folds
from autoseg.inference.model_folders import open_model, previous_stage
from autoseg.records.base import Record, read_record, record_to_json
from autoseg.records.calibration import Calibration
from autoseg.records.model_card import ModelCard
from autoseg.records.package import PACKAGE, Package, anonymous_case
from autoseg.records.results import Evaluation, Selection, TrainedFold
from autoseg.records.workspace import Paths
from autoseg.reporting.package import readme
from autoseg.selection.sources import Sources, find_sources
from autoseg.storage.archives import write_archive
from autoseg.version import __version__

README = "README.md"
_SCORES = ("dice", "nsd", "lesion_f1")
_INSIDE = Paths(folder=Path())
"""Where everything lies in the archive."""

Folds = Mapping[str, Sequence[Path]]
"""Configuration -> fold folders."""


def pack(
    where: Paths | Path,
    output: Path,
    *,
    licence: str | None = None,
    citation: str | None = None,
    limits: Sequence[str] = (),
) -> Package:
    """Write a model to one file.

    Args:
        where: a dataset in the workspace, or a path as `selection.predictor.load_predictor` takes it.
        output: the zip.
        licence: on what terms it is given away; None: as the model's own card says.
        citation: what to cite; None: likewise.
        limits: what is known of it beside `records.package.DEFAULT_LIMITS`.

    Raises:
        ModelError: nothing is trained, a file is missing or damaged, or the folds are of several plans.
        ResourceError: the disk is full.
    """
    with open_model(where) as folder:
        sources = find_sources(folder, None)
        predicting = {read_fold(folds[0])[1].configuration: folds for folds in sources.folds}
        folds = predicting | _earlier_stages(sources.folds)
        selection = sources.selection or _all_of(predicting)
        plans = {read_fold(fold)[1].plan for own in folds.values() for fold in own}
        if plans != {selection.plan}:
            raise ModelError(f"The folds are of the plans {', '.join(sorted(plans))}: pack them one by one.")
        card = _card(sources, selection, folds)
        card = card.model_copy(
            update={
                "licence": licence or card.licence,
                "citation": citation or card.citation,
                "limits": (*card.limits, *limits),
            }
        )
        write_archive(output, _records(sources, selection, card) | _models(folds, card, selection.plan))
    return card


def _earlier_stages(configurations: Sequence[Sequence[Path]]) -> dict[str, Sequence[Path]]:
    """All folds of the stages before cascades, as `inference.model.load_model` loads them."""
    found: dict[str, Sequence[Path]] = {}
    for folds in configurations:
        name = previous_stage(folds[0])
        if name is not None:
            earlier = fold_folders(folds[0].resolve().parent.parent / name)
            if not earlier:
                raise ModelError(f"{folds[0]} needs the folds of {name} beside its configuration.")
            found |= {name: earlier} | _earlier_stages([earlier])
    return found


def _all_of(folds: Folds) -> Selection:
    """What selects all of these folds, where nothing was compared."""
    plan = read_fold(next(iter(folds.values()))[0])[1].plan
    names = {name: tuple(read_fold(fold)[1].fold for fold in own) for name, own in folds.items()}
    return Selection(plan=plan, configurations=tuple(folds), folds=names, candidates=())


def _card(sources: Sources, selection: Selection, folds: Folds) -> Package:
    """The card, with what an earlier one of a packed model or of the configurations says."""
    own = sources.paths.folder / PACKAGE if sources.paths is not None else None
    earlier = read_record(own, Package, ModelError) if own is not None and own.is_file() else None
    licences = [_licence_of(own_folds[0].parent / CARD) for own_folds in folds.values()]
    evaluation = _evaluation(sources)
    cards = {name: describe_folds(own_folds) for name, own_folds in folds.items()}
    card = Package(
        dataset=next(iter(cards.values())).dataset,
        predicts=selection.configurations,
        configurations=cards,
        num_held_out=0 if evaluation is None else len(evaluation.cases),
        scores={} if evaluation is None else _scores(evaluation),
        has_postprocessing=not sources.rule.changes_nothing,
        has_trust=sources.trust is not None,
        known={} if sources.trust is None else sources.trust.known,
        licence=next((licence for licence in licences if licence), None),
        versions={"autoseg": __version__, "torch": importlib.metadata.version("torch")},
    )
    if earlier is None:
        return card
    kept = ("num_held_out", "scores", "limits", "licence", "citation")
    return card.model_copy(update={name: getattr(earlier, name) for name in kept})


def _licence_of(card: Path) -> str | None:
    return read_record(card, ModelCard, ModelError).licence if card.is_file() else None


def _evaluation(sources: Sources) -> Evaluation | None:
    """Scores of what was selected; None: nothing was."""
    if sources.selection is None or sources.paths is None or not sources.paths.evaluation.is_file():
        return None
    return read_record(sources.paths.evaluation, Evaluation)


def _scores(evaluation: Evaluation) -> dict[str, dict[str, object]]:
    return {
        target: {name: score for name, score in scores.items() if name in _SCORES}
        for target, scores in evaluation.targets.items()
    }


def _records(sources: Sources, selection: Selection, card: Package) -> dict[str, Path | bytes]:
    """Everything but the folds, as the loader of a dataset's folder finds it."""
    content: dict[Path, Record] = {_INSIDE.folder / PACKAGE: card, _INSIDE.selection: selection}
    if sources.rule.decided_by == selection.decided_by:
        content[_INSIDE.postprocessing] = sources.rule
    if sources.trust is not None:
        content[_INSIDE.trust] = sources.trust
    if sources.selection is not None and sources.paths is not None and sources.paths.calibration.is_file():
        content[_INSIDE.calibration] = _without_cases(read_record(sources.paths.calibration, Calibration), selection)
    files: dict[str, Path | bytes] = {path.as_posix(): _bytes(record) for path, record in content.items()}
    return files | {README: readme(card).encode()}


def _models(folds: Folds, card: Package, plan: str) -> dict[str, Path | bytes]:
    """Plans, results and weights of all folds."""
    trained = {fold: read_fold(fold)[1] for own in folds.values() for fold in own}
    numbers = _numbers(list(trained.values()))
    content: dict[str, Path | bytes] = {}
    for name, own in folds.items():
        configuration = card.configurations[name].model_copy(update={"licence": card.licence})
        content[(_INSIDE.configuration(plan, name) / CARD).as_posix()] = _bytes(configuration)
        for fold in own:
            inside = _INSIDE.fold(plan, name, trained[fold].fold)
            content[(inside / "fold.json").as_posix()] = _bytes(_anonymous(trained[fold], numbers))
            content[(inside / "plan.json").as_posix()] = fold / "plan.json"
            for file in sorted((fold / WEIGHTS).iterdir()):
                content[(inside / WEIGHTS / file.name).as_posix()] = file
    return content


def _numbers(folds: Sequence[TrainedFold]) -> dict[str, str]:
    """Case id -> what stands for it in all folds."""
    cases = {case for fold in folds for case in (*fold.train_cases, *fold.validation_cases, *fold.watched_cases)}
    cases |= {case for fold in folds for origin in fold.origins for case in origin.cases}
    return {case: anonymous_case(number) for number, case in enumerate(sorted(cases))}


def _anonymous(fold: TrainedFold, numbers: Mapping[str, str]) -> TrainedFold:
    def renamed(cases: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(numbers[case] for case in cases)

    origins = tuple(o.model_copy(update={"cases": renamed(o.cases)}) for o in fold.origins)
    return fold.model_copy(
        update={
            "train_cases": renamed(fold.train_cases),
            "validation_cases": renamed(fold.validation_cases),
            "watched_cases": renamed(fold.watched_cases),
            "origins": origins,
        }
    )


def _without_cases(calibration: Calibration, selection: Selection) -> Calibration:
    """The temperatures of the selected folds alone."""
    kept = {}
    for name in selection.configurations:
        if name in calibration.configurations:
            own = calibration.configurations[name]
            folds = {
                number: fold.model_copy(update={"held_out": {}})
                for number, fold in own.folds.items()
                if number in selection.folds[name]
            }
            kept[name] = own.model_copy(update={"folds": folds})
    return calibration.model_copy(update={"configurations": kept})


def _bytes(record: Record) -> bytes:
    return (record_to_json(record) + "\n").encode()

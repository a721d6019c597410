"""What was measured on all cases in, the cases with their suspicions out, the most suspicious first.

Measurements of different kinds are compared by how unusual each is among the dataset's own cases (`rarity`). That asks
the model for no calibration: an error that it makes in every fourth case accuses no reference. A gain in agreement
is also held against how much the agreement itself scatters over the cases, so that a class which the model finds well
in some cases and badly in others, as lesions are, accuses more quietly than an organ that it always finds.

One error shows in several measurements: of a shifted liver the shift raises the agreement most, but growing it does
too, and a part of it is missed on one side. Of those that concern one target the correction that adds most to the sum
of the targets' Dice explains the others, which are then left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.auditing.corrections import Correction
from autoseg.auditing.disagreement import Part
from autoseg.auditing.labels_alone import (
    LEAST_CASES,
    LabelFacts,
    log_volumes,
    median_volume,
    presence,
    side_distances,
)
from autoseg.auditing.rarity import THRESHOLD, scatter, unusualness
from autoseg.auditing.wording import (
    absent_sentence,
    correction_sentence,
    part_sentence,
    sides_sentence,
    volume_sentence,
)
from autoseg.records.audit import AuditedCase, Suspicion, SuspicionKind
from autoseg.records.geometry import IntTriple

_DICE_FLOOR = 0.02
"""Differences in Dice, or in shares of a class's volume, that never matter: what two careful raters differ by."""
_LOG_VOLUME_FLOOR = 0.1
"""A tenth of the volume."""
_SIDE_FLOOR_MM = 5.0
_MOSTLY = 0.5
"""A class that more than this share of the cases have is expected in every case."""

_NEARLY_ALL = 0.9
"""A class that this share of the cases have is no matter of the patient: where it is missing, that is an error."""
_PART_KINDS: tuple[SuspicionKind, ...] = ("missed_part", "missing_class", "extra_part")

Key = tuple[SuspicionKind, tuple[int, ...] | None]


@dataclass(frozen=True)
class Prediction:
    """How the held-out prediction of a case differs from its reference."""

    corrections: tuple[Correction, ...]
    parts: tuple[tuple[Part, IntTriple], ...]
    """Each with its centre in the voxel order of the image file."""
    volumes_mm3: tuple[float, ...]
    """Of each target."""
    dice: tuple[float | None, ...]
    """Soft Dice of each target with its reference; None: not labelled."""


@dataclass(frozen=True)
class _Candidate:
    """A suspicion before it is known whether another one explains it."""

    suspicion: Suspicion
    targets: frozenset[int]
    total: float
    """Dice that it adds, summed over its targets; 0 where the labels alone tell it."""


def rank_cases(
    facts: Mapping[str, LabelFacts],
    predictions: Mapping[str, Prediction],
    names: Sequence[str],
    pairs: Sequence[tuple[int, int]],
) -> tuple[AuditedCase, ...]:
    """Rank the cases.

    Args:
        facts: case -> what its labels say alone.
        predictions: case -> its held-out prediction; any of the cases.
        names: of the targets.
        pairs: positions of targets that are a left and a right of the same thing.
    """
    doubts = _doubts(predictions, len(names))
    candidates = [
        *_from_corrections(predictions, facts, names, doubts),
        *_from_parts(predictions, facts, names, doubts),
    ]
    alone = [*_from_volumes(facts, predictions, names), *_from_sides(facts, names, pairs)]
    ranked = []
    for case in facts:
        of_case = [c for c in candidates if c.suspicion.case == case]
        more = [c for c in alone if c.suspicion.case == case]
        kept = _unexplained(of_case, more)
        scores = [s.score for s in kept] or [c.suspicion.score for c in (*of_case, *more)]
        ranked.append(
            AuditedCase(
                case=case,
                score=max(scores, default=0.0),
                has_prediction=case in predictions,
                suspicions=tuple(sorted(kept, key=lambda s: -s.score)),
            )
        )
    return tuple(sorted(ranked, key=lambda audited: (-audited.score, audited.case)))


def _unexplained(candidates: Sequence[_Candidate], alone: Sequence[_Candidate]) -> list[Suspicion]:
    """The suspicions of one case that reach the threshold and that no better one explains."""
    kept: list[Suspicion] = []
    explained: set[int] = set()
    parted: set[int] = set()
    for candidate in sorted(candidates, key=lambda c: -c.total):
        if candidate.suspicion.score < THRESHOLD or candidate.targets & explained:
            continue
        is_part = candidate.suspicion.kind in ("missed_part", "extra_part")
        if not is_part and candidate.targets & parted:
            continue
        kept.append(candidate.suspicion)
        (parted if is_part else explained).update(candidate.targets)
    for candidate in alone:
        if candidate.suspicion.score >= THRESHOLD and not candidate.targets & explained:
            kept.append(candidate.suspicion)
    return kept


def _doubts(predictions: Mapping[str, Prediction], num_targets: int) -> list[float]:
    """How much the agreement about each target scatters over the cases, in Dice."""
    doubts = []
    for target in range(num_targets):
        dice = [found for prediction in predictions.values() if (found := prediction.dice[target]) is not None]
        doubts.append(max(_DICE_FLOOR, scatter(dice)))
    return doubts


def _from_corrections(
    predictions: Mapping[str, Prediction],
    facts: Mapping[str, LabelFacts],
    names: Sequence[str],
    doubts: Sequence[float],
) -> list[_Candidate]:
    found: dict[Key, dict[str, Correction]] = {}
    for case, prediction in predictions.items():
        for correction in prediction.corrections:
            found.setdefault((correction.kind, None if correction.is_whole else correction.targets), {})[case] = (
                correction
            )
    candidates = []
    for corrections in found.values():
        gains = {case: _weighted_gain(correction, doubts) for case, correction in corrections.items()}
        doubt = scatter(
            [_weighted(correction.before, correction.targets, doubts) for correction in corrections.values()]
        )
        scores = unusualness(gains, max(_DICE_FLOOR, doubt))
        for case, correction in corrections.items():
            voxel = None if correction.is_whole else facts[case].voxels[correction.targets[0]]
            suspicion = Suspicion(
                case=case,
                kind=correction.kind,
                targets=tuple(names[number] for number in correction.targets),
                score=scores[case],
                why=correction_sentence(correction, names),
                gain=gains[case],
                volume_mm3=None,
                voxel=voxel,
            )
            candidates.append(
                _Candidate(suspicion, frozenset(correction.targets), gains[case] * len(correction.targets))
            )
    return candidates


def _weighted_gain(correction: Correction, doubts: Sequence[float]) -> float:
    """What a correction adds, 0 where it would harm."""
    gains = [after - before for before, after in zip(correction.before, correction.after, strict=True)]
    return max(0.0, _weighted(gains, correction.targets, doubts))


def _weighted(values: Sequence[float], targets: Sequence[int], doubts: Sequence[float]) -> float:
    """Mean over targets; each weighs by the inverse square of its doubt, as in a mean of unequal measurements."""
    return float(np.average(values, weights=[doubts[target] ** -2 for target in targets]))


def _from_parts(
    predictions: Mapping[str, Prediction],
    facts: Mapping[str, LabelFacts],
    names: Sequence[str],
    doubts: Sequence[float],
) -> list[_Candidate]:
    candidates = []
    for target, name in enumerate(names):
        usual, share = median_volume(facts, target), presence(facts, target)
        if usual is None:
            continue
        for kind in _PART_KINDS:
            parts = {
                case: [(part, voxel) for part, voxel in p.parts if part.target == target and part.kind == kind]
                for case, p in predictions.items()
            }
            heaviest = {c: max((p.weight_mm3 for p, _ in of), default=0.0) / usual for c, of in parts.items()}
            values = {case: min(1.0, heavy) for case, heavy in heaviest.items()}
            is_error = kind == "missing_class" and share >= _NEARLY_ALL
            scores = unusualness(values, doubts[target], has_habits=not is_error)
            for case, of_case in parts.items():
                for part, voxel in of_case:
                    share_of_score = min(1.0, part.weight_mm3 / usual) / values[case] if values[case] > 0 else 0.0
                    suspicion = Suspicion(
                        case=case,
                        kind="missed_part" if kind == "missing_class" and share <= _MOSTLY else kind,
                        targets=(name,),
                        score=scores[case] * share_of_score,
                        why=part_sentence(part, names, share, facts[case].is_area),
                        gain=part.gain,
                        volume_mm3=part.volume_mm3,
                        voxel=voxel,
                    )
                    candidates.append(_Candidate(suspicion, frozenset([target]), part.gain))
    return candidates


def _from_volumes(
    facts: Mapping[str, LabelFacts], predictions: Mapping[str, Prediction], names: Sequence[str]
) -> list[_Candidate]:
    """Outlying volumes, and classes that are missing where no prediction can say whether they should be there."""
    candidates = []
    for target, name in enumerate(names):
        logs, share = log_volumes(facts, target), presence(facts, target)
        if len(logs) < LEAST_CASES:
            continue
        middle = float(np.median(list(logs.values())))
        ratios = {
            case: float(np.log(facts[case].volumes_mm3[target] / predictions[case].volumes_mm3[target]))
            for case in logs
            if case in predictions and predictions[case].volumes_mm3[target] > 0
        }
        against = unusualness(ratios, _LOG_VOLUME_FLOOR, has_habits=True)
        for case, score in unusualness(logs, _LOG_VOLUME_FLOOR, has_habits=True).items():
            # A prediction as unusual as the reference supports it: both must find the volume odd.
            found = predictions[case].volumes_mm3[target] if case in predictions else None
            least = min(abs(score), abs(against[case])) if case in against else abs(score)
            is_opposed = case in against and against[case] * score < 0
            own = facts[case].volumes_mm3[target]
            expected = own * float(np.exp(middle - logs[case]))
            why = volume_sentence(name, own, expected, found, facts[case].is_area)
            certain = 0.0 if is_opposed else least
            candidates.append(_alone(facts, case, "outlying_volume", (target,), names, certain, why))
        if share <= _MOSTLY:
            continue
        nothing = {case: float(np.log(f.voxel_mm3 / 2)) for case, f in facts.items() if case not in logs}
        scores = unusualness({**logs, **nothing}, _LOG_VOLUME_FLOOR, has_habits=share < _NEARLY_ALL)
        for case, score in scores.items():
            if case in nothing and case not in predictions:
                why = absent_sentence(name, share)
                candidates.append(_alone(facts, case, "missing_class", (target,), names, abs(score), why))
    return candidates


def _from_sides(
    facts: Mapping[str, LabelFacts], names: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> list[_Candidate]:
    candidates = []
    for pair in pairs:
        distances = side_distances(facts, pair)
        if len(distances) < LEAST_CASES:
            continue
        usual = float(np.median(list(distances.values())))
        for case, score in unusualness(distances, _SIDE_FLOOR_MM).items():
            if distances[case] * usual < 0:
                why = sides_sentence(names[pair[0]], names[pair[1]], distances[case], usual)
                candidates.append(_alone(facts, case, "swapped_sides", pair, names, abs(score), why))
    return candidates


def _alone(
    facts: Mapping[str, LabelFacts],
    case: str,
    kind: SuspicionKind,
    targets: tuple[int, ...],
    names: Sequence[str],
    score: float,
    why: str,
) -> _Candidate:
    """A suspicion that the labels alone tell."""
    suspicion = Suspicion(
        case=case,
        kind=kind,
        targets=tuple(names[number] for number in targets),
        score=score,
        why=why,
        gain=None,
        volume_mm3=facts[case].volumes_mm3[targets[0]] if len(targets) == 1 else None,
        voxel=facts[case].voxels[targets[0]],
    )
    return _Candidate(suspicion, frozenset(targets), 0.0)

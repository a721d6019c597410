"""What `trust.json` knows and one prediction in, its predicted quality, volumes and reasons to look at it out."""

from collections.abc import Mapping
from pathlib import Path

from autoseg import console
from autoseg.records.base import read_record
from autoseg.records.labels import IntArray, LabelScheme
from autoseg.records.results import PreprocessedCase, Selection
from autoseg.records.trust import Judgement, Trust, VolumeEstimate
from autoseg.selection.conformal import interval_around
from autoseg.selection.out_of_distribution import unusual_properties
from autoseg.selection.quality import predict_quality
from autoseg.storage.tables import csv_text


def read_trust(path: Path, selection: Selection) -> Trust | None:
    """What was learned about the selected candidate; None where nothing was, or only about another selection."""
    if not path.is_file():
        return None
    trust = read_record(path, Trust)
    return trust if trust.decided_by == selection.decided_by else None


def warn_of_case(case: str, judgement: Judgement) -> None:
    """Warn the user at the terminal where a case should be looked at."""
    if judgement.reasons:
        console.warn(f"{case}: look at it: {'; '.join(judgement.reasons)}")


def judge(
    trust: Trust, meta: PreprocessedCase, classes: IntArray, labels: LabelScheme, features: Mapping[str, float]
) -> Judgement:
    """Say how good one prediction probably is, without a reference.

    Args:
        trust: of the candidate that predicted.
        meta: how the case came onto the grid of the candidate's first configuration.
        classes: `Z Y X` internal class numbers as they are written, post-processing included.
        labels: scheme with the targets.
        features: of its probabilities, as `selection.features` measures them; empty: nothing was segmented.

    Returns:
        Predicted Dice, reasons to look at the case, and the volume of each target, mm3 (mm2 for a 2-D image), with its
        interval.
    """
    reasons = list(unusual_properties(meta, trust.known))
    predicted = None
    if not features:
        reasons.append("nothing was segmented")
    elif trust.quality is not None:
        predicted = predict_quality(trust.quality, features)
        limit = trust.quality.flag_below
        if predicted is not None and limit is not None and predicted < limit:
            reasons.append(f"predicted Dice {predicted:.2f}, below {limit:.2f}")
    return Judgement(
        predicted_dice=predicted,
        reasons=tuple(reasons),
        volumes=_volumes(trust, classes, labels, meta.geometry.voxel_volume_mm3),
        features=dict(features),
    )


def quality_table(judgements: Mapping[str, Judgement]) -> str:
    """CSV, one row a case: predicted Dice, whether to look at it and why; then each target's volume and interval."""
    targets = list(dict.fromkeys(name for one in judgements.values() for name in one.volumes))
    columns = [f"{name} {what}" for name in targets for what in ("mm3", "low mm3", "high mm3")]
    rows = []
    for case, judgement in sorted(judgements.items()):
        estimates = [judgement.volumes.get(name) for name in targets]
        values = [
            value
            for one in estimates
            for value in ((None, None, None) if one is None else (one.volume_mm3, one.low_mm3, one.high_mm3))
        ]
        look = "yes" if judgement.reasons else "no"
        row = [case, _number(judgement.predicted_dice, 4), look, "; ".join(judgement.reasons)]
        rows.append([*row, *(_number(value, 2) for value in values)])
    return csv_text(["case", "predicted_dice", "look_at_it", "why", *columns], rows)


def _volumes(
    trust: Trust, classes: IntArray, labels: LabelScheme, voxel_volume_mm3: float
) -> dict[str, VolumeEstimate]:
    counts = [int((classes == number).sum()) for number in range(labels.num_classes)]
    volumes = {}
    for target in labels.targets:
        volume = sum(counts[number] for number in target.members) * voxel_volume_mm3
        ends = interval_around(volume, trust.volumes[target.name]) if target.name in trust.volumes else None
        low, high = ends if ends is not None else (None, None)
        volumes[target.name] = VolumeEstimate(volume_mm3=volume, low_mm3=low, high_mm3=high)
    return volumes


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"

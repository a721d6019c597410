"""A correction, a part or a number in, the plain sentence that accuses the reference out.

Sentences name the target in the dataset's own words, say what was measured in mm, mm3 or Dice, and never say that the
reference is wrong: a person who looks at the picture decides.
"""

from collections.abc import Sequence

from autoseg.auditing.corrections import Correction
from autoseg.auditing.disagreement import Part
from autoseg.records.geometry import Triple

_WAYS = (("the patient's left", "the patient's right"), ("the back", "the front"), ("the feet", "the head"))
_AXES = ("left to right", "back to front", "feet to head")
_LEAST_MM = 0.5


def correction_sentence(correction: Correction, names: Sequence[str]) -> str:
    """Why the reference probably needs this correction; `names` are those of all targets."""
    what = (
        "the whole label map"
        if correction.is_whole and len(correction.targets) > 1
        else _joined(names, correction.targets)
    )
    dice = f"Dice {correction.mean_before:.2f} to {correction.mean_after:.2f}"
    rise = f"the agreement with the held-out prediction from {dice}"
    match correction.kind:
        case "swapped":
            return f"{_joined(names, correction.targets)} look exchanged: exchanging their labels raises {rise}."
        case "mirrored":
            return f"{what} looks mirrored {_AXES[correction.axis or 0]}: flipping it raises {rise}."
        case "shifted":
            return f"{what} looks shifted: moving it {_way(correction.move_mm or (0.0, 0.0, 0.0))} raises {rise}."
        case "too_small":
            return f"{what} looks too small: growing it by {correction.distance_mm:.1f} mm raises {rise}."
        case _:
            return f"{what} looks too large: shrinking it by {correction.distance_mm:.1f} mm raises {rise}."


def part_sentence(part: Part, names: Sequence[str], presence: float, is_area: bool) -> str:
    """Why a part of a case is suspicious; `presence` is the share of cases that have its target."""
    name, size = names[part.target], _size(part.volume_mm3, is_area)
    if part.kind == "missing_class":
        return (
            f"{name} is not labelled, though {presence:.0%} of the cases have it and the held-out prediction sees "
            f"{size} of it (mean probability {part.confidence:.2f})."
        )
    if part.kind == "extra_part":
        return (
            f"{size} are labelled {name} where the held-out prediction is sure that it is not "
            f"(mean probability {part.confidence:.2f})."
        )
    instead = "background" if part.other is None else names[part.other]
    return (
        f"the held-out prediction sees {name} in {size} that are labelled {instead} "
        f"(mean probability {part.confidence:.2f})."
    )


def volume_sentence(name: str, volume_mm3: float, usual_mm3: float, predicted_mm3: float | None, is_area: bool) -> str:
    """Why a volume is suspicious; `usual_mm3` is that of cases of the same size."""
    sentence = f"{name} has {_size(volume_mm3, is_area)}, cases of this size usually have {_size(usual_mm3, is_area)}"
    if predicted_mm3 is None:
        return f"{sentence}."
    return f"{sentence}; the held-out prediction has {_size(predicted_mm3, is_area)}."


def absent_sentence(name: str, presence: float) -> str:
    """Why a class that is not labelled is suspicious where there is no prediction."""
    return f"{name} is not labelled, though {presence:.0%} of the cases have it; no prediction was asked."


def sides_sentence(left: str, right: str, distance_mm: float, usual_mm: float) -> str:
    """Why the two of a pair lie suspiciously; distances from the left to the right one towards the patient's right."""
    return (
        f"{left} and {right} lie on each other's side: {right} is {abs(distance_mm):.0f} mm to "
        f"{_WAYS[0][distance_mm > 0]} of {left}, usually {abs(usual_mm):.0f} mm to {_WAYS[0][usual_mm > 0]}. "
        "Their labels are exchanged, or the image is stored mirrored."
    )


def _joined(names: Sequence[str], numbers: Sequence[int]) -> str:
    return " and ".join(names[number] for number in numbers)


def _way(move_mm: Triple) -> str:
    parts = [
        f"{abs(way):.1f} mm to {_WAYS[axis][way > 0]}" for axis, way in enumerate(move_mm) if abs(way) >= _LEAST_MM
    ]
    return " and ".join(parts) or "by less than a mm"


def _size(volume_mm3: float, is_area: bool) -> str:
    if is_area:
        return f"{volume_mm3:.0f} mm2"
    return f"{volume_mm3 / 1000:.1f} ml" if volume_mm3 >= 1000 else f"{volume_mm3:.0f} mm3"

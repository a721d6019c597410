"""A dataset's name in, the tolerance of its surface Dice out; and which Decathlon task a name is."""

import re

from autoseg.records.scoring import DEFAULT_TOLERANCE_MM

# Task name -> number, tolerance in mm that the challenge used for all classes of the task, after Antonelli et al. 2022
# (doi 10.1038/s41467-022-30695-9). From memory: UNVERIFIED against the paper; an evaluation therefore always names
# the tolerance it was made with.
_DECATHLON: dict[str, tuple[int, float]] = {
    "braintumour": (1, 5.0),
    "heart": (2, 4.0),
    "liver": (3, 7.0),
    "hippocampus": (4, 1.0),
    "prostate": (5, 4.0),
    "lung": (6, 2.0),
    "pancreas": (7, 5.0),
    "hepaticvessel": (8, 3.0),
    "spleen": (9, 3.0),
    "colon": (10, 4.0),
}


def decathlon_task(dataset: str) -> str | None:
    """The Decathlon task that a folder is by its name (`Task04_Hippocampus`, `Dataset004_Hippocampus`), in lower case.

    Number and name must both agree: another task called `Liver` is another dataset. None for all others.
    """
    match = re.fullmatch(r"(?:Task|Dataset)0*(\d+)_(\w+)", dataset, flags=re.IGNORECASE)
    if match is None:
        return None
    name = match.group(2).lower()
    return name if name in _DECATHLON and _DECATHLON[name][0] == int(match.group(1)) else None


def tolerance_mm(dataset: str) -> float:
    """Tolerance of the surface Dice of every class of a dataset, by its name; the default for unknown ones."""
    task = decathlon_task(dataset)
    return DEFAULT_TOLERANCE_MM if task is None else _DECATHLON[task][1]

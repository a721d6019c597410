"""Label names in, pairs of classes that are each other's mirror image out.

A left lung mirrored across the sagittal plane looks like a right lung, and nnU-Net's mirroring then teaches the
network that the two cannot be told apart. Where a pair is known, mirroring exchanges the two classes instead, which
keeps the augmentation and the anatomy. A pair is two names that differ by the side alone, whatever the order of the
words, their case and what joins them. A single sided name ("Left Atrium" without a right one) is no pair.

Heart chambers are no pair either: a mirrored left ventricle still has the thick wall of a left ventricle. The lateral
ventricles of the brain are.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

SIDES = {
    "left": ["left", "l", "lt", "lft", "lh", "links", "linke", "linker", "linkes", "linken", "gauche", "sinister"]
    + ["sinistra", "sinistrum", "sin", "izquierdo", "izquierda", "sinistro", "esquerdo", "esquerda"],
    "right": ["right", "r", "rt", "rgt", "rh", "rechts", "rechte", "rechter", "rechtes", "rechten", "droite", "droit"]
    + ["dexter", "dextra", "dextrum", "dex", "derecho", "derecha", "destra", "destro", "direita", "direito"],
}
"""Words for a side, in lower case, in the languages that label files are written in."""

_SIDE_OF = {word: side for side, words in SIDES.items() for word in words}
_GLUED = re.compile(r"^(left|right|links|rechts)(.{3,})$|^(.{3,})(left|right|links|rechts)$")
"""Sides written without any join, as in `leftkidney`; only whole words, so that `l` of `lung` is never meant."""

_WORDS = re.compile(r"[^\W\d_]+|\d+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_CHAMBERS = {"atrium", "atria", "atrial", "ventricle", "ventricles", "ventricular", "vorhof", "ventrikel", "heart"}
_BRAIN = {"lateral", "brain", "cerebral", "inf", "inferior", "horn", "temporal", "occipital", "plexus", "choroid"}
"""Words that make a ventricle one of the brain."""


def left_right_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Find the pairs of names that differ by their side alone: ("left kidney", "Kidney_R", "liver") gives [(0, 1)].

    Args:
        names: of the classes, in the order of their numbers.

    Returns:
        Positions in `names`, left before right, in the order of the left ones. A name without a side or with several,
        and one that is not unique once its side is taken away, is in no pair.
    """
    found: dict[tuple[str, ...], dict[str, list[int]]] = defaultdict(lambda: {"left": [], "right": []})
    for position, name in enumerate(names):
        words = _split(name)
        sides = [_SIDE_OF[word] for word in words if word in _SIDE_OF]
        rest = tuple(sorted(word for word in words if word not in _SIDE_OF))
        if len(sides) == 1 and not (_CHAMBERS.intersection(rest) and not _BRAIN.intersection(rest)):
            found[rest][sides[0]].append(position)
    pairs = [(of["left"][0], of["right"][0]) for of in found.values() if len(of["left"]) == 1 and len(of["right"]) == 1]
    return tuple(sorted(pairs))


def _split(name: str) -> list[str]:
    """Lower-case words and numbers of a name: `RightParotid`, `kidney_l` and `leftkidney` each give two."""
    words = [word.casefold() for part in _WORDS.findall(name) for word in _CAMEL.split(part)]
    split: list[str] = []
    for word in words:
        glued = _GLUED.match(word)
        split += [piece for piece in glued.groups() if piece] if glued else [word]
    return split

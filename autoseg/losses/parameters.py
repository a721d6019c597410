"""A loss and the parameters that a recipe gives it in, the loss with these fixed out; mistakes are refused.

A loss's keyword-only arguments with a number for default are its parameters (ours: the paper's). One whose default is
a whole number takes whole numbers only.
"""

import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from inspect import Parameter, signature

from torch import Tensor

from autoseg.errors import UsageError

ABOVE_ZERO = frozenset({"gamma", "share"})
"""Parameters that 0 would make meaningless; all others are numbers from 0 up."""

AT_MOST_ONE = frozenset({"share", "sensitivity", "dice_weight"})
"""Parameters that are shares."""


def known_parameters(loss: Callable[..., Tensor]) -> dict[str, float]:
    """The parameters of a loss with their defaults."""
    given = signature(loss).parameters.values()
    return {
        p.name: p.default for p in given if p.kind is Parameter.KEYWORD_ONLY and isinstance(p.default, (int, float))
    }


def with_parameters(name: str, loss: Callable[..., Tensor], parameters: Mapping[str, float]) -> Callable[..., Tensor]:
    """`loss` with these parameters instead of its defaults.

    Raises:
        UsageError: the loss has no such parameter, or cannot take the value; all mistakes are named.
    """
    known = known_parameters(loss)
    faults = [
        _unknown(key, known) if key not in known else _fault(key, value, known) for key, value in parameters.items()
    ]
    if found := [fault for fault in faults if fault]:
        raise UsageError(f"Parameters of the loss {name!r}: {'; '.join(found)}.")
    return partial(loss, **{key: type(known[key])(value) for key, value in parameters.items()})


def _unknown(key: str, known: Mapping[str, float]) -> str:
    listed = ", ".join(f"{name} (default {default:.4g})" for name, default in known.items())
    near = get_close_matches(key, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"there is no {key!r}{hint}; it has {listed or 'none'}"


def _fault(key: str, value: float, known: Mapping[str, float]) -> str | None:
    high = 1.0 if key in AT_MOST_ONE else math.inf
    if not math.isfinite(value) or not 0 <= value <= high or (value == 0 and key in ABOVE_ZERO):
        low = "above 0" if key in ABOVE_ZERO else "from 0 up"
        return f"{key} must be a number {low}{'' if high == math.inf else ' and at most 1'}, got {value:g}"
    if isinstance(known[key], int) and value != int(value):
        return f"{key} must be a whole number, got {value:g}"
    return None

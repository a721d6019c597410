"""A loss as short text such as `soft_dice + 0.5*focal(gamma=3)` in, the fields of its terms out; and back.

Long enough for a command line: weights and parameters, but no class weights.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

_PLUS_OUTSIDE_BRACKETS = re.compile(r"\+(?![^(]*\))")
_TERM = re.compile(r"(?:(?P<weight>[^*()]+)\*)?\s*(?P<name>[A-Za-z_]\w*)\s*(?:\((?P<parameters>[^()]*)\))?")


def parse_loss(text: str) -> list[dict[str, Any]]:
    """The terms of `text`, each as the fields of a `LossTerm`.

    Raises:
        ValueError: the text has another form; the message says which one is meant.
    """
    return [_parse_term(part.strip(), text) for part in _PLUS_OUTSIDE_BRACKETS.split(text)]


def format_term(name: str, weight: float, parameters: Mapping[str, float]) -> str:
    """One term as `parse_loss` reads it."""
    inside = ", ".join(f"{key}={_shortest(value)}" for key, value in parameters.items())
    return ("" if weight == 1 else f"{_shortest(weight)}*") + name + (f"({inside})" if inside else "")


def _parse_term(part: str, text: str) -> dict[str, Any]:
    match = _TERM.fullmatch(part)
    if match is None:
        raise ValueError(
            f"{part!r} in {text!r} is no term of a loss: expected NAME, WEIGHT*NAME or NAME(PARAMETER=NUMBER, ...), "
            "joined by +, for example soft_dice+0.5*focal(gamma=3)"
        )
    parameters = {}
    for item in (match["parameters"] or "").split(","):
        if item.strip():
            key, _, value = item.partition("=")
            parameters[key.strip()] = _number(value, text)
    return {
        "name": match["name"],
        "weight": 1.0 if match["weight"] is None else _number(match["weight"], text),
        "parameters": parameters,
    }


def _number(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{value.strip()!r} in {text!r} is no number")
    return number


def _shortest(value: float) -> str:
    return repr(value).removesuffix(".0").replace("e+", "e")

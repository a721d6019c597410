"""A name from a plan and one of our literal tables in, the function of that name out: ours, or an installed package's.

Installed packages offer theirs through Python entry points. A name in our own table cannot be replaced.
"""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TypeVar

from autoseg.errors import UsageError

Function = TypeVar("Function")


def find_function(name: str, table: Mapping[str, Function], group: str, field: str) -> Function:
    """The function called `name`.

    Args:
        name: as in the plan.
        table: our own functions.
        group: entry points to look in where the table has no such name.
        field: of the plan, for the message.

    Raises:
        UsageError: no such function; the known ones are named.
    """
    if name in table:
        return table[name]
    installed = entry_points(group=group)
    if name in installed.names:
        function: Function = installed[name].load()
        return function
    known = ", ".join([*table, *sorted(installed.names)])
    raise UsageError(
        f"The plan's {field} asks for {name!r}; known are {known}. Correct it in the plan, or install the package "
        f"that has it (entry points {group!r})."
    )

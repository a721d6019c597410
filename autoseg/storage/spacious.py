"""A shape and a type in, a new array out: in memory, or where it would take much of that, in a file that is mapped.

The pages of a mapped file are the system's to write out and to read again, so a volume near or beyond the memory
makes a case slow instead of having it killed. The file has no name: nothing is left when the process ends, however.
"""

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.devices import available_memory_bytes
from autoseg.errors import ResourceError

_SHARE = 0.25
"""Of the memory that is free now: an array of more goes to a file. A case holds two such arrays, its image and its
labels, while the next one is prepared."""


def spacious(shape: tuple[int, ...], dtype: npt.DTypeLike, folder: Path | None = None) -> npt.NDArray[Any]:
    """An array of zeros.

    Args:
        shape: of it.
        dtype: of its values.
        folder: where a file may lie; None: the system's folder for temporary files (`TMPDIR` chooses it).

    Raises:
        ResourceError: the folder's disk has too little space.
    """
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if num_bytes <= _SHARE * available_memory_bytes():
        return np.zeros(shape, dtype)
    where = Path(tempfile.gettempdir()) if folder is None else folder
    try:
        with tempfile.TemporaryFile(dir=where) as file:
            if hasattr(os, "posix_fallocate"):  # a full disk must be seen now: writing to a map cannot fail, only kill
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            else:
                file.truncate(num_bytes)
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
    except OSError as error:
        raise ResourceError(
            f"An array of {num_bytes / 2**30:.1f} GiB is too large for the memory that is free "
            f"({available_memory_bytes() / 2**30:.1f} GiB) and finds no place in {where} ({error.strerror}). Free "
            "memory or space there, or let TMPDIR name a folder on a larger disk."
        ) from error

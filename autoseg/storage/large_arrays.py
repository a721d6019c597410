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
_MOST = 0.5
"""An array of no more than this share lies in memory where no file has a place: temporary folders may be small."""


def large_array(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array of zeros; its file, if it has one, lies on the disk of the folder for temporary files (`TMPDIR`).

    Raises:
        ResourceError: the disk has too little space, and so has the memory.
    """
    num_bytes, free = math.prod(shape) * np.dtype(dtype).itemsize, available_memory_bytes()
    if num_bytes <= _SHARE * free:
        return np.zeros(shape, dtype)
    where = Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryFile(dir=where) as file:
            if hasattr(os, "posix_fallocate"):  # a full disk must be seen now: writing to a map cannot fail, only kill
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            else:
                file.truncate(num_bytes)
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
    except OSError as error:
        if num_bytes <= _MOST * free:
            return np.zeros(shape, dtype)
        raise ResourceError(
            f"An array of {num_bytes / 2**30:.1f} GiB is too large for the memory that is free "
            f"({free / 2**30:.1f} GiB) and finds no place in {where} ({error.strerror}). Free "
            "memory or space there, or let TMPDIR name a folder on a larger disk."
        ) from error


def laid_out(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`values` (at least 2 axes) themselves where they lie one after another in the machine's byte order, else a copy.

    The copy is a `large_array` array and is made slice by slice along the second axis, so `values` may be a mapped file
    beyond the memory. Raises ResourceError as `large_array` does.
    """
    native = values.dtype.newbyteorder("=")
    if values.dtype == native and values.flags.c_contiguous and values.flags.aligned:
        return values
    copy = large_array(values.shape, native)
    for row in range(values.shape[1]):
        copy[:, row] = values[:, row]
    return copy

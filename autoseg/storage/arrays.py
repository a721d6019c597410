"""Numpy arrays in, chunked compressed blosc2 files out, and boxes of them back without reading the rest.

blosc2 with LZ4 is what patch reads are fastest from after a plain memory map, at a third of its size.
blosc2 has no checksum (194 of 200 flipped bits went unnoticed when measured), so the hash of every file
is kept in a manifest by whoever wrote it; `sha256_file` compares.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.errors import DataError, ResourceError
from autoseg.storage.atomic import filled_file

Box = tuple[slice, ...]
PutBox = Callable[[Box, npt.NDArray[Any]], None]


def write_array(
    path: Path, array: npt.NDArray[Any], chunks: tuple[int, ...] | None = None, durable: bool = True
) -> None:
    """Write `array` (any shape, numeric dtype) to `path` (`.b2nd`), atomically.

    Args:
        path: target file.
        array: values; stored without loss.
        chunks: chunk shape, for example one training patch, so that a patch read decompresses little;
            default: chosen by blosc2.
        durable: as for `write_atomically`.

    Raises:
        ResourceError: the disk is full.
    """
    with array_writer(path, array.shape, array.dtype, chunks, durable) as put:
        put(tuple(slice(0, size) for size in array.shape), array)


@contextmanager
def array_writer(
    path: Path,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    chunks: tuple[int, ...] | None = None,
    durable: bool = True,
) -> Iterator[PutBox]:
    """Yield a function that writes a box of an array that need never exist whole; `path` is there when the block ends.

    Boxes that are whole chunks are compressed once. The rest is as for `write_array`.
    """
    import blosc2

    chunk_shape = None if chunks is None else tuple(min(c, s) for c, s in zip(chunks, shape, strict=True))
    cparams = blosc2.CParams(codec=blosc2.Codec.LZ4, clevel=5, filters=[blosc2.Filter.SHUFFLE], nthreads=1)
    with filled_file(path, suffix=".b2nd", durable=durable) as temporary:
        temporary.unlink()  # blosc2 refuses to write over the empty file that holds the name
        stored = blosc2.empty(shape, np.dtype(dtype), urlpath=str(temporary), chunks=chunk_shape, cparams=cparams)

        def put(box: Box, values: npt.NDArray[Any]) -> None:
            expected = tuple(part.stop - part.start for part in box)
            assert values.shape == expected, f"values {values.shape} are not the box {expected}"
            try:
                stored[box] = np.ascontiguousarray(values)
            except RuntimeError as error:  # blosc2 does not say why
                raise ResourceError(f"Cannot write {path} ({error}); is the disk full?") from error

        yield put


def read_array(path: Path, box: Box | None = None) -> npt.NDArray[Any]:
    """Read the whole array of `path`, or its `box` (one slice an axis, inside the array).

    Raises:
        DataError: the file is missing or is no blosc2 array.
    """
    import blosc2

    try:
        stored = blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
        values = stored[...] if box is None else stored[box]
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(path, error) from error
    return np.asarray(values)


def array_shape(path: Path) -> tuple[int, ...]:
    """Shape of the stored array, from its header alone; raises DataError as `read_array` does."""
    import blosc2

    try:
        return tuple(blosc2.open(str(path), mode="r").shape)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    remedy = "It is missing or damaged: remove it and call again the command that writes it."
    return DataError(f"{path} cannot be read ({error}). {remedy}")

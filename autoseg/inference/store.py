"""Out-of-fold probabilities of a case in, files beside its segmentation out, and slabs of them back.

`<case>.probabilities.b2nd` holds float16 `H z y x` on the crop box of the turned grid, `<case>.disagreement.b2nd`
(where the model mirrors) uint8 `z y x` there, 255 for the largest possible, and `<case>.json` the record
`PreprocessedCase` that says where that box lies. Slabs can be read alone, so that ensembles are scored in
memory that does not grow with the number of configurations; and written alone, as a network finishes them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from autoseg.errors import ModelError
from autoseg.inference.export import Disagreement, Probabilities, crop_shape, probability_depth
from autoseg.records.base import read_record
from autoseg.records.results import PreprocessedCase
from autoseg.storage.arrays import array_shape, array_writer, read_array


def probabilities_path(folder: Path, case: str) -> Path:
    """Where the probabilities of a case lie in a fold's `validation` folder."""
    return folder / f"{case}.probabilities.b2nd"


def disagreement_path(folder: Path, case: str) -> Path:
    """Where the disagreement of a case's mirrorings lies, beside its probabilities."""
    return folder / f"{case}.disagreement.b2nd"


def folds_path(folder: Path, case: str) -> Path:
    """Where the disagreement of the folds of an ensemble lies: uint8 `z y x`, 255 for 1, on the same box.

    The distance of each fold's probabilities to those of all folds of its configuration together, as mirrorings are
    compared (`sliding_window.predict_rows`), averaged over folds and configurations.
    """
    return folder / f"{case}.folds.b2nd"


def meta_path(folder: Path, case: str) -> Path:
    """The record beside the probabilities of a case, written when they are complete."""
    return folder / f"{case}.json"


@contextmanager
def probability_writer(
    path: Path, num_heads: int, meta: PreprocessedCase, durable: bool = True
) -> Iterator[Callable[[slice, Probabilities], None]]:
    """Yield a function that takes rows along z and their probabilities `H rows y x`; raises as `array_writer`."""
    depth, (z, y, x) = probability_depth(num_heads, crop_shape(meta)), crop_shape(meta)
    whole = (slice(0, num_heads), slice(0, y), slice(0, x))
    with array_writer(path, (num_heads, z, y, x), np.float16, (num_heads, depth, y, x), durable) as put:
        yield lambda rows, values: put((whole[0], rows, *whole[1:]), values)


@contextmanager
def disagreement_writer(
    path: Path, meta: PreprocessedCase, durable: bool = True
) -> Iterator[Callable[[slice, Disagreement], None]]:
    """Yield a function that takes rows along z and their disagreement `rows y x`; raises as `array_writer`."""
    z, y, x = crop_shape(meta)
    with array_writer(path, (z, y, x), np.uint8, (16, y, x), durable) as put:
        yield lambda rows, values: put((rows, slice(0, y), slice(0, x)), values)


def read_disagreement(folder: Path, case: str, rows: slice | None = None) -> Disagreement | None:
    """Disagreement `z y x` of a case's mirrorings, or only `rows` along z; None where the model does not mirror."""
    path = disagreement_path(folder, case)
    if not path.is_file():
        return None
    if rows is None:
        return read_array(path)
    _, y, x = array_shape(path)
    return read_array(path, (rows, slice(0, y), slice(0, x)))


def read_probabilities(folder: Path, case: str, rows: slice | None = None) -> Probabilities:
    """Probabilities `H z y x` of a case, or only `rows` along z; raises DataError when they are not readable."""
    path = probabilities_path(folder, case)
    if rows is None:
        return read_array(path)
    num_heads, _, y, x = array_shape(path)
    return read_array(path, (slice(0, num_heads), rows, slice(0, y), slice(0, x)))


def read_meta(folder: Path, case: str) -> PreprocessedCase:
    """How the case came onto the network's grid; raises ModelError when validation did not finish."""
    remedy = "Train this fold again to repeat its validation."
    return read_record(meta_path(folder, case), PreprocessedCase, ModelError, remedy)

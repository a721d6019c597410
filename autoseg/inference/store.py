"""Out-of-fold probabilities of a case in, files beside its segmentation out, and slabs of them back.

`<case>.probabilities.b2nd` holds float16 `H z y x` on the crop box of the turned grid, `<case>.disagreement.b2nd`
(where the model mirrors) uint8 `z y x` there, 255 for the largest possible, and `<case>.json` the record
`PreprocessedCase` that says where that box lies. Slabs can be read alone, so that ensembles are scored in
memory that does not grow with the number of configurations.
"""

from pathlib import Path

from autoseg.errors import ModelError
from autoseg.inference.export import Disagreement, Probabilities, slabs
from autoseg.records.base import read_record, write_record
from autoseg.records.results import PreprocessedCase
from autoseg.storage.arrays import array_shape, read_array, write_array


def probabilities_path(folder: Path, case: str) -> Path:
    """Where the probabilities of a case lie in a fold's `validation` folder."""
    return folder / f"{case}.probabilities.b2nd"


def disagreement_path(folder: Path, case: str) -> Path:
    """Where the disagreement of a case's mirrorings lies, beside its probabilities."""
    return folder / f"{case}.disagreement.b2nd"


def meta_path(folder: Path, case: str) -> Path:
    """The record beside the probabilities of a case, written when they are complete."""
    return folder / f"{case}.json"


def write_probabilities(folder: Path, meta: PreprocessedCase, probabilities: Probabilities) -> None:
    """Write `H z y x` float16 and how to bring it to the file's grid; raises ResourceError when the disk is full."""
    depth = next(slabs(probabilities.shape)).stop
    chunks = (len(probabilities), min(depth, 16), *probabilities.shape[2:])
    write_array(probabilities_path(folder, meta.id), probabilities, chunks)
    write_record(meta_path(folder, meta.id), meta)


def write_disagreement(folder: Path, case: str, disagreement: Disagreement) -> None:
    """Write `z y x` uint8; raises ResourceError when the disk is full."""
    write_array(disagreement_path(folder, case), disagreement, (16, *disagreement.shape[1:]))


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

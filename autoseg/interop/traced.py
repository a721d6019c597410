"""A model folder in, its networks as one file that runs without autoseg out (ONNX or torch.export), and its plan.

    <out>/model.onnx or model.pt2     patches N C Z Y X float32 in, mean logits of all folds N H Z Y X out
    <out>/autoseg.json                record `TracedModel`: how images are prepared, the patch, the labels

What is written is run once beside the original before it gets its name: a file that answers otherwise is never kept.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autoseg.errors import ModelError, UsageError
from autoseg.inference.model import Model, load_model
from autoseg.interop.export_folds import folds_to_export
from autoseg.interop.exportable_module import exportable_module
from autoseg.records.base import write_record
from autoseg.records.traced import TracedModel
from autoseg.storage.atomic import filled_folder

DESCRIPTION = "autoseg.json"
TOLERANCE = 1e-3
"""Largest difference of logits between the file and the original, as a share of the largest logit."""

Write = Callable[[nn.Module, Tensor, Path], None]
Run = Callable[[Path, Tensor], Tensor]


class Kind(NamedTuple):
    """A format that networks are written in."""

    file: str
    write: Write
    """Module, example patch and path -> file."""
    run: Run
    """Path and patch -> logits, as whoever gets the file will compute them."""


def export_traced(model: Path, output: Path, kind: str) -> Path:
    """Write all folds of a model folder into one file.

    Args:
        model: a folder or a zip, of which one configuration predicts. Of a cascade the second stage is written.
        output: folder; missing or empty.
        kind: key of `KINDS`.

    Returns:
        The file.

    Raises:
        UsageError: `output` is not empty, or a package is missing; the message says which.
        ModelError: it is no model, a file is damaged, or the written file gives other logits.
    """
    known = KINDS[kind]
    with folds_to_export(model, output) as folders:
        loaded = load_model(folders, torch.device("cpu"))
        module, example = exportable_module(loaded.networks), _example(loaded)
        with torch.inference_mode():
            expected = torch.stack([network(example)[0] for network in loaded.networks]).mean(0)
        with filled_folder(output) as folder:
            known.write(module, example, folder / known.file)
            found = known.run(folder / known.file, example)
            difference = float((found - expected).abs().max() / expected.abs().max())
            if not difference <= TOLERANCE:
                raise ModelError(
                    f"{known.file} would give other logits than {model} (by {difference:.2g} of the largest)."
                )
            content = {"file": known.file, "configuration": loaded.configuration, "num_folds": len(folders)}
            write_record(folder / DESCRIPTION, TracedModel(**content, plan=loaded.plan))
    return output / known.file


def _example(model: Model) -> Tensor:
    """One patch of noise that is always the same, `1 C Z Y X`."""
    channels = len(model.plan.channel_names) + model.settings.num_previous_channels(model.plan.labels)
    return torch.randn((1, channels, *model.settings.patch_zyx), generator=torch.Generator().manual_seed(0))


def _write_torch(module: nn.Module, example: Tensor, path: Path) -> None:
    program = torch.export.export(module, (example,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names folders of this machine, perhaps its user
    torch.export.save(program, path)


def _run_torch(path: Path, patch: Tensor) -> Tensor:
    with torch.inference_mode():
        answer: Tensor = torch.export.load(path).module()(patch)
    return answer


def _write_onnx(module: nn.Module, example: Tensor, path: Path) -> None:
    _require_onnx()
    with _without_notices():
        program = torch.onnx.export(
            module,
            (example,),
            input_names=["patches"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None, "the dynamo exporter returns a program"
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the same
    program.save(path)


@contextmanager
def _without_notices() -> Iterator[None]:
    """Leave out two things that torch's exporter tells everybody; whatever else it says is shown."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    registration.addFilter(_is_news)
    try:
        with warnings.catch_warnings():
            # Torch copies its own tree specifications in a way that it calls deprecated.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        registration.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Not that torchvision's operators are missing: no network here has any."""
    return not record.getMessage().startswith("torchvision is not installed. Skipping torchvision::")


def _run_onnx(path: Path, patch: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"patches": patch.numpy()})
    return torch.from_numpy(answer)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{error}: install what ONNX needs with `pip install autoseg-medical[onnx]`.") from error


KINDS = {
    "onnx": Kind("model.onnx", _write_onnx, _run_onnx),
    "torch": Kind("model.pt2", _write_torch, _run_torch),
}

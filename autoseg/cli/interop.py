"""Commands that exchange models with other tools: import, export."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli import options as o
from autoseg.errors import UsageError

IMPORTS = ("nnunet",)
EXPORTS = ("nnunet", "onnx", "torch", "monai-bundle")


def import_(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Of what tool: nnunet.")],
    source: Annotated[Path, typer.Argument(metavar="FOLDER_OR_ZIP", help="Results folder of nnU-Net v2, or a zip.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the models; default: the workspace.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the plan; default: nnU-Net's.")] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Checkpoint of each fold; default: checkpoint_final.pth, else best."),
    ] = None,
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Make another tool's trained model one of ours; its files are read without being trusted."""
    from autoseg.interop.nnunet_import import import_nnunet

    _check(kind, IMPORTS)
    folders = import_nnunet(source, o.start(work, quiet), output, name, checkpoint)
    rows = [f"imported {folder}" for folder in folders]
    rows.append(f"Next: autoseg predict --model {folders[-1]} -i IMAGES -o OUT   or   autoseg info {folders[-1]}")
    o.show([str(folder) for folder in folders], as_json, "\n".join(rows))


def _check(kind: str, known: tuple[str, ...]) -> None:
    if kind not in known:
        raise UsageError(f"{kind!r} is none of the kinds that are known: {', '.join(known)}.")


COMMANDS = (import_,)

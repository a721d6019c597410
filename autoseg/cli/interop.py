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
    rows.append(f"Next: autoseg predict --model {folders[-1]} -i IMAGES -o OUT   or   autoseg info {folders[0]}")
    o.show([str(folder) for folder in folders], as_json, "\n".join(rows))


def export(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="For what tool: nnunet, onnx, torch, monai-bundle.")],
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A packed model (zip), a model folder, or that of one of its folds.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to be written; missing or empty.")],
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a model for another tool; what would answer otherwise there is refused with the reason."""
    _check(kind, EXPORTS)
    o.start(None, quiet)
    written, following = _export(kind, model, output)
    o.show(str(written), as_json, f"written {written}\nNext: {following}")


def _export(kind: str, model: Path, output: Path) -> tuple[Path, str]:
    """What was written, and what to do with it."""
    if kind == "nnunet":
        from autoseg.interop.nnunet_export import export_nnunet

        written = export_nnunet(model, output)
        return written, f"nnUNetv2_predict_from_modelfolder -m {written} -i IMAGES -o OUT -f FOLDS"
    if kind == "monai-bundle":
        from autoseg.interop.monai_bundle import export_monai_bundle

        written = export_monai_bundle(model, output)
        return written, f"segment images with MONAI as {written / 'docs' / 'README.md'} says"
    from autoseg.interop.traced import export_traced

    written = export_traced(model, output, kind)
    return written, f"see how to use {written.name} in docs/how-to/exchange_models.md"


def _check(kind: str, known: tuple[str, ...]) -> None:
    if kind not in known:
        raise UsageError(f"{kind!r} is none of the kinds that are known: {', '.join(known)}.")


COMMANDS = (import_, export)

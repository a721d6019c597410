"""Commands that give a model away: pack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli import options as o
from autoseg.errors import UsageError


def pack(
    model: Annotated[
        str, typer.Argument(metavar="DATASET_OR_MODEL", help="A dataset of the workspace, or a model folder.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT.zip", help="File to be written.")],
    licence: Annotated[str | None, typer.Option(help="On what terms the model is given away.")] = None,
    cite: Annotated[str | None, typer.Option(help="What users of the model shall cite.")] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="Where it is known to fail, or must not be used; repeatable.")
    ] = None,
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Put a model into one file, with its card: from it predicts what was selected, calibrated and learned."""
    from autoseg.pipeline.ingest import locate
    from autoseg.pipeline.pack import pack as stage

    workspace = o.start(work, quiet)
    if output.suffix.lower() != ".zip":
        raise UsageError(f"{output}: a packed model is a zip; give a name that ends in .zip.")
    where = Path(model) if _is_model(Path(model)) else locate(model, workspace)
    card = stage(where, output, licence=licence, citation=cite, limits=limit or ())
    mebibytes = output.stat().st_size / 2**20
    rows = [f"{' + '.join(card.predicts)} of {card.dataset} in {output} ({mebibytes:.1f} MiB)"]
    if card.licence is None:
        rows.append("No licence is stated: say with --licence on what terms it may be used.")
    rows.append(f"Next: autoseg predict --model {output} -i IMAGES -o OUT")
    o.show(card.model_dump(mode="json"), as_json, "\n".join(rows))


def _is_model(path: Path) -> bool:
    """Whether this is a zip, a path into one, or a folder of trained folds, and no dataset."""
    holds_folds = any(any(path.glob(pattern)) for pattern in ("fold.json", "fold_*/fold.json", "*/fold_*/fold.json"))
    in_file = any(part.is_file() for part in (path, *path.parents))
    return in_file or holds_folds or (path / "models").is_dir()


COMMANDS = (pack,)

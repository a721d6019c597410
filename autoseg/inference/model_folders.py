"""A path in, the folders of the trained folds behind it out: what a model is, for every command alike.

A model is a folder, or a zip of one: of a fold, of a configuration with its `fold_*`, of several configurations, or one
laid out like a dataset's in the workspace, as packed models are. A model inside a zip is named like one inside a
folder: `model.zip/3d_fullres`.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoseg.errors import ModelError, UsageError
from autoseg.inference.model import fold_folders, read_fold
from autoseg.records.base import read_record
from autoseg.records.results import Selection
from autoseg.records.workspace import MODELS, Paths
from autoseg.storage.archives import is_archive, unpacked


@contextmanager
def open_model(where: Paths | Path) -> Iterator[Paths | Path]:
    """Yield the folder of a model; that of a zip is there until the block ends.

    Yields:
        For a folder laid out like a dataset's in the workspace its paths, else a folder with folds in it or below.

    Raises:
        ModelError: a path is no model.
        UsageError: it names a model inside a zip that is not there.
        ResourceError: there is no room to unpack it.
    """
    if isinstance(where, Paths):
        yield where
    elif (archive := _archive_of(where)) is not None:
        with unpacked(archive, Path(tempfile.gettempdir())) as folder:
            yield _checked(_inside(_only_folder(folder), where.relative_to(archive), archive), where)
    else:
        yield _checked(where, where)


@contextmanager
def open_configuration(model: Path, name: str | None = None) -> Iterator[Path]:
    """Yield the folder of one configuration of a model, or of one fold; that of a zip is there until the block ends.

    Of several it is that called `name`, else the only one that predicts, whose earlier stages lie beside it.

    Raises:
        ModelError: `model` is none.
        UsageError: it holds several to choose from.
    """
    with open_model(model) as where:
        yield _one_configuration(where, name, model)


def folds_in(folder: Path) -> list[Path]:
    """The folder of a fold itself, or those of a configuration that `fold_folders` finds in it."""
    return [folder] if (folder / "fold.json").is_file() else fold_folders(folder)


def configurations_in(folder: Path) -> list[list[Path]]:
    """Fold folders of each configuration of a model folder that `open_model` yielded.

    The previous stage of a cascade that lies beside it predicts as part of the cascade alone.
    """
    own = folds_in(folder)
    return [own] if own else [fold_folders(path) for path in _predicting(_folders_below(folder))]


def previous_stage(fold: Path) -> str | None:
    """Configuration whose segmentation enters that of a fold's folder; None: it is no cascade."""
    plan, trained = read_fold(fold)
    return plan.configurations[trained.configuration].previous_stage  # type: ignore[index]


def _checked(folder: Path, named: Path) -> Paths | Path:
    """A folder laid out like a dataset's as its paths, any other as it is; ModelError where no fold is trained."""
    paths = Paths(folder=folder) if (folder / MODELS).is_dir() else None
    if folds_in(folder) or _folders_below(folder if paths is None else paths):
        return folder if paths is None else paths
    fault = "holds no trained fold" if named.exists() else "does not exist"
    raise ModelError(
        f"{named} {fault}: expected a model, that is a zip from `autoseg pack`, or a folder with fold.json in it or in "
        "its fold_* folders."
    )


def _only_folder(folder: Path) -> Path:
    """The folder itself, or the one that holds everything in it, as where a folder was zipped by hand."""
    inside = [path for path in folder.iterdir() if path.name != "__MACOSX" and not path.name.startswith(".")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() and inside[0].name != MODELS else folder


def _archive_of(path: Path) -> Path | None:
    """The zip that a path is, or leads into."""
    return next((part for part in (path, *path.parents) if is_archive(part)), None)


def _inside(folder: Path, name: Path, archive: Path) -> Path:
    """What `name` means inside an unpacked archive: a path in it, or one below its plans or below one of these."""
    if not name.parts:
        return folder
    places = (folder, folder / MODELS, *sorted((folder / MODELS).glob("*")))
    found = [place / name for place in places if folds_in(place / name) or _folders_below(place / name)]
    if len(found) == 1 and ".." not in name.parts:
        return found[0]
    where = Paths(folder=folder) if (folder / MODELS).is_dir() else folder
    raise UsageError(f"{archive} holds no model {name}, or several of that name. {_listed(where, archive)}")


def _listed(where: Paths | Path, named: Path) -> str:
    """How the models in a folder or zip are named."""
    names = [_path_of(folder, where, named) for folder in _folders_below(where)]
    return f"It holds {', '.join(names)}." if names else "Name the zip alone."


def _path_of(folder: Path, where: Paths | Path, named: Path) -> str:
    """The path by which a configuration's folder below `where` is named, where that was called `named`."""
    if isinstance(where, Paths):
        return str(named / folder.relative_to(where.folder if named.is_dir() else where.folder / MODELS))
    return str(named / folder.relative_to(where))


def _folders_below(where: Paths | Path) -> list[Path]:
    """Folders of configurations with trained folds."""
    found = where.folder.glob(f"{MODELS}/*/*") if isinstance(where, Paths) else where.glob("*")
    return [path for path in sorted(found) if fold_folders(path)]


def _predicting(folders: list[Path]) -> list[Path]:
    """Without the stages before the cascades among them."""
    earlier = {(folder.parent, previous_stage(fold_folders(folder)[0])) for folder in folders}
    return [folder for folder in folders if (folder.parent, _name(folder)) not in earlier]


def _name(folder: Path) -> str:
    return read_fold(fold_folders(folder)[0])[1].configuration


def _one_configuration(where: Paths | Path, name: str | None, named: Path) -> Path:
    if isinstance(where, Path) and folds_in(where):
        return where
    folders = _folders_below(where)
    if isinstance(where, Paths) and where.selection.is_file():
        selection = read_record(where.selection, Selection)
        folders = [folder for folder in folders if folder.parent.name == selection.plan]
        predicting = [folder for folder in folders if _name(folder) in selection.configurations]
    else:
        predicting = _predicting(folders)
    for choice in ([folder for folder in folders if _name(folder) == name], predicting):
        if len(choice) == 1:
            return choice[0]
    names = ", ".join(_path_of(folder, where, named) for folder in folders)
    raise UsageError(f"{named} holds several models: name one, {names}.")

"""autoseg: a dataset in, the best segmentation model that the data and the time allow out.

`load_model` is the way from Python; it and its records are looked up when they are first used, so that
`import autoseg` needs neither torch nor numpy.
"""

from typing import TYPE_CHECKING, Any

from autoseg.version import __version__

if TYPE_CHECKING:
    from autoseg.api import LoadedModel, Maps, Segmentation, load_model, read_maps

__all__ = ["LoadedModel", "Maps", "Segmentation", "__version__", "load_model", "read_maps"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'autoseg' has no attribute {name!r}")
    from autoseg import api

    return getattr(api, name)

"""A predictor and a prepared case in, why the case will not fit into the memory out, before anything is computed.

Arrays of one value a voxel lie in files where memory is short (`storage.large_arrays`). What must fit are the rows
being blended and decided, which grow with the heads, and what post-processing does with the components, which grows
with the voxels.
"""

import math

from autoseg.devices import available_memory_bytes
from autoseg.inference.export import crop_shape
from autoseg.inference.labelling import deciding_bytes
from autoseg.inference.memory import blending_bytes
from autoseg.inference.mirroring import mirror_flips
from autoseg.inference.model import Model
from autoseg.records.results import PostprocessingRule
from autoseg.selection.predictor import Grids, Predictor

_WRITTEN, _RULED, _COMPONENTS, _PROBABILITIES = 4, 7, 13, 16
"""Bytes for each voxel of the file: values to be written and read back; rules of whole classes; components with their
features; the same with candidates and probabilities. Where all is foreground the last three are 16, 40 and 50
(`benchmarks/case_memory.py` and tracemalloc found less); here a quarter of the voxels is, more than organs fill, since
a case that would fit must not be refused."""


def memory_shortage(predictor: Predictor, grids: Grids) -> str | None:
    """Why a case does not fit into the memory that is free, with what to do; None where it does."""
    meta = grids[predictor.models[0].configuration].meta
    sums = 0
    if predictor.device.type == "cpu":  # sums of a GPU go to the main memory only where there is enough
        sums = sum(_sums_of(model, grids, predictor.predicts_per_fold) for model in predictor.models)
        # The stage before a cascade's is finished, and its sums are gone, before any other begins.
        stages = [model.previous for model in predictor.models if model.previous is not None]
        sums = max([sums, *(_sums_of(stage, grids, False) for stage in stages)])
        sums += deciding_bytes(predictor.models[0].plan.labels.num_heads, meta.shape, crop_shape(meta))
    labels = math.prod(meta.geometry.shape) * _bytes_of(predictor.rule)
    free = available_memory_bytes()
    if sums + labels <= free:
        return None
    fast = ", predict with --fast, which blends all folds together" if predictor.rule_needs_folds else ""
    return (
        f"it does not fit into memory: about {sums / 2**30:.1f} GiB are needed to blend tiles and "
        f"{labels / 2**30:.1f} GiB for {math.prod(meta.geometry.shape) / 1e6:.0f} million voxels after that, "
        f"{free / 2**30:.1f} GiB are free. End other programs, take a machine with more{fast}, or crop the image."
    )


def _sums_of(model: Model, grids: Grids, per_fold: bool) -> int:
    """Bytes of the rows that are blended at a time by a model: one stream, or one for each network by itself."""
    settings, patch = model.settings, model.settings.patch_zyx
    mirrors = len(mirror_flips(settings.recipe.mirroring, patch)) > 1
    shape = grids[model.configuration].meta.shape
    z, y, x = (max(edge, tile) for edge, tile in zip(shape, patch, strict=True))
    alone = per_fold or settings.tile_weights == "nnunet"
    num_streams = len(model.networks) if alone else 1
    return num_streams * blending_bytes(model.plan.labels.num_heads + mirrors, (z, y, x), patch)


def _bytes_of(rule: PostprocessingRule) -> int:
    if rule.components is not None and not rule.components.changes_nothing:
        return _PROBABILITIES if rule.components.needs_probabilities else _COMPONENTS
    return _WRITTEN if rule.changes_nothing else _RULED

"""A grid and a preset in; the resolutions that get a network out, each with patch, batch and network.

With a budget of memory: 2d, 3d_fullres and, where a patch sees less than a quarter of the median case, 3d_lowres and
the cascade. With one of voxels: 2d and 3d_fullres, each so coarse that a patch sees enough; a cascade is never needed.
"""

import numpy as np

from autoseg.planning.configurations import Demand, Resolution, Stage, fit, plan_lowres
from autoseg.planning.grids import Grid
from autoseg.planning.presets import MemoryBudget, Preset, VoxelBudget
from autoseg.planning.spacing import FloatArray, coarsen
from autoseg.records.plan import ConfigurationName

Stages = dict[ConfigurationName, Stage]


def plan_stages(preset: Preset, demand: Demand, grid: Grid, reasons: dict[str, str]) -> Stages:
    """Decide which configurations a dataset needs, and fit patch, batch and network to each.

    Args:
        preset: its budget decides the rule (see the module).
        demand: labels, number of cases, channels, and the GPU memory to plan for.
        grid: spacings and shapes of the training cases.
        reasons: gets an entry for each value that is not nnU-Net's (field of the plan -> why).

    Returns:
        Configurations in the order 2d, 3d_lowres, 3d_fullres, 3d_cascade_fullres. 2-D images have 2d alone.
    """
    if isinstance(preset.budget, VoxelBudget):
        return _covering_stages(preset, preset.budget, demand, grid, reasons)
    shape = grid.median_shape(grid.target_mm)
    voxels = float(np.prod(shape))
    plane = fit(preset, demand, Resolution(grid.target_mm[1:], shape[1:], voxels))
    stages: Stages = {"2d": Stage(grid.target_mm[1:], shape[1:], plane)}
    if shape[0] != 1:  # else 2-D images or single slices: there is nothing for a 3-D network to see
        fullres = Stage(grid.target_mm, shape, fit(preset, demand, Resolution(grid.target_mm, shape, voxels)))
        lowres = plan_lowres(preset, demand, fullres)
        if lowres is None:
            stages["3d_fullres"] = fullres
        else:
            cascade = _with_previous_stage(preset, demand, fullres)
            stages.update({"3d_lowres": lowres, "3d_fullres": fullres, "3d_cascade_fullres": cascade})
    return stages


def _with_previous_stage(preset: Preset, demand: Demand, fullres: Stage) -> Stage:
    """nnU-Net's cascade is the full resolution again; by traced memory the channels of the stage before count too."""
    if not isinstance(preset.budget, MemoryBudget):
        return fullres
    spacing, shape, _ = fullres
    wider = demand._replace(num_channels=demand.num_channels + demand.labels.num_classes - 1)
    return fullres._replace(fitted=fit(preset, wider, Resolution(spacing, shape, float(np.prod(shape)))))


def _covering_stages(
    preset: Preset, budget: VoxelBudget, demand: Demand, grid: Grid, reasons: dict[str, str]
) -> Stages:
    is_3d = grid.median_shape(grid.target_mm)[0] != 1
    stages: Stages = {"2d": _coarsen_until_covered(preset, budget, demand, grid, grid.target_mm[1:])}
    if is_3d:
        stages["3d_fullres"] = _coarsen_until_covered(preset, budget, demand, grid, grid.target_mm)
    for which, stage in stages.items():
        full = grid.target_mm[-len(stage.spacing_mm) :]
        if not np.array_equal(stage.spacing_mm, full):
            reasons[f"{which}.spacing_mm"] = (
                f"coarser than the {' x '.join(f'{s:.3g}' for s in full)} mm of nnU-Net's rule, so that one patch "
                f"covers {budget.share_of_case:.3g} of the median case: a short training needs the overview more "
                "than the detail"
            )
    return stages


def _coarsen_until_covered(
    preset: Preset, budget: VoxelBudget, demand: Demand, grid: Grid, spacing_mm: FloatArray
) -> Stage:
    while True:
        shape = grid.median_shape(spacing_mm)
        fitted = fit(preset, demand, Resolution(spacing_mm, shape, float(np.prod(shape))))
        covered = np.prod(fitted.patch_size) >= budget.share_of_case * np.prod(shape)
        coarser = coarsen(spacing_mm)
        if covered or grid.median_shape(coarser).min() < 1:
            return Stage(spacing_mm, shape, fitted)
        spacing_mm = coarser

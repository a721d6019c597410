"""What is planned for MedNeXt: five stages, patches that fit them, and memory as for any other network."""

import math

import pytest

from autoseg.errors import UsageError
from autoseg.planning.build import make_plan
from autoseg.planning.presets import PRESETS, MemoryBudget
from autoseg.planning.step_cost import need_of_configuration, usable_bytes
from autoseg.records.fingerprint import Fingerprint
from tests.planning.examples import dataset, fingerprint, scheme

PRESET_NAMES = ("mednext_s", "mednext_b", "mednext_l")
CUBES = fingerprint((1.0, 1.0, 1.0), (160, 220, 220), 400)
THICK = fingerprint((5.0, 0.8, 0.8), (20, 320, 320), 400)
FLAT = fingerprint((1.0, 1.0, 1.0), (5, 200, 300), 400)
PLANAR = fingerprint((999.0, 1.0, 1.0), (1, 520, 696), 400)


@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("measured", [CUBES, THICK, FLAT, PLANAR], ids=["cubes", "thick", "flat", "planar"])
@pytest.mark.parametrize("gib", [None, 8.0])
def test_five_stages_in_the_memory(preset: str, measured: Fingerprint, gib: float | None) -> None:
    plan = make_plan(measured, dataset(), preset, gpu_memory_gib=gib)
    budget = PRESETS[preset].budget
    assert isinstance(budget, MemoryBudget)
    for configuration in plan.configurations.values():
        network = configuration.network
        assert network.architecture == "mednext"
        assert network.features_per_stage == (32, 64, 128, 256, 512)
        assert network.decoder_blocks_per_stage == network.blocks_per_stage[:4]
        assert math.prod(s[-1] for s in network.strides) == 16
        need = need_of_configuration(configuration, scheme(), 1, "cuda")
        assert need is not None
        assert need.num_bytes <= usable_bytes(budget.gib if gib is None else gib)
        assert f"{next(iter(plan.configurations))}.network" in plan.reasons or "all.network" in plan.reasons


def test_the_published_patch_fits_the_card_that_it_is_planned_for() -> None:
    """128^3, which the authors took for everything, or nearly."""
    patches = {
        name: math.prod(make_plan(CUBES, dataset(), name).configurations["3d_fullres"].patch_size)
        for name in PRESET_NAMES
    }
    assert all(voxels > 0.8 * 128**3 for voxels in patches.values()), patches


def test_thick_slices_are_not_halved_as_often() -> None:
    network = make_plan(THICK, dataset(), "mednext_s").configurations["3d_fullres"].network
    assert [s[0] for s in network.strides] == [1, 1, 1, 2, 2]


def test_a_card_that_holds_no_patch_is_named() -> None:
    with pytest.raises(UsageError, match="No patch fits"):
        make_plan(CUBES, dataset(), "mednext_l", gpu_memory_gib=0.01)

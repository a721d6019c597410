import pytest

from autoseg.errors import DataError, UsageError
from autoseg.planning.build import make_plan
from autoseg.planning.presets import PRESETS, VoxelBudget
from autoseg.records.base import record_to_json
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Configuration, Plan
from autoseg.records.recipe import Recipe
from tests.planning.examples import dataset, fingerprint, scheme

SIDED = scheme(("kidney_left", "kidney_right", "liver"))


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("nnunet")])
def test_nnunet_presets_have_nnunets_recipe_and_stored_axes(preset: str) -> None:
    plan = make_plan(fingerprint(orientation="SAL", fractions=(0.99, 0.009, 0.001)), dataset(SIDED), preset)
    assert plan.orientation == "stored"
    assert plan.reasons == {}
    for configuration in plan.configurations.values():
        recipe = configuration.recipe
        assert configuration.tile_weights == "nnunet"
        assert (recipe.optimizer, recipe.schedule, recipe.sampling) == (
            Recipe().optimizer,
            Recipe().schedule,
            Recipe().sampling,
        )
        assert [term.model_dump() for term in recipe.loss] == [
            {"name": "cross_entropy", "weight": 1.0, "class_weights": None, "parameters": {}},
            {"name": "soft_dice", "weight": 1.0, "class_weights": None, "parameters": {}},
        ]
        assert recipe.mirroring.axes == ((1, 2) if configuration.is_2d else (0, 1, 2))
        assert recipe.mirroring.swap_axis is None


def test_auto_is_small_on_a_cpu_and_default_for_a_gpu() -> None:
    assert make_plan(fingerprint(), dataset(), "auto").name == "small"
    assert make_plan(fingerprint(), dataset(), "auto", device_kind="cuda").name == "default"
    assert make_plan(fingerprint(), dataset(), "auto", gpu_memory_gib=4).planned_for == "cuda 4 GiB"


def test_shapes_are_taken_in_canonical_axes() -> None:
    # File axes x, y, z run S, A, L: stored arrays z, y, x run L, A, S, so canonical (S, A, R) is the reverse.
    turned = fingerprint((1.0, 1.5, 3.0), (200, 150, 60), orientation="SAL")
    plan = make_plan(turned, dataset(), "default")
    assert plan.original_median_spacing_mm == (3.0, 1.5, 1.0)
    assert plan.transpose == (0, 1, 2)
    assert plan.configurations["3d_fullres"].median_shape == (60, 150, 200)
    same = make_plan(fingerprint((3.0, 1.5, 1.0), (60, 150, 200)), dataset(), "default")
    assert same.configurations == plan.configurations


def test_left_and_right_are_swapped_on_the_axis_where_x_went() -> None:
    # The coarsest axis is x, so that it comes first; 2-D slices are then sagittal and never flipped across it.
    plan = make_plan(fingerprint((1.0, 1.0, 4.0), (150, 150, 40), fractions=(0.3, 0.3, 0.4)), dataset(SIDED), "default")
    assert plan.transpose == (2, 0, 1)
    assert plan.configurations["3d_fullres"].recipe.mirroring.swap_axis == 0
    assert plan.configurations["3d_fullres"].recipe.mirroring.swap_pairs == ((1, 2),)
    assert plan.configurations["2d"].recipe.mirroring.swap_axis is None


def test_stored_axes_swap_nothing() -> None:
    sided = fingerprint(fractions=(0.3, 0.3, 0.4))
    plan = make_plan(sided, dataset(SIDED), "default", orientation="stored")
    assert plan.orientation == "stored"
    assert all(c.recipe.mirroring.swap_axis is None for c in plan.configurations.values())


def test_a_region_that_holds_one_side_only_is_never_flipped_across_it() -> None:
    names = ("kidney_left", "kidney_right")
    one_sided = scheme(names, regions=[("both", (1, 2)), ("left", (1,))])
    plan = make_plan(fingerprint(), dataset(one_sided), "default")
    assert plan.configurations["3d_fullres"].recipe.mirroring.axes == (0, 1)
    closed = scheme(names, regions=[("left", (1,)), ("right", (2,))])
    plan = make_plan(fingerprint(), dataset(closed), "default")
    assert plan.configurations["3d_fullres"].recipe.mirroring.swap_pairs == ((1, 2),)


def test_default_bounds_the_batch_and_says_so() -> None:
    tiny = fingerprint((1, 1, 1), (36, 50, 35), 200)
    free, bounded = (make_plan(tiny, dataset(), preset, num_training=200) for preset in ("nnunet", "default"))
    assert free.configurations["3d_fullres"].batch_size > 6
    assert bounded.configurations["3d_fullres"].batch_size <= 8
    assert bounded.configurations["2d"].batch_size == 64
    assert "the memory would hold" in bounded.reasons["2d.batch_size"]
    assert "% of the card's 8 GiB" in bounded.reasons["3d_fullres.patch_size"]


@pytest.mark.parametrize("preset", PRESETS)
def test_two_dimensional_data_gets_2d_only(preset: str) -> None:
    plan = make_plan(fingerprint((999.0, 1.0, 1.0), (1, 520, 696), 40), dataset(channels=["fluorescence"]), preset)
    assert list(plan.configurations) == ["2d"]
    assert plan.configurations["2d"].median_shape[0] == 1


@pytest.mark.parametrize("preset", ["default", "small"])
def test_single_slices_finer_across_than_along_are_seen_as_slices(preset: str) -> None:
    slices = fingerprint((0.3, 1.0, 0.8), (1, 200, 160))
    plan = make_plan(slices, dataset(), preset)
    assert plan.transpose == (0, 1, 2)
    assert list(plan.configurations) == ["2d"]
    assert plan.configurations["2d"].spacing_mm == (1.0, 0.8)
    assert plan.configurations["2d"].median_shape == (1, 200, 160)
    assert "axis 0" in plan.reasons["transpose"]
    assert make_plan(slices, dataset(), "nnunet").transpose == (1, 0, 2)


@pytest.mark.parametrize("preset", ["default", "small"])
@pytest.mark.parametrize(
    "measured",
    [
        fingerprint((3.0, 1.5, 1.0), (60, 150, 200), fractions=(0.96, 0.02, 0.02)),
        fingerprint((1, 1, 1), (36, 50, 35), 200, foreground_share=1e-4, fractions=(0.3, 0.3, 0.4)),
        fingerprint((2.5, 4.0, 4.0), (128, 128, 128), 40, fractions=(0.3, 0.3, 0.4)),
    ],
)
def test_every_field_that_is_not_nnunets_has_a_reason(preset: str, measured: Fingerprint) -> None:
    theirs = make_plan(measured, dataset(SIDED), "nnunet").configurations
    plan = make_plan(measured, dataset(SIDED), preset)
    changed = {
        f"{name}.{field}"
        for name, ours in plan.configurations.items()
        for field, value in _decisions(ours).items()
        if name in theirs and value != _decisions(theirs[name])[field]
    }
    assert changed
    told = [(reason.replace("all.", f"{name}.", 1)) for reason in plan.reasons for name in plan.configurations]
    assert not [field for field in changed if not any(reason.startswith(field) for reason in told)]
    assert ("configurations" in plan.reasons) == (preset == "small")
    assert "orientation" in plan.reasons


def _decisions(configuration: Configuration) -> dict[str, object]:
    """Fields on which a preset decides; the rest of the network follows from the patch."""
    fields = {name: getattr(configuration, name) for name in ("spacing_mm", "patch_size", "batch_size", "tile_weights")}
    recipe = {f"recipe.{name}": getattr(configuration.recipe, name) for name in Recipe.model_fields}
    return {**fields, **recipe, "network.features_per_stage": configuration.network.features_per_stage}


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        ((1, 1, 1), (36, 50, 35)),
        ((5, 0.8, 0.8), (90, 512, 512)),
        ((1, 1, 1), (600, 512, 512)),
        ((8, 1, 1), (4, 300, 300)),
    ],
)
def test_small_stays_in_its_budget_and_covers_its_share(
    spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    plan = make_plan(fingerprint(spacing, shape), dataset(), "small")
    budget = PRESETS["small"].budget
    assert isinstance(budget, VoxelBudget)
    assert list(plan.configurations) == ["2d", "3d_fullres"]
    for name, most in (("2d", budget.voxels_2d), ("3d_fullres", budget.voxels_3d)):
        configuration = plan.configurations[name]  # type: ignore[index]
        z, y, x = configuration.patch_zyx
        a, b, c = configuration.median_shape
        assert z * y * x <= most
        assert z * y * x >= budget.share_of_case * a * b * c
        assert not configuration.recipe.mirroring.in_prediction
        assert configuration.recipe.mirroring.axes == ()
        coarser = configuration.spacing_mm != plan.original_median_spacing_mm[-len(configuration.spacing_mm) :]
        assert coarser == (f"{name}.spacing_mm" in plan.reasons)


def test_a_small_card_gets_a_cascade() -> None:
    head = fingerprint((2.5, 4.0, 4.0), (128, 128, 128), 40)
    for preset, gib in (("nnunet", 1.0), ("default", 0.5)):
        plan = make_plan(head, dataset(), preset, gpu_memory_gib=gib)
        assert list(plan.configurations) == ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"]
        assert plan.configurations["3d_cascade_fullres"].previous_stage == "3d_lowres"
    assert "3d_lowres" not in make_plan(head, dataset(), "nnunet").configurations


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(UsageError, match="nnunet_resenc_m"):
        make_plan(fingerprint(), dataset(), "resenc")
    with pytest.raises(UsageError, match="does not plan by GPU memory"):
        make_plan(fingerprint(), dataset(), "small", gpu_memory_gib=8)
    with pytest.raises(UsageError, match="positive"):
        make_plan(fingerprint(), dataset(), "nnunet", gpu_memory_gib=0)
    with pytest.raises(UsageError, match="No patch fits"):
        make_plan(fingerprint(), dataset(), "nnunet", gpu_memory_gib=1e-6)
    with pytest.raises(UsageError, match="name"):
        make_plan(fingerprint(), dataset(), "nnunet", name="../elsewhere")
    nothing = fingerprint().model_copy(update={"spacings": ()})
    with pytest.raises(DataError, match="0 spacings"):
        make_plan(Fingerprint.model_validate(nothing), dataset(), "nnunet")


@pytest.mark.parametrize("preset", PRESETS)
def test_plans_survive_the_file(preset: str) -> None:
    plan = make_plan(fingerprint(), dataset(), preset)
    content = record_to_json(plan)
    assert Plan.model_validate_json(content.replace('"schema_version": 1,', "", 1)) == plan

import pytest

from autoseg.augmentation.policies import POLICIES
from autoseg.errors import UsageError
from autoseg.planning.build import make_plan
from autoseg.planning.settings import apply_settings, orientation_setting
from autoseg.records.plan import Plan
from autoseg.records.recipe import LossTerm
from tests.planning.examples import dataset, fingerprint, scheme


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(fingerprint(), dataset(), "default")


def test_fields_of_one_and_of_all_configurations(plan: Plan) -> None:
    changed = apply_settings(
        plan, ["3d_fullres.batch_size=4", "all.recipe.optimizer.name=adamw", "all.recipe.schedule.epochs=10"]
    )
    assert changed.configurations["3d_fullres"].batch_size == 4
    assert changed.configurations["2d"].batch_size == plan.configurations["2d"].batch_size
    assert {c.recipe.optimizer.name for c in changed.configurations.values()} == {"adamw"}
    assert {c.recipe.schedule.epochs for c in changed.configurations.values()} == {10}
    assert changed.reasons["3d_fullres.batch_size"] == "set by hand"


def test_a_policys_name_becomes_its_record_at_the_patch(plan: Plan) -> None:
    changed = apply_settings(plan, ["all.recipe.augmentation=da5", "2d.patch_size=[64, 128]"])
    for name, configuration in changed.configurations.items():
        assert configuration.recipe.augmentation == POLICIES["da5"](name == "2d", configuration.patch_size)
    spatial = changed.configurations["2d"].recipe.augmentation.spatial
    assert spatial is not None
    assert spatial.rotation_degrees == (-15, 15)  # of an elongated patch, which was set behind it
    with pytest.raises(UsageError, match="da6: no such policy; there are nnunet, light, da5, none"):
        apply_settings(plan, ["2d.recipe.augmentation=da6"])
    with pytest.raises(UsageError, match="patch_size"):
        apply_settings(plan, ["2d.recipe.augmentation=da5", "2d.patch_size=[0]"])


def test_the_course_of_a_training_is_set_by_text(plan: Plan) -> None:
    stages = 'all.recipe.patch_growth.stages=[{"until": 0.3, "fraction": 0.5}, {"until": 0.6, "fraction": 0.75}]'
    settings = ["all.recipe.schedule.name=wsd", "all.recipe.watch.cases=4", "all.recipe.schedule.ends=plateau"]
    changed = apply_settings(plan, [*settings, stages, "2d.recipe.optimizer.reference_batch=12"])
    for configuration in changed.configurations.values():
        recipe = configuration.recipe
        assert (recipe.schedule.name, recipe.schedule.ends, recipe.watch.cases) == ("wsd", "plateau", 4)
        assert [stage.fraction for stage in recipe.patch_growth.stages] == [0.5, 0.75]
    assert changed.configurations["2d"].recipe.optimizer.reference_batch == 12
    with pytest.raises(UsageError, match=r"watch\.cases"):
        apply_settings(plan, ["all.recipe.schedule.ends=plateau"])
    with pytest.raises(UsageError, match="one after the other"):
        apply_settings(plan, [stages.replace("0.3", "0.9")])


def test_lists_positions_null_and_text(plan: Plan) -> None:
    changed = apply_settings(
        plan,
        [
            "3d_fullres.patch_size=[32, 64, 64]",
            "3d_fullres.network.strides=[[1,1,1],[2,2,2]]",
            "3d_fullres.network.kernel_sizes=[[3,3,3],[3,3,3]]",
            "3d_fullres.network.features_per_stage=[8,16]",
            "3d_fullres.network.blocks_per_stage=[2,2]",
            "3d_fullres.network.decoder_blocks_per_stage=[2]",
            "2d.recipe.loss.0.weight=0.5",
            "2d.recipe.augmentation.spatial=null",
            "name=17",
        ],
    )
    assert changed.configurations["3d_fullres"].patch_size == (32, 64, 64)
    assert changed.configurations["2d"].recipe.loss[0].weight == 0.5
    assert changed.configurations["2d"].recipe.augmentation.spatial is None
    assert changed.name == "17"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("3d_fullres.batch_sise=4", "nearest: batch_size"),
        ("3d_fulres.batch_size=4", "nearest: 3d_fullres"),
        ("all.recipe.scedule.epochs=4", "nearest: schedule"),
        ("3d_fullres.batch_size", "expected FIELD=VALUE"),
        ("=4", "expected FIELD=VALUE"),
        ("3d_fullres.batch_size=0", "batch_size"),
        ("3d_fullres.batch_size=many", "batch_size"),
        ("3d_fullres.patch_size=[33,64,64]", "divisible"),
        ("3d_fullres.batch_size.x=1", "has no field 'x'"),
        ("2d.recipe.loss.7.weight=1", "no position"),
        ("2d.recipe.optimizer.name=lion", "optimizer"),
        ("3d_fullres.network.kernel_sizes.0=[2,2,2]", "kernel_sizes must be odd"),
        ("3d_fullres.network.features_per_stage.0=0", "1 or more in every stage"),
        ("3d_fullres.network.strides.1=[0,2,2]", "1 or more in every stage"),
    ],
)
def test_wrong_settings_are_named(plan: Plan, setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        apply_settings(plan, [setting])


def test_losses_as_text_and_as_json(plan: Plan) -> None:
    text = "3d_fullres.recipe.loss=soft_dice + 0.5*focal(gamma=3)"
    json = '3d_fullres.recipe.loss=[{"name":"soft_dice"},{"name":"focal","weight":0.5,"parameters":{"gamma":3}}]'
    changed = apply_settings(plan, [text])
    assert changed.configurations["3d_fullres"].recipe.loss == (
        LossTerm(name="soft_dice"),
        LossTerm(name="focal", weight=0.5, parameters={"gamma": 3.0}),
    )
    assert apply_settings(plan, [json]).configurations == changed.configurations
    assert changed.configurations["2d"] == plan.configurations["2d"]
    again = apply_settings(changed, ['3d_fullres.recipe.loss.1.parameters={"gamma": 1}'])
    assert again.configurations["3d_fullres"].recipe.loss[1].parameters == {"gamma": 1.0}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("all.recipe.loss=dice+cross_entropy", "asks for 'dice'; known are cross_entropy, .*soft_dice"),
        ("all.recipe.loss=focal(gama=3)", "did you mean 'gamma'"),
        ("2d.recipe.loss=soft_dice cross_entropy", "is no term of a loss"),
        ("2d.recipe.loss.0.class_weights=[1]", "class_weights of the loss 'cross_entropy' must be"),
        ("2d.recipe.loss=[]", "no term"),
    ],
)
def test_losses_that_training_would_refuse_are_refused_at_once(plan: Plan, setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        apply_settings(plan, [setting])


def test_networks_that_cannot_be_built_are_refused_at_once(plan: Plan) -> None:
    with pytest.raises(UsageError, match="asks for 'unet'; known are plain_unet, residual_unet, mednext"):
        apply_settings(plan, ["all.network.architecture=unet"])
    changed = apply_settings(plan, ["all.network.architecture=fpn"])
    assert {c.network.architecture for c in changed.configurations.values()} == {"fpn"}


def test_all_fields_are_named_where_none_is_near(plan: Plan) -> None:
    with pytest.raises(UsageError, match=r"has no field 'network'; known: optimizer, .*, mirroring, .*, seed"):
        apply_settings(plan, ["all.recipe.network.architecture=fpn"])


def test_stored_axes_refuse_to_swap_sides() -> None:
    sided = make_plan(fingerprint(), dataset(scheme(("left eye", "right eye"))), "default")
    with pytest.raises(UsageError, match="orientation=canonical"):
        apply_settings(sided, ["orientation=stored"])
    both = apply_settings(sided, ["orientation=stored", "all.recipe.mirroring.swap_axis=null"])
    assert both.orientation == "stored"


def test_orientation_is_read_ahead() -> None:
    assert orientation_setting(["2d.batch_size=4", 'orientation = "stored"']) == "stored"
    assert orientation_setting(["2d.batch_size=4"]) is None


def test_no_settings_leave_the_plan(plan: Plan) -> None:
    assert apply_settings(plan, []) is plan

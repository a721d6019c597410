"""A plan and settings such as `3d_fullres.batch_size=4` in, the changed and checked plan out.

A setting is a dotted path into the plan and a value. The path begins with a configuration, with `all` for every
configuration, or with a field of the plan itself; a number is a position in a list. The value is JSON, or a bare
word where JSON would need quotes. All settings are put in before the plan is checked, so that a patch and the
strides that go with it can be set together. `recipe.augmentation` also takes the name of a policy, which then becomes
the record that it stands for at the configuration's patch.
"""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from autoseg.augmentation.policies import POLICIES
from autoseg.errors import UsageError
from autoseg.records.base import parse_record
from autoseg.records.plan import Plan

_ALL = "all"
_MOST_NAMED = 8


def apply_settings(plan: Plan, settings: Sequence[str]) -> Plan:
    """`plan` with every setting in place; each is noted in `reasons`.

    Raises:
        UsageError: a setting is no `path=value`, names no field, or makes the plan invalid; or a loss that is set is
            not known, or not with these parameters and class weights; or a network cannot be built.
    """
    if not settings:
        return plan
    content = plan.model_dump(mode="json")
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator or not path.strip():
            raise UsageError(f"Setting {setting!r}: expected FIELD=VALUE, for example 3d_fullres.batch_size=4.")
        for steps in _expand(path.strip(), content):
            _put(content, steps, text.strip(), setting)
        content["reasons"][path.strip()] = "set by hand"
    for configuration in content["configurations"].values():
        _put_policy(configuration)
    changed = parse_record(content, Plan, "The plan with " + ", ".join(settings), UsageError)
    _check_sides(changed)
    paths = [setting.partition("=")[0] for setting in settings]
    if any(".recipe.loss" in path for path in paths):
        _check_losses(changed)
    if any(".network" in path for path in paths):
        _check_networks(changed)
    return changed


def orientation_setting(settings: Sequence[str]) -> str | None:
    """The last value given to `orientation`, which has to be known before spacings and shapes are planned."""
    given = [
        text.partition("=")[2].strip().strip('"')
        for text in settings
        if text.partition("=")[0].strip() == "orientation"
    ]
    return given[-1] if given else None


def _expand(path: str, content: dict[str, Any]) -> list[list[str]]:
    """The path as steps from the plan's top, once for each configuration it means."""
    steps = path.split(".")
    names = list(content["configurations"])
    if steps[0] == _ALL:
        return [["configurations", name, *steps[1:]] for name in names]
    if steps[0] in names:
        return [["configurations", *steps]]
    return [steps]


def _put(content: dict[str, Any], steps: Sequence[str], text: str, setting: str) -> None:
    """Replace the value at the end of `steps`."""
    place: Any = content
    for depth, step in enumerate(steps):
        key = _key(place, step, ".".join(steps[:depth]), setting, content)
        if depth + 1 == len(steps):
            place[key] = _value(text, place[key])
        else:
            place = place[key]


def _put_policy(configuration: dict[str, Any]) -> None:
    """Put the record of a policy where its name was set; raises UsageError naming those there are."""
    recipe = configuration["recipe"]
    name = recipe.get("augmentation") if isinstance(recipe, dict) else None
    if not isinstance(name, str):
        return
    if name not in POLICIES:
        raise UsageError(f"recipe.augmentation={name}: no such policy; there are {', '.join(POLICIES)}.")
    patch = configuration["patch_size"]
    if not isinstance(patch, list) or len(patch) not in (2, 3) or not all(isinstance(n, int) and n > 0 for n in patch):
        return  # what is wrong with the patch is said when the plan is checked
    recipe["augmentation"] = POLICIES[name](len(patch) == 2, patch).model_dump(mode="json")


def _key(place: Any, step: str, where: str, setting: str, content: dict[str, Any]) -> str | int:
    """`step` as a key of `place`; raises UsageError naming what is there."""
    if isinstance(place, dict) and step in place:
        return step
    if isinstance(place, list) and step.isdecimal() and int(step) < len(place):
        return int(step)
    if isinstance(place, list):
        raise UsageError(f"Setting {setting!r}: {where} is a list of {len(place)}; {step!r} is no position in it.")
    if not isinstance(place, dict):
        raise UsageError(f"Setting {setting!r}: {where} is {json.dumps(place)} and has no field {step!r}.")
    known = list(place) if where else [*content["configurations"], _ALL, *place]
    near = get_close_matches(step, known, n=_MOST_NAMED, cutoff=0.5)
    listed = ", ".join(near or known) or "none"
    what = "nearest" if near else "known"
    raise UsageError(f"Setting {setting!r}: {where or 'the plan'} has no field {step!r}; {what}: {listed}.")


def _value(text: str, present: Any) -> Any:
    """The text as JSON, else as itself; numbers and words for a field that holds text stay text."""
    try:
        parsed = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(present, str) and not isinstance(parsed, str) else parsed


def _check_sides(plan: Plan) -> None:
    """Left and right are an axis of canonical arrays only."""
    swapping = [name for name, c in plan.configurations.items() if c.recipe.mirroring.swap_axis is not None]
    if plan.orientation == "stored" and swapping:
        raise UsageError(
            f"Plan {plan.name}: {', '.join(swapping)} exchange left and right classes when mirroring, which needs "
            "orientation=canonical. Plan anew with orientation=stored, or also set all.recipe.mirroring.swap_axis=null."
        )


def _check_losses(plan: Plan) -> None:
    """What training would refuse is refused now."""
    from autoseg.losses.build import build_loss  # torch, which planning does without otherwise

    for configuration in plan.configurations.values():
        build_loss(configuration.recipe, plan.labels, configuration.batch_dice)


def _check_networks(plan: Plan) -> None:
    """What could not be built is refused before it is written into a plan."""
    from autoseg.networks.build import build_network  # torch, as above
    from autoseg.networks.cost import META

    for configuration in plan.configurations.values():
        with META:
            build_network(configuration.network, len(plan.channel_names), plan.labels.num_heads, seed=0)

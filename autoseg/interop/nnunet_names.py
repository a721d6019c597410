"""Names of our U-Nets' parameters in, nnU-Net's names out, and the names under which it keeps the same ones again.

nnU-Net's networks are those of dynamic-network-architectures: stages of the decoder are counted from the coarsest (ours
from the finest), a block's convolution is registered a second time in a list, and the decoder holds the encoder.
"""

import re
from collections.abc import Iterable

from autoseg.records.plan import NetworkSpec

_SECOND_NAMES = {".conv.": ".all_modules.0.", ".norm.": ".all_modules.1."}
_WRAPPERS = ("module.", "_orig_mod.")  # of distributed training and of torch.compile
_BLOCK = r"(conv|norm)\.(weight|bias)$"


def nnunet_names(ours: Iterable[str], spec: NetworkSpec) -> dict[str, str]:
    """Our name -> nnU-Net's, for every parameter of a `plain_unet` or `residual_unet` of `spec`."""
    return {name: _nnunet_name(name, spec) for name in ours}


def without_copies(name: str) -> str:
    """The first of nnU-Net's names for a parameter that is registered several times."""
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    name = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
    for first, second in _SECOND_NAMES.items():
        name = name.replace(second, first)
    return name


def with_copies(name: str) -> list[str]:
    """All names under which nnU-Net's networks register a parameter; `name` is the first."""
    names = [name]
    if not name.startswith(("decoder.transpconvs.", "decoder.seg_layers.")):
        for first, second in _SECOND_NAMES.items():
            if first in name:
                names.append(name.replace(first, second))
    return names + [f"decoder.{one}" for one in names if name.startswith("encoder.")]


def _nnunet_name(name: str, spec: NetworkSpec) -> str:
    coarsest = len(spec.features_per_stage) - 2
    part, number, rest = name.split(".", 2)
    stage = int(number)
    if part == "encoder":
        return _in_encoder(stage, rest, spec)
    kind = {"decoder": "stages", "ups": "transpconvs", "heads": "seg_layers"}[part]
    return f"decoder.{kind}.{coarsest - stage}.{'convs.' if part == 'decoder' else ''}{rest}"


def _in_encoder(stage: int, rest: str, spec: NetworkSpec) -> str:
    if spec.architecture == "plain_unet":
        return f"encoder.stages.{stage}.0.convs.{rest}"
    if stage == 0:
        place, rest = rest.split(".", 1)
        if place == "0":
            return f"encoder.stem.convs.0.{rest}"
    # The shortcut is a list there: pooling first where the block has a stride, then the projection.
    position = int(any(s != 1 for s in spec.strides[stage]))
    rest = re.sub(rf"\.projection\.{_BLOCK}", rf".skip.{position}.\1.\2", rest)
    return f"encoder.stages.{stage}.blocks.{rest}"

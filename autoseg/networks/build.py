"""The name of an architecture and a specification in, an initialised network out; the one table of networks.

Installed packages add networks through Python entry points of group `autoseg.networks`, each a function
`(spec: NetworkSpec, num_input_channels: int, num_heads: int) -> nn.Module` whose module keeps the contract of
`build_network`. A name in the table below cannot be replaced.
"""

from collections.abc import Callable

import torch
from torch import nn

from autoseg.extensions import find_function
from autoseg.networks.fcn import fcn_8s, fcn_16s, fcn_32s
from autoseg.networks.fpn import fpn
from autoseg.networks.mednext import mednext
from autoseg.networks.plain_unet import plain_unet
from autoseg.networks.residual_unet import residual_unet
from autoseg.records.plan import NetworkSpec

Builder = Callable[[NetworkSpec, int, int], nn.Module]

ENTRY_POINTS = "autoseg.networks"

NETWORKS: dict[str, Builder] = {
    "plain_unet": plain_unet,
    "residual_unet": residual_unet,
    "mednext": mednext,
    "fpn": fpn,
    "fcn": fcn_8s,
    "fcn_16s": fcn_16s,
    "fcn_32s": fcn_32s,
}


def build_network(spec: NetworkSpec, num_input_channels: int, num_heads: int, seed: int) -> nn.Module:
    """Build the network of `spec` on the current default device, its weights drawn from `seed`.

    The module maps images `N C Z Y X` (Z is 1 or any number of slices for a 2-D specification) to a tuple
    of logits `N H Z Y X`, finest first: in training mode every output that enters the loss, in evaluation mode
    the finest alone. PyTorch's global random state is left as it was.

    Raises:
        UsageError: no such architecture; the known ones are named.
    """
    builder = find_function(spec.architecture, NETWORKS, ENTRY_POINTS, "network.architecture")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return builder(spec, num_input_channels, num_heads)

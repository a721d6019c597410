"""Weights of a trained network in, weights for one with other labels, channels or larger kernels out.

    heads      a class or region of the same name keeps its row; others are drawn anew
    channels   a channel of the same name keeps its weights; others begin with the mean of all channels of the model
    kernels    larger ones are interpolated linearly from the smaller (UpKern, Roy et al., 2023, arXiv:2303.09975)
    the rest   is taken as it is, and must fit

Which parameters are heads and which meet the image is found by building the network with one head, or one channel,
more (without memory for its weights) and looking at what grew; so it holds for installed networks too. Weights are not
scaled where the number of channels changes: every network here normalises behind its first convolutions.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autoseg.errors import ModelError
from autoseg.networks.blocks import enlarge
from autoseg.networks.build import build_network
from autoseg.records.fine_tuning import matching_names
from autoseg.records.plan import NetworkSpec

Axes = dict[str, int]


class Interface(NamedTuple):
    """What a network is connected to, by names."""

    heads: tuple[str, ...]
    """Classes with background, or regions, in the order of the heads."""
    has_regions: bool
    """Whether heads are sigmoids of regions; to heads of the other kind nothing is passed on."""
    channels: tuple[str, ...]
    """Input channels in their order; a name that occurs twice is told apart by its position among the like."""


class Shared(NamedTuple):
    """What two networks have in common, by names."""

    heads: tuple[str, ...]
    """Those that keep their weights."""
    channels: tuple[str, ...]
    """Likewise."""


def shared(known: Interface, wanted: Interface) -> Shared:
    """Heads and channels of `wanted` that a transfer from `known` gives trained weights."""
    channel_sources = matching_names(known.channels, wanted.channels)
    return Shared(
        tuple(
            name for name, source in zip(wanted.heads, _head_sources(known, wanted), strict=True) if source is not None
        ),
        tuple(name for name, source in zip(wanted.channels, channel_sources, strict=True) if source is not None),
    )


def transfer(
    weights: Mapping[str, Tensor], known: Interface, network: nn.Module, spec: NetworkSpec, wanted: Interface
) -> dict[str, Tensor]:
    """Fit trained weights to a network that differs in labels, channels and size of kernels alone.

    Args:
        weights: parameter name -> tensor, of the trained network.
        known: what the trained network was connected to.
        network: the new one, freshly drawn; it is not changed.
        spec: of the new network.
        wanted: what the new network is connected to.

    Returns:
        All of the new network's state.

    Raises:
        ModelError: a parameter is missing or does not fit; the first few are named.
    """
    heads, channels = interface_axes(spec)
    head_sources, channel_sources = _head_sources(known, wanted), matching_names(known.channels, wanted.channels)
    fitted, misfits = {}, []
    for name, fresh in network.state_dict().items():
        value = weights.get(name)
        if value is not None and name in channels and value.shape[channels[name]] == len(known.channels):
            value = _channels(value, channel_sources, channels[name])
        if value is not None and name in heads and value.shape[heads[name]] == len(known.heads):
            value = _rows(value, fresh, head_sources, heads[name])
        if value is not None and value.ndim > 3 and _is_smaller_kernel(value, fresh):
            value = enlarge(value, fresh.shape[2:])
        if value is None or value.shape != fresh.shape:
            misfits.append(f"{name} {'is missing' if value is None else tuple(value.shape)} for {tuple(fresh.shape)}")
            continue
        fitted[name] = value.to(fresh.dtype)
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise ModelError(f"the trained weights are of another network: {'; '.join(misfits[:3])}{more}.")
    return fitted


def interface_axes(spec: NetworkSpec) -> tuple[Axes, Axes]:
    """Parameters of the heads and of the input: name -> the axis along which heads, or channels, lie."""
    with torch.device("meta"):
        # One head and one channel could not be told from sizes that are 1 for other reasons; two and three can.
        sizes = [
            {name: value.shape for name, value in build_network(spec, num_channels, num_heads, 0).state_dict().items()}
            for num_channels, num_heads in ((2, 2), (2, 3), (3, 2))
        ]
    few, more_heads, more_channels = sizes
    return _grown(few, more_heads), _grown(few, more_channels)


def _grown(few: Mapping[str, torch.Size], more: Mapping[str, torch.Size]) -> Axes:
    found = {}
    for name, shape in few.items():
        axes = [axis for axis, (a, b) in enumerate(zip(shape, more[name], strict=True)) if a != b]
        if len(axes) == 1:
            found[name] = axes[0]
    return found


def _head_sources(known: Interface, wanted: Interface) -> list[int | None]:
    """As `matching_names`, for heads; a softmax head says nothing to a sigmoid one."""
    if known.has_regions != wanted.has_regions:
        return [None] * len(wanted.heads)
    return matching_names(known.heads, wanted.heads)


def _rows(value: Tensor, fresh: Tensor, sources: Sequence[int | None], axis: int) -> Tensor:
    drawn = fresh.detach().to(value.dtype)
    parts = [
        drawn.narrow(axis, row, 1) if source is None else value.narrow(axis, source, 1)
        for row, source in enumerate(sources)
    ]
    return torch.cat(parts, dim=axis)


def _channels(value: Tensor, sources: Sequence[int | None], axis: int) -> Tensor:
    mean = value.mean(axis, keepdim=True)
    return torch.cat([mean if source is None else value.narrow(axis, source, 1) for source in sources], dim=axis)


def _is_smaller_kernel(value: Tensor, fresh: Tensor) -> bool:
    return (
        value.ndim == fresh.ndim
        and value.shape[:2] == fresh.shape[:2]
        and value.shape != fresh.shape
        and all(small <= large for small, large in zip(value.shape[2:], fresh.shape[2:], strict=True))
    )

"""A network specification in, a fully convolutional network without a decoder out: a baseline.

After Long et al. (2015, arXiv:1411.4038): the encoder's coarsest maps are scored by convolutions of size 1,
and the scores are upsampled linearly and added, coarse to fine. FCN-32s scores the coarsest stage only,
FCN-16s the two coarsest, FCN-8s the three coarsest. The encoder is the plain U-Net's, so that the difference between
the two is the decoder alone.
"""

from torch import Tensor, nn

from autoseg.networks.blocks import encoder, enlarge, fold_slices, head, initialize, unfold_slices
from autoseg.records.plan import NetworkSpec


class FullyConvolutional(nn.Module):
    """An encoder and the sum of the scores of its `num_scored` coarsest stages; one output in either mode."""

    def __init__(self, spec: NetworkSpec, num_input_channels: int, num_heads: int, num_scored: int) -> None:
        super().__init__()
        self.dims = len(spec.strides[0])
        self.encoder = encoder(spec, num_input_channels)
        self.scores = nn.ModuleList(head(f, num_heads, self.dims) for f in spec.features_per_stage[-num_scored:])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images `N C Z Y X` to logits `N H Z Y X`, in a tuple of one."""
        num_samples = len(x)
        x = fold_slices(x, self.dims)
        size = x.shape[2:]
        maps = []
        for stage in self.encoder:
            x = stage(x)
            maps.append(x)
        y = self.scores[-1](maps[-1])
        for score, features in zip(self.scores[-2::-1], maps[-2::-1], strict=False):
            y = enlarge(y, features.shape[2:]) + score(features)
        return (unfold_slices(enlarge(y, size), num_samples, self.dims),)


def fcn_8s(spec: NetworkSpec, num_input_channels: int, num_heads: int) -> nn.Module:
    """Scores of the three coarsest stages."""
    return _initialized(FullyConvolutional(spec, num_input_channels, num_heads, num_scored=3))


def fcn_16s(spec: NetworkSpec, num_input_channels: int, num_heads: int) -> nn.Module:
    """Scores of the two coarsest stages."""
    return _initialized(FullyConvolutional(spec, num_input_channels, num_heads, num_scored=2))


def fcn_32s(spec: NetworkSpec, num_input_channels: int, num_heads: int) -> nn.Module:
    """Scores of the coarsest stage alone."""
    return _initialized(FullyConvolutional(spec, num_input_channels, num_heads, num_scored=1))


def _initialized(network: nn.Module) -> nn.Module:
    initialize(network)
    return network

"""Run by an interpreter that has MONAI: its MedNeXt's weights and outputs for given images.

Usage: python mednext_monai_peer.py IN.npz OUT.npz
"""

import sys

import numpy as np
import torch
from monai.networks.nets import MedNeXt

VARIANTS = {
    # Its blocks down have the expansion of the stage that they leave, the authors' of the one that they lead to: with
    # different expansions the two are different networks.
    "3d_k3": {"spatial_dims": 3, "kernel_size": 3, "blocks_down": (2, 1, 2, 1), "blocks_up": (1, 2, 1, 2)},
    "3d_k5": {"spatial_dims": 3, "kernel_size": 5, "blocks_down": (1, 1, 1, 1), "blocks_up": (1, 1, 1, 1)},
    "2d_k3": {"spatial_dims": 2, "kernel_size": 3, "blocks_down": (1, 2, 1, 1), "blocks_up": (1, 1, 2, 1)},
}


def main(given: str, results: str) -> None:
    """Write `<variant>/<parameter>`, `<variant>.output.<level>` and the number of parameters of S with kernel 5."""
    images = np.load(given)
    found: dict[str, np.ndarray] = {}
    for name, arguments in VARIANTS.items():
        torch.manual_seed(3)
        network = MedNeXt(
            init_filters=4,
            in_channels=2,
            out_channels=3,
            encoder_expansion_ratio=3,
            decoder_expansion_ratio=3,
            bottleneck_expansion_ratio=3,
            blocks_bottleneck=2,
            use_residual_connection=True,
            deep_supervision=True,
            **arguments,
        )
        for parameter in network.parameters():  # norms start as the identity, which would hide an exchange
            parameter.data += 0.1 * torch.randn(parameter.shape)
        with torch.no_grad():
            outputs = network.train()(torch.from_numpy(images[name]))
        found |= {f"{name}/{key}": value.detach().numpy() for key, value in network.state_dict().items()}
        found |= {f"{name}.output.{level}": output.numpy() for level, output in enumerate(outputs)}
    small = MedNeXt(kernel_size=5, out_channels=3, use_residual_connection=True, deep_supervision=True)
    bottleneck = small.out_blocks[0]
    # Its deep supervision has a head more, at the bottleneck.
    found["small_k5"] = np.array(
        sum(p.numel() for p in small.parameters()) - sum(p.numel() for p in bottleneck.parameters())
    )
    np.savez(results, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])

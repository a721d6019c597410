"""An image and a patch in, the image with zeros around it where it is smaller than the patch out, once a device."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from autoseg.records.geometry import IntTriple


class PaddedImage:
    """An image that is padded once, and copied to each device once, however many networks are asked about it."""

    def __init__(self, image: Tensor, patch_zyx: IntTriple) -> None:
        """`image` is `C Z Y X`."""
        missing = [max(0, p - s) for s, p in zip(image.shape[1:], patch_zyx, strict=True)]
        before = [m // 2 for m in missing]
        self.inner = tuple(slice(b, b + s) for b, s in zip(before, image.shape[1:], strict=True))
        """Where the image lies in there, z y x."""
        sides = [side for b, m in zip(reversed(before), reversed(missing), strict=True) for side in (b, m - b)]
        padded = pad(image, sides) if any(missing) else image
        self.num_channels = len(padded)
        self.shape: IntTriple = (padded.shape[1], padded.shape[2], padded.shape[3])
        """Of the padded image, z y x."""
        self._copies = {padded.device: padded}

    def lies_on(self, device: torch.device) -> bool:
        """Whether `on(device)` costs no memory."""
        return device in self._copies

    def on(self, device: torch.device) -> Tensor:
        """The padded image `C Z Y X` on a device."""
        if device not in self._copies:
            self._copies[device] = next(iter(self._copies.values())).to(device)
        return self._copies[device]

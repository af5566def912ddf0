"""From RGB pixels to what backbones take: each backbone carries the ``mean`` and ``std`` that it was trained with."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

#: Three numbers of RGB / 255.
Rgb = tuple[float, float, float]

#: Normalisation that every published VMamba was trained with.
IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)


def normalise(pixels: Tensor, *, mean: Rgb, std: Rgb) -> Tensor:
    """Normalise RGB pixels (B, H, W, 3) of 0 to 255 to float32 (B, 3, H, W): (p / 255 - mean) / std."""
    images = rearrange(pixels, "b h w c -> b c h w").float() / 255
    shift, scale = (rearrange(images.new_tensor(values), "c -> 1 c 1 1") for values in (mean, std))
    return (images - shift) / scale

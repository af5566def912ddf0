"""Clips as pictures of many channels, so that whatever is done to pictures is done to all their frames alike."""

from __future__ import annotations

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.model.normalise import Rgb, normalise


def as_picture(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB frames (T, H, W, 3) as one picture (H, W, 3 T), frame after frame."""
    return np.ascontiguousarray(rearrange(frames, "t h w c -> h w (t c)"))


def normalise_clips(pixels: Tensor, *, mean: Rgb, std: Rgb) -> Tensor:
    """Normalise clips that are pictures (B, H, W, 3 T) of 0 to 255, frame by frame: float32 (B, 3 T, H, W)."""
    frames = rearrange(pixels, "b h w (t c) -> (b t) h w c", c=3)
    return rearrange(normalise(frames, mean=mean, std=std), "(b t) c h w -> b (t c) h w", b=len(pixels))


def as_volumes(images: Tensor) -> Tensor:
    """What `normalise_clips` gives, (B, 3 T, H, W), as networks for volumes take it: (B, 3, T, H, W)."""
    return rearrange(images, "b (t c) h w -> b c t h w", c=3)

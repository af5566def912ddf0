"""Stem and downsampling in strips of rows."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.inference.packed import CENTRE, PackedConv, PackedMerge, PackedStem
from wsi_vmamba.inference.plan import CONV_ROWS, StagePlan, conv_groups
from wsi_vmamba.inference.workers import Profile, Workers
from wsi_vmamba.model.blocks import merge_neighbours
from wsi_vmamba.ops import tokens

#: Rows of a call of the fused stem. It needs no memory for them, but finds one row between its convolutions anew.
_FUSED_STEM_ROWS = 16


def pixel_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Pixels as a tensor on the same memory; it is only read, so read-only arrays are fine, mirrored ones copied."""
    if min(pixels.strides) < 0:
        pixels = np.ascontiguousarray(pixels)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(pixels)


class Rows(Protocol):
    """A map or a picture (height, width, channels) of which some rows at a time can be had."""

    height: int
    width: int

    def rows(self, first: int, last: int) -> Tensor:
        """Rows [first, last), contiguous; callers do not change them."""
        ...


class RowsInMemory:
    """Rows of a tensor."""

    def __init__(self, x: Tensor) -> None:
        self._x = x
        self.height, self.width = x.shape[:2]

    def rows(self, first: int, last: int) -> Tensor:
        """See `Rows.rows`."""
        return self._x[first:last]


def embed(
    pixels: Tensor, stem: PackedStem, out: Tensor, target: StagePlan, workers: Workers, profile: Profile
) -> None:
    """Stem: uint8 RGB (H, W, 3) -> ``out`` (~H/4, ~W/4, dim), the map of stage ``target``."""
    source = RowsInMemory(pixels)

    def rows(first: int, last: int) -> None:
        with profile.measure("stem"):
            stem_rows(source, stem, first, last, out=out[first:last])

    for group in conv_groups(target, CONV_ROWS if stem.fused is None else _FUSED_STEM_ROWS):
        workers.run([partial(rows, *strip) for strip in group])


def downsample(
    x: Tensor,
    layer: PackedConv | PackedMerge,
    out: Tensor,
    target: StagePlan,
    workers: Workers,
    profile: Profile,
) -> None:
    """Halve a map (H, W, C) into ``out``, the map of stage ``target``.

    ``out`` may be the memory of ``x`` where `plan.shrinks_in_place` says so.
    """
    source = RowsInMemory(x)
    results: dict[int, Tensor] = {}

    def rows(first: int, last: int) -> None:
        with profile.measure("downsample"):
            results[first] = downsampled_rows(source, layer, first, last)

    for group in conv_groups(target):
        workers.run([partial(rows, first, last) for first, last in group])
        with profile.measure("downsample"):  # only when all have read what they need
            for first, last in group:
                out[first:last] = results.pop(first)


def stem_rows(pixels: Rows, stem: PackedStem, first: int, last: int, *, out: Tensor | None = None) -> Tensor:
    """Rows [first, last) of the first map, of uint8 RGB pixels, in ``out`` where that is given."""
    if stem.fused is None:
        found = _stem_rows(pixels, stem, first, last)
        return found if out is None else out.copy_(found)
    assert stem.second is not None
    if out is None:
        shape = last - first, (pixels.width + 3) // 4, stem.second.weight.shape[0]
        out = torch.empty(shape, dtype=stem.second.weight.dtype)
    top, bottom = stem_sources(stem, first, last)
    inside = pixels.rows(max(top, 0), min(bottom, pixels.height)).contiguous()
    return stem.fused(inside, top=max(top, 0), height=pixels.height, first=first, out=out)


def _stem_rows(pixels: Rows, stem: PackedStem, first: int, last: int) -> Tensor:
    """The same step by step."""
    if stem.second is None:
        return _pixel_rows(pixels, stem, first, last)
    height = (pixels.height + 1) // 2
    top, bottom = 2 * first - 1, 2 * last
    inner = _pixel_rows(pixels, stem, max(top, 0), min(bottom, height))
    inner = F.gelu(inner)
    return _convolve(inner, stem.second, above=top < 0, below=bottom > height)


def stem_sources(stem: PackedStem, first: int, last: int) -> tuple[int, int]:
    """Between which rows of pixels lies all that `stem_rows` looks at; they may be outside the picture."""
    return (4 * first, 4 * last) if stem.second is None else (4 * first - 3, 4 * last + 1)


def downsampled_rows(x: Rows, layer: PackedConv | PackedMerge, first: int, last: int) -> Tensor:
    """Rows [first, last) of the map of half the size."""
    if isinstance(layer, PackedMerge):
        return _merge_rows(x, layer, first, last)
    return _conv_rows(x, layer, first, last)


def _pixel_rows(pixels: Rows, stem: PackedStem, first: int, last: int) -> Tensor:
    """Rows [first, last) of the first convolution and its norm."""
    conv = stem.first
    height, width = pixels.height, pixels.width
    kernel, pad = conv.weight.shape[2], conv.padding
    top, bottom = first * conv.stride - pad, (last - 1) * conv.stride - pad + kernel
    window = stem.fill.expand(bottom - top, width + 2 * pad, 3).contiguous()
    inside = pixels.rows(max(top, 0), min(bottom, height))
    place = window[max(-top, 0) : max(-top, 0) + len(inside), pad : pad + width]
    place.copy_(inside)
    place.sub_(torch.tensor(CENTRE, dtype=window.dtype))
    return _normed(F.conv2d(window.permute(2, 0, 1)[None], conv.weight, conv.bias, conv.stride), conv)


def _conv_rows(x: Rows, conv: PackedConv, first: int, last: int) -> Tensor:
    top = first * conv.stride - conv.padding
    bottom = (last - 1) * conv.stride - conv.padding + conv.weight.shape[2]
    inside = x.rows(max(top, 0), min(bottom, x.height))
    if conv.panels is not None:
        out = inside.new_empty(last - first, (x.width + 1) // 2, conv.panels.outputs)
        middle = first * conv.stride - max(top, 0)
        return tokens.conv_norm(inside.contiguous(), conv.panels, conv.norm.parts, middle=middle, out=out)
    return _convolve(inside, conv, above=top < 0, below=bottom > x.height)


def _convolve(x: Tensor, conv: PackedConv, *, above: bool, below: bool) -> Tensor:
    """Convolve rows (n, W, C) with a row of zeros put above or below where the map ends, zeros left and right."""
    if above or below:
        x = F.pad(x, (0, 0, 0, 0, int(above), int(below)))
    padding = (0, conv.padding)
    return _normed(F.conv2d(x.permute(2, 0, 1)[None], conv.weight, conv.bias, conv.stride, padding), conv)


def _merge_rows(x: Rows, merge: PackedMerge, first: int, last: int) -> Tensor:
    squares = merge_neighbours(x.rows(2 * first, min(2 * last, x.height))[None])[0]
    flat = squares.flatten(0, 1)
    return merge.reduction(merge.norm(flat, flat)).view(*squares.shape[:2], -1)


def _normed(x: Tensor, conv: PackedConv) -> Tensor:
    """Norm of a convolution's result (1, C, n, W), as rows (n, W, C)."""
    rows = x[0].permute(1, 2, 0).contiguous()
    return conv.norm(rows, rows)

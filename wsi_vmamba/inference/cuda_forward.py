"""A whole region through a VMamba on the GPU: one channels-last map, changed in place, strip by strip.

Only the scan sees the whole map. Everything else runs on strips of rows, so that the widest intermediate (the
hidden layer of the MLP, four times the map) exists for one strip at a time. Matmuls run in the dtype of the maps and
add into them directly; norms, convolution sums and the scan are float32. The code is the same on any device; off CUDA
it is slow and serves to test it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_vmamba import ops
from wsi_vmamba.inference.cuda_steps import CudaSteps
from wsi_vmamba.inference.cuda_weights import BlockWeights, Conv, CudaWeights, Merge, pack
from wsi_vmamba.model.blocks import merge_neighbours
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import triton
from wsi_vmamba.ops.triton_local import gelu_, layer_norm
from wsi_vmamba.ops.triton_plan import ceil_div, make_plan

#: Bytes of the widest intermediate of one strip: large enough to fill the GPU, small enough to count for nothing.
STRIP_BYTES = 64 * 1024**2

#: Rows [first, last) of a picture or a map, (rows, width, channels), on the device.
DeviceRows = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class StageSize:
    """Tokens and channels of one stage of a forward pass."""

    height: int
    width: int
    d_model: int
    d_inner: int
    proj: int

    @property
    def tokens(self) -> int:
        """Tokens of the map."""
        return self.height * self.width


class CudaForward:
    """The network as a function of pixels; holds the weights, keeps no maps between calls."""

    def __init__(
        self, model: VMamba, *, device: torch.device, dtype: torch.dtype, strip_bytes: int = STRIP_BYTES
    ) -> None:
        """Copy the weights of ``model`` to ``device``; maps are kept in ``dtype``."""
        self.config = model.config
        self.device = device
        self.dtype = dtype
        self.weights: CudaWeights = pack(model, device=device, dtype=dtype)
        self.strip_bytes = strip_bytes
        # One multiply-add per pixel: (p / 255 - mean) / std.
        exact = torch.promote_types(dtype, torch.float32)
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (model.mean, model.std))
        self._pixel_scale = (1 / (255 * std)).to(device, exact)
        self._pixel_shift = (-mean / std).to(device, exact)

    def sizes(self, *, height_px: int, width_px: int) -> list[StageSize]:
        """Maps of every stage for an image of this size."""
        height, width = height_px, width_px
        for conv in self.weights.stem:
            height, width = (_conv_length(n, conv) for n in (height, width))
        found = []
        for i, blocks in enumerate(self.weights.stages):
            d_model, d_inner = blocks[0].in_proj.shape
            found.append(StageSize(height, width, d_model, d_inner, blocks[0].x_proj.shape[1]))
            if i < len(self.weights.downsamples):
                between = self.weights.downsamples[i]
                if isinstance(between, Merge):
                    height, width = ceil_div(height, 2), ceil_div(width, 2)
                else:
                    height, width = (_conv_length(n, between) for n in (height, width))
        return found

    def peak_bytes(self, *, height_px: int, width_px: int) -> int:
        """Device memory of a forward pass, weights not counted: an upper estimate, to refuse before allocating."""
        item = self.dtype.itemsize
        peak = 0
        for size in self.sizes(height_px=height_px, width_px=width_px):
            maps = size.tokens * item * (size.d_model + size.d_inner + size.proj)
            scan = make_plan(
                batch=1,
                height=size.height,
                width=size.width,
                channels=size.d_inner,
                rank=size.proj // 4 - 2 * self.config.d_state,
                state=self.config.d_state,
            )
            peak = max(peak, maps + scan.scratch_bytes)
        return peak + 3 * height_px * width_px + 6 * self.strip_bytes

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Features (h, w, dim), float32, of RGB pixels (H, W, 3) uint8 on the device."""
        x = self._embed(pixels)
        for i, blocks in enumerate(self.weights.stages):
            self._stage(blocks, x)
            if i < len(self.weights.downsamples):
                x = self._downsample(self.weights.downsamples[i], x)
        return self.final_norm(x)

    def final_norm(self, x: Tensor) -> Tensor:
        """Features (n, w, dim), float32, of rows of the last map."""
        norm = self.weights.norm
        tokens = x.reshape(-1, x.shape[2])
        out = torch.empty(tokens.shape, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        return layer_norm(tokens, norm.weight, norm.bias, eps=norm.eps, out=out).view(x.shape)

    # -- stem and downsampling

    def stem_lengths(self, length_px: int) -> list[int]:
        """Length of an axis before and after each convolution of the stem."""
        lengths = [length_px]
        for conv in self.weights.stem:
            lengths.append(_conv_length(lengths[-1], conv))
        return lengths

    def stem_rows(self, pixels: DeviceRows, first: int, last: int, *, height_px: int) -> Tensor:
        """Rows [first, last) of the first map, of uint8 RGB pixels."""
        convs = self.weights.stem
        return self._conv_rows(pixels, self.stem_lengths(height_px), len(convs), first, last)

    def stem_sources(self, first: int, last: int, *, height_px: int) -> tuple[int, int]:
        """Between which rows of pixels lies all that `stem_rows` looks at."""
        lengths = self.stem_lengths(height_px)
        for conv, length in zip(reversed(self.weights.stem), reversed(lengths[:-1]), strict=True):
            first, last, _, _ = _rows_needed(first, last, conv, length)
        return first, last

    def downsampled_rows(
        self, between: Conv | Merge, x: DeviceRows, first: int, last: int, *, height: int
    ) -> Tensor:
        """Rows [first, last) of the map of half the size, of one that is ``height`` rows high."""
        if not isinstance(between, Merge):
            begin, end, above, below = _rows_needed(first, last, between, height)
            return _convolve(x(begin, end), between, above=above, below=below)
        merged = merge_neighbours(x(2 * first, min(2 * last, height))[None])[0]
        flat = merged.reshape(-1, merged.shape[2])
        norm = between.norm
        normed = layer_norm(flat, norm.weight, norm.bias, eps=norm.eps, out=torch.empty_like(flat))
        return torch.mm(normed, between.weight).view(*merged.shape[:2], -1)

    def _embed(self, pixels: Tensor) -> Tensor:
        convs = self.weights.stem
        height, width = (self.stem_lengths(length)[-1] for length in pixels.shape[:2])
        x = torch.empty((height, width, convs[-1].weight.shape[0]), dtype=self.dtype, device=self.device)
        # float32 pixels, first map with its norm
        per_row = pixels.shape[1] * max(16, 4 * convs[0].weight.shape[0])
        for first, last in self._strips(height, per_row * 2 ** (len(convs) - 1)):
            x[first:last] = self.stem_rows(
                lambda begin, end: pixels[begin:end], first, last, height_px=len(pixels)
            )
        return x

    def _conv_rows(self, pixels: DeviceRows, lengths: list[int], level: int, first: int, last: int) -> Tensor:
        """Rows [first, last) of the map after ``level`` convolutions of the stem, (rows, width, channels)."""
        if level == 0:
            normalised = (
                pixels(first, last).to(self._pixel_scale.dtype) * self._pixel_scale + self._pixel_shift
            )
            return normalised.to(self.dtype)
        conv = self.weights.stem[level - 1]
        begin, end, above, below = _rows_needed(first, last, conv, lengths[level - 1])
        source = self._conv_rows(pixels, lengths, level - 1, begin, end)
        if level > 1:
            source = gelu_(source)
        return _convolve(source, conv, above=above, below=below)

    def _downsample(self, between: Conv | Merge, x: Tensor) -> Tensor:
        height, width, _ = x.shape
        if isinstance(between, Merge):
            rows, columns, channels = ceil_div(height, 2), ceil_div(width, 2), between.weight.shape[1]
        else:
            rows, columns = (_conv_length(n, between) for n in (height, width))
            channels = between.weight.shape[0]
        out = torch.empty((rows, columns, channels), dtype=self.dtype, device=x.device)
        for first, last in self._strips(rows, 4 * width * x.shape[2] * x.element_size()):
            out[first:last] = self.downsampled_rows(
                between, lambda begin, end: x[begin:end], first, last, height=height
            )
        return out

    # -- blocks

    def _stage(self, blocks: tuple[BlockWeights, ...], x: Tensor) -> None:
        """Apply the blocks of a stage to ``x`` (H, W, D), in place."""
        height, width, d_model = x.shape
        widest = max(max(b.d_inner, b.mlp.fc1.shape[1] if b.mlp else 0, d_model) for b in blocks)
        strips = list(self._strips(height, width * widest * x.element_size()))
        rows = max(last - first for first, last in strips)
        d_inner = blocks[0].d_inner
        u = torch.empty((height, width, d_inner), dtype=self.dtype, device=x.device)
        proj = torch.empty((height, width, blocks[0].x_proj.shape[1]), dtype=self.dtype, device=x.device)
        v = x.new_empty(rows + 2, width, d_inner)
        steps = [CudaSteps(block) for block in blocks]
        scratch = x.new_empty((rows + 2) * width, max(each.scratch_width for each in steps))
        for step in steps:
            for first, last in strips:
                begin, end = max(0, first - 1), min(height, last + 1)
                around = v[: end - begin]
                step.project_in(x[begin:end].flatten(0, 1), around.flatten(0, 1), scratch)
                step.conv(around, out=u[first:last], top=first - begin)
                step.project(u[first:last].flatten(0, 1), proj[first:last].flatten(0, 1))
            scan_in_place(u, proj, step.weights.scan)
            for first, last in strips:
                tokens, scanned = x[first:last].flatten(0, 1), u[first:last].flatten(0, 1)
                step.add_rest(tokens, scanned, scratch, lambda _: nullcontext())

    def _strips(self, rows: int, bytes_per_row: int) -> Iterator[tuple[int, int]]:
        """Split rows into strips of at most `strip_bytes`, as equal as can be."""
        count = ceil_div(rows, max(1, self.strip_bytes // bytes_per_row))
        step = ceil_div(rows, count)
        for first in range(0, rows, step):
            yield first, min(first + step, rows)


def scan_in_place(u: Tensor, proj: Tensor, parameters: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """Replace the map ``u`` (H, W, D) by the sum of its four scans."""
    if triton.supports(u):
        triton.ss2d_scan_into(u[None], proj[None], *parameters, out=u[None])
    else:
        u.copy_(ops.ss2d_scan(u[None], proj[None], *parameters)[0])


def _conv_length(length: int, conv: Conv) -> int:
    return (length + 2 * conv.padding - conv.weight.shape[2]) // conv.stride + 1


def _rows_needed(first: int, last: int, conv: Conv, length: int) -> tuple[int, int, int, int]:
    """Source rows [begin, end) of output rows [first, last), and the zero rows missing above and below."""
    begin = first * conv.stride - conv.padding
    end = (last - 1) * conv.stride - conv.padding + conv.weight.shape[2]
    return max(0, begin), min(length, end), max(0, -begin), max(0, end - length)


def _convolve(source: Tensor, conv: Conv, *, above: int, below: int) -> Tensor:
    """Convolution and norm of rows (rows, W, C), with zero rows added above and below."""
    image = source.permute(2, 0, 1)[None]  # channels-last in memory
    if above or below:
        image = F.pad(image, (0, 0, above, below))
    result = F.conv2d(image, conv.weight, conv.bias, stride=conv.stride, padding=(0, conv.padding))
    out = result[0].permute(1, 2, 0).contiguous()
    tokens = out.view(-1, out.shape[2])
    normed = torch.empty_like(tokens)
    layer_norm(tokens, conv.norm.weight, conv.norm.bias, eps=conv.norm.eps, out=normed)
    return normed.view(out.shape)

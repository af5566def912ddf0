"""A whole region through a VMamba on the GPU: one channels-last map, changed in place, strip by strip.

Only the scan sees the whole map. Everything else runs on strips of rows, so that the widest intermediate (the
hidden layer of the MLP, four times the map) exists for one strip at a time. Matmuls run in the dtype of the maps and
add into them directly; norms, convolution sums and the scan are float32. The code is the same on any device; off CUDA
it is slow and serves to test it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_vmamba import ops
from wsi_vmamba.inference.cuda_weights import BlockWeights, Conv, CudaWeights, Merge, Mlp, pack
from wsi_vmamba.model.blocks import merge_neighbours
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import triton
from wsi_vmamba.ops.triton_local import depthwise_silu, gelu_, layer_norm
from wsi_vmamba.ops.triton_plan import ceil_div, make_plan

#: Bytes of the widest intermediate of one strip: large enough to fill the GPU, small enough to count for nothing.
STRIP_BYTES = 64 * 1024**2


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
        mean = torch.tensor(model.mean, dtype=torch.float32)
        std = torch.tensor(model.std, dtype=torch.float32)
        self._pixel_scale = (1 / (255 * std)).to(device)
        self._pixel_shift = (-mean / std).to(device)

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
        norm = self.weights.norm
        tokens = x.reshape(-1, x.shape[2])
        out = torch.empty(tokens.shape, dtype=torch.float32, device=x.device)
        layer_norm(tokens, norm.weight, norm.bias, eps=norm.eps, out=out)
        return out.view(x.shape)

    # -- stem and downsampling

    def _embed(self, pixels: Tensor) -> Tensor:
        convs = self.weights.stem
        lengths = [pixels.shape[0]]
        width = pixels.shape[1]
        for conv in convs:
            lengths.append(_conv_length(lengths[-1], conv))
            width = _conv_length(width, conv)
        channels = convs[-1].weight.shape[0]
        x = torch.empty((lengths[-1], width, channels), dtype=self.dtype, device=self.device)
        per_row = pixels.shape[1] * max(
            16, 4 * convs[0].weight.shape[0]
        )  # float32 pixels, first map with its norm
        for first, last in self._strips(lengths[-1], per_row * 2 ** (len(convs) - 1)):
            x[first:last] = self._conv_rows(convs, lengths, len(convs), first, last, pixels)
        return x

    def _conv_rows(
        self, convs: tuple[Conv, ...], lengths: list[int], level: int, first: int, last: int, pixels: Tensor
    ) -> Tensor:
        """Rows [first, last) of the map after ``level`` convolutions of the stem, (rows, width, channels)."""
        if level == 0:
            normalised = pixels[first:last].float() * self._pixel_scale + self._pixel_shift
            return normalised.to(self.dtype)
        conv = convs[level - 1]
        begin, end, above, below = _rows_needed(first, last, conv, lengths[level - 1])
        source = self._conv_rows(convs, lengths, level - 1, begin, end, pixels)
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
            if isinstance(between, Merge):
                merged = merge_neighbours(x[None, 2 * first : min(2 * last, height)])[0]
                flat = merged.reshape(-1, merged.shape[2])
                norm = between.norm
                normed = layer_norm(flat, norm.weight, norm.bias, eps=norm.eps, out=torch.empty_like(flat))
                torch.mm(normed, between.weight, out=out[first:last].view(-1, channels))
            else:
                begin, end, above, below = _rows_needed(first, last, between, height)
                out[first:last] = _convolve(x[begin:end], between, above=above, below=below)
        return out

    # -- blocks

    def _stage(self, blocks: tuple[BlockWeights, ...], x: Tensor) -> None:
        """Apply the blocks of a stage to ``x`` (H, W, D), in place."""
        height, width, d_model = x.shape
        widest = max(max(b.d_inner, b.mlp.fc1.shape[1] if b.mlp else 0, d_model) for b in blocks)
        strips = list(self._strips(height, width * widest * x.element_size()))
        rows = max(last - first for first, last in strips)
        u = torch.empty((height, width, blocks[0].d_inner), dtype=self.dtype, device=x.device)
        proj = torch.empty((height, width, blocks[0].x_proj.shape[1]), dtype=self.dtype, device=x.device)
        scratch = _Scratch(
            _normed=x.new_empty((rows + 2) * width * max(d_model, blocks[0].d_inner)),
            _wide=x.new_empty((rows + 2) * width * widest),
        )
        for block in blocks:
            for first, last in strips:
                self._scan_inputs(block, x, u, proj, first, last, scratch)
            scan_in_place(u, proj, block.scan)
            for first, last in strips:
                self._after_scan(block, x, u, first, last, scratch)

    def _scan_inputs(
        self,
        block: BlockWeights,
        x: Tensor,
        u: Tensor,
        proj: Tensor,
        first: int,
        last: int,
        scratch: _Scratch,
    ) -> None:
        """Norm, in_proj, depthwise convolution and SiLU, x_proj of rows [first, last)."""
        height, width, d_model = x.shape
        begin, end = max(0, first - 1), min(height, last + 1)
        tokens = x[begin:end].view(-1, d_model)
        v = scratch.wide(tokens.shape[0], block.d_inner)
        torch.mm(self._normed(block, tokens, scratch), block.in_proj, out=v)
        depthwise_silu(
            v.view(end - begin, width, block.d_inner),
            block.conv_weight,
            block.conv_bias,
            top=first - begin,
            out=u[first:last],
        )
        torch.mm(
            u[first:last].view(-1, block.d_inner), block.x_proj, out=proj[first:last].view(-1, proj.shape[2])
        )

    def _after_scan(
        self, block: BlockWeights, x: Tensor, y: Tensor, first: int, last: int, scratch: _Scratch
    ) -> None:
        """Out_norm, gate, out_proj and MLP of rows [first, last), added to ``x``."""
        tokens = x[first:last].view(-1, x.shape[2])
        scanned = y[first:last].view(-1, block.d_inner)
        gate = None
        if block.gate_proj is not None:
            gate = scratch.wide(tokens.shape[0], block.d_inner)
            torch.mm(self._normed(block, tokens, scratch), block.gate_proj, out=gate)
        norm = block.out_norm
        normed = scratch.normed(tokens.shape[0], block.d_inner)
        layer_norm(scanned, norm.weight, norm.bias, eps=norm.eps, out=normed, gate=gate)
        tokens.addmm_(normed, block.out_proj)
        if block.mlp is not None:
            _add_mlp(block.mlp, tokens, scratch)

    @staticmethod
    def _normed(block: BlockWeights, tokens: Tensor, scratch: _Scratch) -> Tensor:
        normed = scratch.normed(*tokens.shape)
        return layer_norm(tokens, block.norm.weight, block.norm.bias, eps=block.norm.eps, out=normed)

    def _strips(self, rows: int, bytes_per_row: int) -> Iterator[tuple[int, int]]:
        """Split rows into strips of at most `strip_bytes`, as equal as can be."""
        count = ceil_div(rows, max(1, self.strip_bytes // bytes_per_row))
        step = ceil_div(rows, count)
        for first in range(0, rows, step):
            yield first, min(first + step, rows)


@dataclass(frozen=True)
class _Scratch:
    """Buffers of one strip: normalised tokens, and whatever is widest."""

    _normed: Tensor
    _wide: Tensor

    def normed(self, tokens: int, channels: int) -> Tensor:
        """A (tokens, channels) matrix at the start of the first buffer."""
        return self._normed[: tokens * channels].view(tokens, channels)

    def wide(self, tokens: int, channels: int) -> Tensor:
        """A (tokens, channels) matrix at the start of the second buffer."""
        return self._wide[: tokens * channels].view(tokens, channels)


def _add_mlp(mlp: Mlp, tokens: Tensor, scratch: _Scratch) -> None:
    """``tokens += fc2(gelu(fc1(norm(tokens))))`` in place; the norm's pass over the tokens adds the last bias."""
    normed = scratch.normed(*tokens.shape)
    norm = mlp.norm
    layer_norm(tokens, norm.weight, norm.bias, eps=norm.eps, out=normed, then_add=mlp.fc2_bias)
    hidden = scratch.wide(tokens.shape[0], mlp.fc1.shape[1])
    torch.addmm(mlp.fc1_bias, normed, mlp.fc1, out=hidden)
    tokens.addmm_(gelu_(hidden), mlp.fc2)


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

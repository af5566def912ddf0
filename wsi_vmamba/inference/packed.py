"""The weights of a VMamba laid out for the strip encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from wsi_vmamba.inference.linear import PackedLinear
from wsi_vmamba.model.blocks import Block, PatchMerging
from wsi_vmamba.model.normalise import IMAGENET_MEAN, Rgb
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu


@dataclass(frozen=True)
class Norm:
    """A LayerNorm: float32 weight and bias, epsilon."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> Norm:
        """Copy a LayerNorm."""
        return cls(_plain(norm.weight), _plain(norm.bias), norm.eps)

    def __call__(self, x: Tensor, out: Tensor, *, gate: Tensor | None = None) -> Tensor:
        """Write the norm of ``x`` (..., D), times ``gate``, to ``out`` and return that."""
        return cpu.layer_norm(x, self.weight, self.bias, eps=self.eps, out=out, gate=gate)


@dataclass(frozen=True, kw_only=True)
class PackedBlock:
    """One block. ``gate`` is the z half of in_proj; it, ``norm2``, ``fc1`` and ``fc2`` may be missing."""

    norm: Norm
    in_proj: PackedLinear
    gate: PackedLinear | None
    conv_weight: Tensor
    conv_bias: Tensor | None
    x_proj: PackedLinear
    scan: cpu.ScanWeights
    out_norm: Norm
    out_proj: PackedLinear
    norm2: Norm | None
    fc1: PackedLinear | None
    fc2: PackedLinear | None

    @classmethod
    def of(cls, block: Block, dtype: torch.dtype) -> PackedBlock:
        """Pack a block; matmul weights in ``dtype``, the rest in float32."""
        op = block.op
        x_proj, *scan = op.scan_parameters()
        halves = torch.split(op.in_proj.weight, op.d_inner)
        return cls(
            norm=Norm.of(block.norm),
            in_proj=PackedLinear(halves[0], None, dtype=dtype),
            gate=PackedLinear(halves[1], None, dtype=dtype) if op.gated else None,
            conv_weight=_plain(op.conv2d.weight).view(op.d_inner, 9).t().contiguous(),
            conv_bias=None if op.conv2d.bias is None else _plain(op.conv2d.bias),
            x_proj=PackedLinear(x_proj.reshape(-1, op.d_inner), None, dtype=dtype),
            scan=cpu.pack_scan(*scan),
            out_norm=Norm.of(op.out_norm),
            out_proj=PackedLinear(op.out_proj.weight, None, dtype=dtype),
            norm2=None if block.norm2 is None else Norm.of(block.norm2),
            fc1=None
            if block.mlp is None
            else PackedLinear(block.mlp.fc1.weight, block.mlp.fc1.bias, dtype=dtype, gelu=True),
            fc2=None
            if block.mlp is None
            else PackedLinear(block.mlp.fc2.weight, block.mlp.fc2.bias, dtype=dtype),
        )


@dataclass(frozen=True, kw_only=True)
class PackedConv:
    """A strided convolution and the norm after it; ``padding`` zeros (or ``fill``) on each side."""

    weight: Tensor
    bias: Tensor
    norm: Norm
    stride: int
    padding: int

    @classmethod
    def of(cls, conv: nn.Conv2d, norm: nn.LayerNorm, dtype: torch.dtype) -> PackedConv:
        """Pack a convolution, channels last."""
        return cls(
            weight=conv.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last),
            bias=cast(Tensor, conv.bias).detach().to(dtype),
            norm=Norm.of(norm),
            stride=conv.stride[0],
            padding=int(conv.padding[0]),
        )


@dataclass(frozen=True, kw_only=True)
class PackedMerge:
    """Patch merging: norm of 2x2 neighbours, then a linear layer."""

    norm: Norm
    reduction: PackedLinear


@dataclass(frozen=True, kw_only=True)
class PackedStem:
    """Stem on pixels minus `CENTRE`: the normalisation of the input is folded into the first convolution.

    ``fill`` is what the padding of normalised images, zero, is in centred pixels. ``second`` may be missing.
    """

    first: PackedConv
    second: PackedConv | None
    fill: Tensor


#: Near the mean of most images; whole numbers, so that centred pixels are exact in bfloat16.
CENTRE = tuple(round(255 * mean) for mean in IMAGENET_MEAN)


@dataclass(frozen=True, kw_only=True)
class PackedVMamba:
    """A whole backbone, packed."""

    stem: PackedStem
    stages: tuple[tuple[PackedBlock, ...], ...]
    downsamples: tuple[PackedConv | PackedMerge, ...]
    norm: Norm

    @classmethod
    def of(cls, model: VMamba, dtype: torch.dtype) -> PackedVMamba:
        """Pack a model for maps and matmuls in ``dtype``; the model itself is left as it is."""
        stages = list(model.layers)
        blocks = [cast(nn.Sequential, stage.get_submodule("blocks")) for stage in stages]
        return cls(
            stem=_pack_stem(model.patch_embed, dtype, mean=model.mean, std=model.std),
            stages=tuple(tuple(PackedBlock.of(cast(Block, b), dtype) for b in stage) for stage in blocks),
            downsamples=tuple(
                _pack_downsample(stage.get_submodule("downsample"), dtype) for stage in stages[:-1]
            ),
            norm=Norm.of(cast(nn.LayerNorm, model.classifier.get_submodule("norm"))),
        )


def _pack_downsample(module: nn.Module, dtype: torch.dtype) -> PackedConv | PackedMerge:
    if isinstance(module, PatchMerging):
        return PackedMerge(
            norm=Norm.of(module.norm), reduction=PackedLinear(module.reduction.weight, None, dtype=dtype)
        )
    _, conv, _, norm = cast(nn.Sequential, module)
    return PackedConv.of(cast(nn.Conv2d, conv), cast(nn.LayerNorm, norm), dtype)


def _pack_stem(stem: nn.Sequential, dtype: torch.dtype, *, mean: Rgb, std: Rgb) -> PackedStem:
    centre, shift, spread = (torch.tensor(v, dtype=torch.float64) for v in (CENTRE, mean, std))
    conv = cast(nn.Conv2d, stem[0])
    # (p / 255 - mean) / std with p = q + centre is  q * scale - fill * scale.
    scale, fill = 1 / (255 * spread), 255 * shift - centre
    weight = conv.weight.detach().double() * scale[:, None, None]
    bias = cast(Tensor, conv.bias).detach().double() - (weight * fill[:, None, None]).sum((1, 2, 3))
    folded = nn.Conv2d(3, conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.padding[0])
    folded.load_state_dict({"weight": weight, "bias": bias})
    return PackedStem(
        first=PackedConv.of(folded, cast(nn.LayerNorm, stem[2]), dtype),
        second=None
        if len(stem) == 3
        else PackedConv.of(cast(nn.Conv2d, stem[5]), cast(nn.LayerNorm, stem[7]), dtype),
        fill=fill.to(dtype),
    )


def _plain(parameter: Tensor) -> Tensor:
    return parameter.detach().float().contiguous()

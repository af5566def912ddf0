"""The weights of a VMamba laid out for the strip encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from wsi_vmamba.inference.linear import PackedLinear
from wsi_vmamba.inference.steps import DepthwiseConv, Norm, TokenSteps, pack_steps, plain
from wsi_vmamba.model.blocks import Block, PatchMerging
from wsi_vmamba.model.normalise import IMAGENET_MEAN, Rgb
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu, tokens


@dataclass(frozen=True, kw_only=True)
class PackedBlock:
    """One block: its steps on tokens, depthwise convolution and scan."""

    steps: TokenSteps
    conv: DepthwiseConv
    scan: cpu.ScanWeights

    @classmethod
    def of(cls, block: Block, dtype: torch.dtype) -> PackedBlock:
        """Pack a block; matmul weights in ``dtype``, the rest in float32."""
        op = block.op
        return cls(
            steps=pack_steps(block, dtype),
            conv=DepthwiseConv(
                weight=plain(op.conv2d.weight).view(op.d_inner, 9).t().contiguous(),
                bias=None if op.conv2d.bias is None else plain(op.conv2d.bias),
            ),
            scan=cpu.pack_scan(*op.scan_parameters()[1:]),
        )


@dataclass(frozen=True, kw_only=True)
class PackedConv:
    """A strided convolution and the norm after it; ``padding`` zeros (or ``fill``) on each side.

    ``panels`` are the same weights for the fused kernel, where that takes them.
    """

    weight: Tensor
    bias: Tensor
    norm: Norm
    stride: int
    padding: int
    panels: tokens.Panels | None

    @classmethod
    def of(cls, conv: nn.Conv2d, norm: nn.LayerNorm, dtype: torch.dtype) -> PackedConv:
        """Pack a convolution, channels last."""
        bias = cast(Tensor, conv.bias)
        fits = conv.kernel_size == (3, 3) and conv.stride == (2, 2) and conv.padding == (1, 1)
        fused = fits and tokens.suits(conv.in_channels, conv.out_channels)
        return cls(
            weight=conv.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last),
            bias=bias.detach().to(dtype),
            norm=Norm.of(norm),
            stride=conv.stride[0],
            padding=int(conv.padding[0]),
            panels=tokens.Panels.pack_conv(conv.weight, bias, dtype=dtype) if fused else None,
        )


@dataclass(frozen=True, kw_only=True)
class PackedMerge:
    """Patch merging: norm of 2x2 neighbours, then a linear layer."""

    norm: Norm
    reduction: PackedLinear


@dataclass(frozen=True, kw_only=True)
class PackedStem:
    """Stem on pixels minus `CENTRE`: the normalisation of the input is folded into the first convolution.

    ``fill`` is what the padding of normalised images, zero, is in centred pixels. ``second`` may be missing. ``fused``
    is the whole as one kernel, where that takes it.
    """

    first: PackedConv
    second: PackedConv | None
    fill: Tensor
    fused: tokens.PixelStem | None


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
    second = None
    if len(stem) > 3:
        second = PackedConv.of(cast(nn.Conv2d, stem[5]), cast(nn.LayerNorm, stem[7]), dtype)
    norm = Norm.of(cast(nn.LayerNorm, stem[2]))
    fused = None
    if second is not None and second.panels is not None:
        fused = tokens.PixelStem(
            conv1=tokens.Panels.pack_conv(folded.weight, cast(Tensor, folded.bias), dtype=torch.float32),
            norm1=norm.parts,
            conv2=second.panels,
            norm2=second.norm.parts,
            fill=fill.float(),
            centre=centre.float(),
        )
    first = PackedConv.of(folded, cast(nn.LayerNorm, stem[2]), dtype)
    return PackedStem(first=first, second=second, fill=fill.to(dtype), fused=fused)

"""The weights of a VMamba as the GPU encoder multiplies them: matmul operands transposed, norms in float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.blocks import Block, PatchMerging
from wsi_vmamba.model.vmamba import VMamba


@dataclass(frozen=True)
class Norm:
    """Weight, bias and epsilon of a LayerNorm, float32."""

    weight: Tensor
    bias: Tensor
    eps: float


@dataclass(frozen=True)
class Conv:
    """A strided convolution, channels last in the dtype of the maps, and the norm that follows."""

    weight: Tensor
    bias: Tensor | None
    stride: int
    padding: int
    norm: Norm


@dataclass(frozen=True)
class Merge:
    """Patch merging: norm of 2x2 neighbours, then a projection (4 D, D')."""

    norm: Norm
    weight: Tensor


@dataclass(frozen=True)
class Mlp:
    """Norm, two linear layers; ``fc2_bias`` is float32, the others have the dtype of the maps."""

    norm: Norm
    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_bias: Tensor


@dataclass(frozen=True)
class BlockWeights:
    """One block. Matmul weights are (in, out); ``scan`` is what `ss2d_scan` takes after u and proj."""

    norm: Norm
    in_proj: Tensor
    gate_proj: Tensor | None
    conv_weight: Tensor
    conv_bias: Tensor | None
    x_proj: Tensor
    scan: tuple[Tensor, Tensor, Tensor, Tensor]
    out_norm: Norm
    out_proj: Tensor
    mlp: Mlp | None

    @property
    def d_inner(self) -> int:
        """Channels of the scan."""
        return self.in_proj.shape[1]


@dataclass(frozen=True)
class CudaWeights:
    """All weights but those of the classifier's linear head."""

    stem: tuple[Conv, ...]
    stages: tuple[tuple[BlockWeights, ...], ...]
    downsamples: tuple[Conv | Merge, ...]
    norm: Norm


def pack(model: VMamba, *, device: torch.device, dtype: torch.dtype) -> CudaWeights:
    """Copy the weights of ``model`` to ``device``; the model itself stays as it is."""
    packer = _Packer(device, dtype)
    stem = list(model.patch_embed)
    convs = [(m, stem[i + 2]) for i, m in enumerate(stem) if isinstance(m, nn.Conv2d)]
    stages = [stage.get_submodule("blocks") for stage in model.layers]
    between = [stage.get_submodule("downsample") for stage in model.layers][:-1]
    return CudaWeights(
        stem=tuple(packer.conv(conv, norm) for conv, norm in convs),
        stages=tuple(tuple(packer.block(b) for b in _blocks(blocks)) for blocks in stages),
        downsamples=tuple(packer.downsample(module) for module in between),
        norm=packer.norm(model.classifier.get_submodule("norm")),
    )


def _blocks(sequence: nn.Module) -> list[Block]:
    return [block for block in sequence.children() if isinstance(block, Block)]


@dataclass(frozen=True)
class _Packer:
    device: torch.device
    dtype: torch.dtype

    def exact(self, tensor: Tensor) -> Tensor:
        """A copy in float32, or float64 where the maps are."""
        exact = torch.promote_types(self.dtype, torch.float32)
        return tensor.detach().to(self.device, exact, copy=True)

    def low(self, tensor: Tensor) -> Tensor:
        """A copy in the dtype of the maps."""
        return tensor.detach().to(self.device, self.dtype, copy=True).contiguous()

    def norm(self, norm: nn.Module) -> Norm:
        if not isinstance(norm, nn.LayerNorm):
            raise UsageError(f"expected a LayerNorm after the convolution, got {type(norm).__name__}")
        return Norm(self.exact(norm.weight), self.exact(norm.bias), norm.eps)

    def conv(self, conv: nn.Conv2d, norm: nn.Module) -> Conv:
        weight = self.low(conv.weight).contiguous(memory_format=torch.channels_last)
        bias = None if conv.bias is None else self.low(conv.bias)
        return Conv(weight, bias, conv.stride[0], int(conv.padding[0]), self.norm(norm))

    def downsample(self, module: nn.Module) -> Conv | Merge:
        if isinstance(module, PatchMerging):
            return Merge(self.norm(module.norm), self.low(module.reduction.weight.t()))
        conv, norm = (m for m in module.children() if isinstance(m, nn.Conv2d | nn.LayerNorm))
        if not isinstance(conv, nn.Conv2d):
            raise UsageError(f"expected a convolution between stages, got {type(conv).__name__}")
        return self.conv(conv, norm)

    def block(self, block: Block) -> BlockWeights:
        op = block.op
        x_proj, dt_weight, dt_bias, A_logs, Ds = op.scan_parameters()
        d_inner = op.d_inner
        mlp = None
        if block.mlp is not None and block.norm2 is not None:
            mlp = Mlp(
                self.norm(block.norm2),
                self.low(block.mlp.fc1.weight.t()),
                self.low(block.mlp.fc1.bias),
                self.low(block.mlp.fc2.weight.t()),
                self.exact(block.mlp.fc2.bias),
            )
        return BlockWeights(
            norm=self.norm(block.norm),
            in_proj=self.low(op.in_proj.weight[:d_inner].t()),
            gate_proj=self.low(op.in_proj.weight[d_inner:].t()) if op.gated else None,
            conv_weight=self.exact(op.conv2d.weight).reshape(d_inner, 9).t().contiguous(),
            conv_bias=None if op.conv2d.bias is None else self.exact(op.conv2d.bias),
            x_proj=self.low(x_proj.reshape(-1, d_inner).t()),
            scan=(self.exact(dt_weight), self.exact(dt_bias), self.exact(A_logs), self.exact(Ds)),
            out_norm=self.norm(op.out_norm),
            out_proj=self.low(op.out_proj.weight.t()),
            mlp=mlp,
        )

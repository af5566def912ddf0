"""What a block does to single tokens on a GPU, and its depthwise convolution: matmuls that add into the map.

For a map that lies in the GPU's memory (`cuda_forward`) and for one that passes through it strip by strip
(`cuda_sweep`); off CUDA the same code is slow and serves to test it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wsi_vmamba.inference.cuda_weights import BlockWeights, Mlp
from wsi_vmamba.inference.steps import Depthwise, Measure, ScanPlaces, scan_inputs_by_steps
from wsi_vmamba.ops.triton_local import depthwise_silu, gelu_, layer_norm


@dataclass(frozen=True)
class CudaConv:
    """`steps.Depthwise`, also of rows of which the first is not the one above."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, rows: Tensor, *, out: Tensor, top: int = 1) -> Tensor:
        """See `triton_local.depthwise_silu`."""
        return depthwise_silu(rows, self.weight, self.bias, top=top, out=out)


@dataclass(frozen=True)
class CudaSteps:
    """One block: `steps.TokenSteps`, whose ``scratch`` is (tokens at once, `scratch_width`)."""

    weights: BlockWeights

    @property
    def steps(self) -> CudaSteps:
        """See `block.BlockSteps`."""
        return self

    @property
    def conv(self) -> CudaConv:
        """See `block.BlockSteps`."""
        return CudaConv(self.weights.conv_weight, self.weights.conv_bias)

    @property
    def scratch_width(self) -> int:
        """Values of scratch for each token."""
        return sum(self._widths)

    @property
    def _widths(self) -> tuple[int, int]:
        """Of normalised tokens, and of whatever is widest."""
        block = self.weights
        d_model, d_inner = block.in_proj.shape
        hidden = 0 if block.mlp is None else block.mlp.fc1.shape[1]
        return max(d_model, d_inner), max(hidden, d_inner if block.gate_proj is not None else 0)

    def project_in(self, x: Tensor, out: Tensor, scratch: Tensor) -> None:
        """See `TokenSteps.project_in`."""
        for chunk in _chunks(x, scratch):
            torch.mm(self._normed(x[chunk], scratch), self.weights.in_proj, out=out[chunk])

    def project(self, u: Tensor, out: Tensor) -> None:
        """See `TokenSteps.project`; ``out`` has the dtype of the maps."""
        torch.mm(u, self.weights.x_proj, out=out)

    def add_rest(self, x: Tensor, y: Tensor, scratch: Tensor, measure: Measure) -> None:
        """See `TokenSteps.add_rest`; ``y`` has the dtype of the maps."""
        block = self.weights
        for chunk in _chunks(x, scratch):
            here, scanned = x[chunk], y[chunk]
            with measure("norm + out_proj"):
                gate = None
                if block.gate_proj is not None:
                    gate = self._wide(scratch, len(here), block.d_inner)
                    torch.mm(self._normed(here, scratch), block.gate_proj, out=gate)
                norm, normed = block.out_norm, _piece(scratch, 0, len(here), block.d_inner)
                layer_norm(scanned, norm.weight, norm.bias, eps=norm.eps, out=normed, gate=gate)
                here.addmm_(normed, block.out_proj)
            if block.mlp is not None:
                with measure("norm + MLP"):
                    self._add_mlp(block.mlp, here, scratch)

    def scan_inputs(
        self, conv: Depthwise, x: Tensor, places: ScanPlaces, scratch: Tensor, measure: Measure
    ) -> None:
        """See `TokenSteps.scan_inputs`."""
        scan_inputs_by_steps(self, conv, x, places, scratch, measure)

    def _normed(self, x: Tensor, scratch: Tensor) -> Tensor:
        norm = self.weights.norm
        return layer_norm(x, norm.weight, norm.bias, eps=norm.eps, out=_piece(scratch, 0, *x.shape))

    def _add_mlp(self, mlp: Mlp, x: Tensor, scratch: Tensor) -> None:
        """``x += fc2(gelu(fc1(norm(x))))`` in place; the norm's pass over the tokens adds the last bias."""
        normed, norm = _piece(scratch, 0, *x.shape), mlp.norm
        layer_norm(x, norm.weight, norm.bias, eps=norm.eps, out=normed, then_add=mlp.fc2_bias)
        hidden = self._wide(scratch, len(x), mlp.fc1.shape[1])
        torch.addmm(mlp.fc1_bias, normed, mlp.fc1, out=hidden)
        x.addmm_(gelu_(hidden), mlp.fc2)

    def _wide(self, scratch: Tensor, tokens: int, width: int) -> Tensor:
        return _piece(scratch, len(scratch) * self._widths[0], tokens, width)


def _chunks(x: Tensor, scratch: Tensor) -> Iterator[slice]:
    """As many tokens at a time as the scratch is for."""
    return (slice(first, first + len(scratch)) for first in range(0, len(x), len(scratch)))


def _piece(scratch: Tensor, start: int, tokens: int, width: int) -> Tensor:
    """A (tokens, width) matrix in the memory of the scratch."""
    return scratch.view(-1)[start : start + tokens * width].view(tokens, width)

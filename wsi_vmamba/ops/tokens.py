"""Operators of the inference encoder around the scan, each one pass over its tokens: one thread, no maps in between.

Norm and matrix, the end of a block, what the scan takes of a strip, and the convolutions of stem and downsampling
go through a few tokens or rows at a time, so that what lies between their steps stays in the cache (native/tokens.cpp).
Widths are whole blocks of 16; `suits` tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_vmamba.errors import UsageError
from wsi_vmamba.ops.cpu_module import array, check_shape, module, native
from wsi_vmamba.ops.packing import BLOCK
from wsi_vmamba.ops.whole_map import STORAGE

#: Instruction sets of these operators, best first.
instruction_sets: tuple[str, ...] = () if module is None else tuple(module.token_instruction_sets())
#: The one that is used unless a call asks for another.
isa = instruction_sets[0] if instruction_sets else "none"

#: Weight (D,), bias (D,), both float32, and epsilon of a layer norm.
NormOf = tuple[Tensor, Tensor, float]


def suits(*widths: int) -> bool:
    """Tell whether the operators are here and take maps of these widths."""
    return module is not None and all(width > 0 and width % BLOCK == 0 for width in widths)


@dataclass(frozen=True)
class Panels:
    """A matrix (outputs, inputs) and its bias in the layout of the kernels.

    Attributes:
        weight: float32 (panels, inputs, 16) or bfloat16 (panels, inputs / 2, 16, 2); the last panel ends with zeros.
        bias: float32 of whole blocks, or None.
        inputs: numbers per token that are multiplied.
        outputs: and that come out.
    """

    weight: Tensor
    bias: Tensor | None
    inputs: int
    outputs: int

    @classmethod
    def pack(cls, weight: Tensor, bias: Tensor | None, *, dtype: torch.dtype, isa: str = "") -> Panels:
        """Pack ``weight`` (outputs, inputs), rounded to ``dtype``; it stays float32 where no pairs are multiplied."""
        outputs, inputs = weight.shape
        rounded = weight.detach().to(dtype)
        filled = F.pad(rounded, (0, 0, 0, -outputs % BLOCK)).view(-1, BLOCK, inputs)
        if dtype == torch.bfloat16 and inputs % BLOCK == 0 and native().multiplies_pairs(isa):
            packed = filled.view(-1, BLOCK, inputs // 2, 2).permute(0, 2, 1, 3).contiguous()
        else:
            packed = filled.float().transpose(1, 2).contiguous()
        shift = None if bias is None else F.pad(bias.detach().float(), (0, -outputs % BLOCK)).contiguous()
        return cls(packed, shift, inputs, outputs)

    @classmethod
    def pack_conv(cls, weight: Tensor, bias: Tensor, *, dtype: torch.dtype, isa: str = "") -> Panels:
        """Pack a convolution's weight (outputs, channels, 3, 3)."""
        return cls.pack(weight.permute(0, 2, 3, 1).flatten(1), bias, dtype=dtype, isa=isa)

    @cached_property
    def arrays(self) -> tuple[Any, Any]:
        """Weight and bias as the kernels take them."""
        return array(self.weight, "weight", *STORAGE), None if self.bias is None else array(self.bias, "bias")


def linear(
    x: Tensor,
    matrix: Panels,
    *,
    out: Tensor,
    norm: NormOf | None = None,
    gate: Tensor | None = None,
    add: bool = False,
    isa: str = "",
) -> Tensor:
    """Write the product of (the norm of) tokens and a matrix, plus its bias, to ``out``, or add it to what is there.

    Args:
        x: (..., inputs), float32 or bfloat16.
        matrix: packed.
        out: (..., outputs), float32 or bfloat16.
        norm: of the inputs, or None.
        gate: float32 like ``x``, which the norm is multiplied by.
        add: to ``out``.
        isa: an entry of `instruction_sets`; empty takes the best.

    Returns:
        ``out``.
    """
    check_shape(x, "x", *x.shape[:-1], matrix.inputs)
    check_shape(out, "out", *x.shape[:-1], matrix.outputs)
    weight, bias = matrix.arrays
    scale, shift, eps = _norm(norm)
    factor = None if gate is None else array(gate, "gate")
    inputs = array(x, "x", *STORAGE), factor, scale, shift, eps, weight, bias, matrix.inputs, matrix.outputs
    native().linear(*inputs, array(out, "out", *STORAGE), add, isa)
    return out


def scan_inputs(
    x: Tensor,
    *,
    norm: NormOf,
    in_proj: Panels,
    rows: Tensor,
    first: int,
    conv: tuple[Tensor, Tensor | None],
    x_proj: Panels,
    u: Tensor,
    proj: Tensor,
    runs: Tensor | None = None,
    isa: str = "",
) -> None:
    """What the scan takes of a strip: in_proj, depthwise convolution and SiLU, x_proj, a few rows at a time.

    Args:
        x: (m, W, D), float32 or bfloat16, rows of the map.
        norm: of ``x``.
        in_proj: from D to d_inner.
        rows: (n + 2, W, d_inner), dtype of ``x``, the window: gets in_proj of ``x`` from row ``first`` on. The others,
            one or two above and perhaps one below, hold it already.
        first: see ``rows``.
        conv: weight (9, d_inner) and bias of the convolution, as for `local.depthwise_silu`.
        x_proj: from d_inner to the projections.
        u: (n, W, d_inner), dtype of ``x``, is written.
        proj: (n, W, projections) float32, is written.
        runs: int64 (runs, 3), where the columns lie in a wider window (n + 2, W', d_inner), whose others hold what is
            around them: first column, how many, and their first place in the window, from left to right. None where
            it is as wide as ``u``.
        isa: as for `linear`.
    """
    count, width, inner = u.shape
    check_shape(x, "x", x.shape[0], width, in_proj.inputs)
    check_shape(rows, "rows", count + 2, width if runs is None else rows.shape[1], inner)
    check_shape(proj, "proj", count, width, x_proj.outputs)
    if (in_proj.outputs, x_proj.inputs, in_proj.bias, x_proj.bias) != (inner, inner, None, None):
        raise UsageError("the matrices before the scan must go to and from the channels of u, without a bias")
    weight, bias = conv
    shift = None if bias is None else array(bias, "bias")
    places = None if runs is None else array(runs, "runs", torch.int64)
    inputs = (
        array(x, "x", *STORAGE),
        *_norm(norm),
        in_proj.arrays[0],
        array(rows, "rows", *STORAGE),
        first,
        places,
    )
    outputs = x_proj.arrays[0], array(u, "u", *STORAGE), array(proj, "proj")
    native().scan_inputs(*inputs, array(weight, "weight"), shift, *outputs, isa)


@dataclass(frozen=True)
class Mlp:
    """fc2(GELU(fc1(norm(x)))) of a block, for `add_rest_`."""

    norm: NormOf
    fc1: Panels
    fc2: Panels

    @cached_property
    def arrays(self) -> tuple[Any, ...]:
        """As the kernels take it.

        Raises:
            UsageError: the matrices do not fit each other or have no bias.
        """
        fc1, fc2 = self.fc1, self.fc2
        if (fc2.inputs, fc2.outputs) != (fc1.outputs, fc1.inputs) or fc1.bias is None or fc2.bias is None:
            raise UsageError(
                f"an MLP needs biases, and matrices of opposite shapes; got {fc1.outputs} x {fc1.inputs} "
                f"and {fc2.outputs} x {fc2.inputs}"
            )
        return *_norm(self.norm), *fc1.arrays, *fc2.arrays, fc1.inputs, fc1.outputs


def add_rest_(
    x: Tensor,
    *,
    scanned: Tensor,
    norm: NormOf,
    out_proj: Panels,
    mlp: Mlp,
    gate: Tensor | None = None,
    isa: str = "",
) -> Tensor:
    """Add ``out_proj`` of the norm of the scan, then an MLP: the end of a block in one pass over its tokens.

    Args:
        x: (..., D), float32 or bfloat16, the residual.
        scanned: (..., d_inner) float32, the scan.
        norm: of ``scanned``.
        out_proj: from d_inner to D.
        mlp: of the new ``x``.
        gate: float32 like ``scanned``, which its norm is multiplied by.
        isa: as for `linear`.

    Returns:
        ``x``.
    """
    check_shape(x, "x", *x.shape[:-1], out_proj.outputs)
    check_shape(scanned, "scanned", *x.shape[:-1], out_proj.inputs)
    factor = None if gate is None else array(gate, "gate")
    inputs = array(scanned, "scanned"), factor, *_norm(norm), *out_proj.arrays, out_proj.inputs
    native().rest(array(x, "x", *STORAGE), *inputs, *mlp.arrays, isa)
    return x


def conv_norm(
    rows: Tensor, matrix: Panels, norm: NormOf, *, middle: int, out: Tensor, isa: str = ""
) -> Tensor:
    """Write the norm of a 3x3 convolution with stride 2 to ``out``; outside of ``rows`` are zeros.

    Args:
        rows: (n, W, D), float32 or bfloat16.
        matrix: from `Panels.pack_conv`.
        norm: of the result.
        middle: the row that the window of the first row of ``out`` is centred on: 0 or 1.
        out: (n_out, ceil(W / 2), outputs), dtype of ``rows``.
        isa: as for `linear`.

    Returns:
        ``out``.
    """
    check_shape(out, "out", out.shape[0], (rows.shape[1] + 1) // 2, matrix.outputs)
    arrays = array(rows, "rows", *STORAGE), middle, *matrix.arrays, *_norm(norm), array(out, "out", *STORAGE)
    native().conv(*arrays, isa)
    return out


@dataclass(frozen=True, kw_only=True)
class PixelStem:
    """Two 3x3 convolutions with stride 2, each with its norm, GELU between them, of pixels less ``centre``.

    Attributes:
        conv1: packed in float32 whatever the dtype of the maps.
        norm1: of its result.
        conv2: from `Panels.pack_conv`.
        norm2: of its result.
        fill: float32 (3,), what lies around the picture, the centre taken off.
        centre: float32 (3,).
    """

    conv1: Panels
    norm1: NormOf
    conv2: Panels
    norm2: NormOf
    fill: Tensor
    centre: Tensor

    def __call__(
        self, pixels: Tensor, *, top: int, height: int, first: int, out: Tensor, isa: str = ""
    ) -> Tensor:
        """Write rows from number ``first`` on of the result to ``out``.

        Args:
            pixels: uint8 (n, W, 3), rows of a picture, all that ``out`` depends on.
            top: number of the first of them.
            height: rows of the picture.
            first: row of the result that comes first.
            out: (rows, ceil(W / 4), D), float32 or bfloat16.
            isa: as for `linear`.

        Returns:
            ``out``.
        """
        check_shape(out, "out", out.shape[0], (pixels.shape[1] + 3) // 4, self.conv2.outputs)
        picture = array(pixels, "pixels", torch.uint8), top, height
        colours = array(self.fill, "fill"), array(self.centre, "centre")
        weights = *self.conv1.arrays, *_norm(self.norm1), *self.conv2.arrays, *_norm(self.norm2)
        native().pixel_stem(*picture, *colours, *weights, array(out, "out", *STORAGE), first, isa)
        return out


def _norm(norm: NormOf | None) -> tuple[Any, Any, float]:
    if norm is None:
        return None, None, 0.0
    weight, bias, eps = norm
    return array(weight, "weight"), array(bias, "bias"), eps

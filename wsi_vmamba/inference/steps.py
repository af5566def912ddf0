"""What a block does around the scan, in two ways: matmuls of oneDNN, or the fused C++ kernels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from wsi_vmamba.inference.linear import PackedLinear
from wsi_vmamba.inference.plan import GATED_TOKENS, chunks
from wsi_vmamba.model.blocks import Block
from wsi_vmamba.ops import cpu, tokens

#: Opens a span of time of an operator: `workers.Profile.measure`.
Measure = Callable[[str], AbstractContextManager[None]]

#: A matrix as one of the two ways has it, and what packs a weight (outputs, inputs) and a bias, perhaps None.
Matrix = TypeVar("Matrix")
Pack = Callable[[Tensor, Tensor | None], Matrix]


@dataclass(frozen=True)
class Norm:
    """A LayerNorm: float32 weight and bias, epsilon."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> Norm:
        """Copy a LayerNorm."""
        return cls(plain(norm.weight), plain(norm.bias), norm.eps)

    @property
    def parts(self) -> tokens.NormOf:
        """Weight, bias, epsilon."""
        return self.weight, self.bias, self.eps

    def __call__(self, x: Tensor, out: Tensor, *, gate: Tensor | None = None) -> Tensor:
        """Write the norm of ``x`` (..., D), times ``gate``, to ``out`` and return that."""
        return cpu.layer_norm(x, self.weight, self.bias, eps=self.eps, out=out, gate=gate)


class Depthwise(Protocol):
    """A depthwise 3x3 convolution, which SiLU follows: weight (9, d_inner) and bias."""

    @property
    def weight(self) -> Tensor:
        """Taps row by row."""
        ...

    @property
    def bias(self) -> Tensor | None:
        """One of each channel."""
        ...

    def __call__(self, rows: Tensor, *, out: Tensor) -> Tensor:
        """Convolve rows (n + 2, width, d_inner) to ``out`` (n, width, d_inner) and return that."""
        ...


@dataclass(frozen=True)
class DepthwiseConv:
    """`Depthwise` by the C++ kernel."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, rows: Tensor, *, out: Tensor) -> Tensor:
        """See `cpu.depthwise_silu`."""
        return cpu.depthwise_silu(rows, self.weight, self.bias, out=out)


class ScanPlaces(NamedTuple):
    """Where what the scan takes of a strip goes, as `tokens.scan_inputs` has it.

    ``rows`` is the window (n + 2, width, d_inner), wider with ``runs`` (runs, 3); ``u`` (n, width, d_inner) and
    ``proj`` (n, width, 4 * (R + 2 N)) are written.
    """

    rows: Tensor
    first: int
    u: Tensor
    proj: Tensor
    runs: Tensor | None = None


class TokenSteps(Protocol):
    """The steps of a block on tokens (n, D); ``scratch`` is (tokens of a chunk, widest), of the maps' dtype."""

    def project_in(self, x: Tensor, out: Tensor, scratch: Tensor) -> None:
        """Write in_proj of the norm of ``x`` to ``out``."""
        ...

    def project(self, u: Tensor, out: Tensor) -> None:
        """Write x_proj of ``u`` to ``out``, float32."""
        ...

    def scan_inputs(
        self, conv: Depthwise, x: Tensor, places: ScanPlaces, scratch: Tensor, measure: Measure
    ) -> None:
        """What the scan takes of rows ``x`` (n, width, D); see `tokens.scan_inputs`."""
        ...

    def add_rest(self, x: Tensor, y: Tensor, scratch: Tensor, measure: Measure) -> None:
        """From the scan ``y``, float32, to the new residual ``x``, in place."""
        ...


def scan_inputs_by_steps(
    steps: TokenSteps, conv: Depthwise, x: Tensor, places: ScanPlaces, scratch: Tensor, measure: Measure
) -> None:
    """What the scan takes of a strip, one step after the other; see `tokens.scan_inputs`."""
    rows, first, u, proj, runs = places
    window = rows[first : first + len(x)]
    pieces = [] if runs is None else runs.tolist()
    with measure("norm + in_proj"):
        own = window if runs is None else window.new_empty(*x.shape[:2], window.shape[2])
        steps.project_in(x.flatten(0, 1), own.flatten(0, 1), scratch)
        for begin, count, place in pieces:
            window[:, place : place + count] = own[:, begin : begin + count]
    with measure("dwconv + SiLU"):
        spread = conv(rows, out=u if runs is None else rows.new_empty(len(u), *rows.shape[1:]))
        for begin, count, place in pieces:
            u[:, begin : begin + count] = spread[:, place : place + count]
    with measure("x_proj"):
        steps.project(u.flatten(0, 1), proj.flatten(0, 1))


@dataclass(frozen=True, kw_only=True)
class _Packed(Generic[Matrix]):
    """The weights of a block. ``gate`` is the z half of in_proj; it and the MLP may be missing."""

    norm: Norm
    in_proj: Matrix
    gate: Matrix | None
    x_proj: Matrix
    out_norm: Norm
    out_proj: Matrix
    mlp: tuple[Norm, Matrix, Matrix] | None

    @classmethod
    def _of(cls, block: Block, *, pack: Pack[Matrix], pack_hidden: Pack[Matrix]) -> Self:
        """Pack a block; ``pack_hidden`` packs the first matrix of the MLP."""
        op = block.op
        halves = torch.split(op.in_proj.weight, op.d_inner)
        mlp = None
        if block.norm2 is not None and block.mlp is not None:
            fc1, fc2 = block.mlp.fc1, block.mlp.fc2
            mlp = Norm.of(block.norm2), pack_hidden(fc1.weight, fc1.bias), pack(fc2.weight, fc2.bias)
        return cls(
            norm=Norm.of(block.norm),
            in_proj=pack(halves[0], None),
            gate=pack(halves[1], None) if op.gated else None,
            x_proj=pack(op.scan_parameters()[0].reshape(-1, op.d_inner), None),
            out_norm=Norm.of(op.out_norm),
            out_proj=pack(op.out_proj.weight, None),
            mlp=mlp,
        )


class FusedSteps(_Packed[tokens.Panels]):
    """The steps before the scan in one kernel, and those behind it in another, but for the gate."""

    @classmethod
    def of(cls, block: Block, dtype: torch.dtype) -> FusedSteps:
        """Pack a block; matrices rounded to ``dtype``."""
        pack = partial(tokens.Panels.pack, dtype=dtype)
        return cls._of(block, pack=pack, pack_hidden=pack)

    def project_in(self, x: Tensor, out: Tensor, scratch: Tensor) -> None:
        """See `TokenSteps.project_in`."""
        tokens.linear(x, self.in_proj, norm=self.norm.parts, out=out)

    def project(self, u: Tensor, out: Tensor) -> None:
        """See `TokenSteps.project`."""
        tokens.linear(u, self.x_proj, out=out)

    def scan_inputs(
        self, conv: Depthwise, x: Tensor, places: ScanPlaces, scratch: Tensor, measure: Measure
    ) -> None:
        """See `TokenSteps.scan_inputs`."""
        rows, first, u, proj, runs = places
        with measure("scan inputs"):
            tokens.scan_inputs(
                x,
                norm=self.norm.parts,
                in_proj=self.in_proj,
                rows=rows,
                first=first,
                conv=(conv.weight, conv.bias),
                x_proj=self.x_proj,
                u=u,
                proj=proj,
                runs=runs,
            )

    def add_rest(self, x: Tensor, y: Tensor, scratch: Tensor, measure: Measure) -> None:
        """See `TokenSteps.add_rest`."""
        # Only a gate is kept from one kernel to the next.
        for chunk in chunks(len(x), max(1, len(x)) if self.gate is None else GATED_TOKENS):
            here, scanned, gate, norm = x[chunk], y[chunk], None, self.out_norm.parts
            if self.gate is not None:
                with measure("norm + out_proj"):
                    gate = tokens.linear(here, self.gate, norm=self.norm.parts, out=torch.empty_like(scanned))
                    cpu.silu_(gate)
            if self.mlp is None:
                with measure("norm + out_proj"):
                    tokens.linear(scanned, self.out_proj, norm=norm, gate=gate, out=here, add=True)
            else:
                with measure("out_proj + MLP"):
                    tokens.add_rest_(
                        here,
                        scanned=scanned,
                        norm=norm,
                        out_proj=self.out_proj,
                        mlp=self._fused_mlp,
                        gate=gate,
                    )

    @cached_property
    def _fused_mlp(self) -> tokens.Mlp:
        """The MLP as its kernel takes it."""
        assert self.mlp is not None
        norm, fc1, fc2 = self.mlp
        return tokens.Mlp(norm.parts, fc1, fc2)


class MatmulSteps(_Packed[PackedLinear]):
    """Norms and matmuls one after the other, for widths that the fused kernels do not take or are slower at."""

    @classmethod
    def of(cls, block: Block, dtype: torch.dtype) -> MatmulSteps:
        """Pack a block; matmul weights in ``dtype``, the rest in float32."""
        pack = partial(PackedLinear, dtype=dtype)
        return cls._of(block, pack=pack, pack_hidden=partial(pack, gelu=True))

    def project_in(self, x: Tensor, out: Tensor, scratch: Tensor) -> None:
        """See `TokenSteps.project_in`."""
        for chunk in chunks(len(x)):
            out[chunk] = self.in_proj(self.norm(x[chunk], _fit(scratch, x[chunk])))

    def project(self, u: Tensor, out: Tensor) -> None:
        """See `TokenSteps.project`."""
        for chunk in chunks(len(u)):
            out[chunk] = self.x_proj(u[chunk])

    def scan_inputs(
        self, conv: Depthwise, x: Tensor, places: ScanPlaces, scratch: Tensor, measure: Measure
    ) -> None:
        """See `TokenSteps.scan_inputs`."""
        scan_inputs_by_steps(self, conv, x, places, scratch, measure)

    def add_rest(self, x: Tensor, y: Tensor, scratch: Tensor, measure: Measure) -> None:
        """See `TokenSteps.add_rest`."""
        for chunk in chunks(len(x)):
            here, scanned = x[chunk], y[chunk]
            with measure("norm + out_proj"):
                gate = self._gate(here, scratch)
                here.add_(self.out_proj(self.out_norm(scanned, _fit(scratch, scanned), gate=gate)))
            if self.mlp is not None:
                with measure("norm + MLP"):
                    norm, fc1, fc2 = self.mlp
                    here.add_(fc2(fc1(norm(here, _fit(scratch, here)))))

    def _gate(self, x: Tensor, scratch: Tensor) -> Tensor | None:
        """SiLU of the z half of in_proj, float32 as the scan is; None without a gate."""
        if self.gate is None:
            return None
        return cpu.silu_(self.gate(self.norm(x, _fit(scratch, x))).float())


def pack_steps(block: Block, dtype: torch.dtype) -> TokenSteps:
    """Pack a block for the faster of the two ways."""
    op, hidden = block.op, 16 if block.mlp is None else block.mlp.fc1.out_features
    if tokens.suits(op.in_proj.in_features, op.d_inner, hidden):
        return FusedSteps.of(block, dtype)
    return MatmulSteps.of(block, dtype)


def plain(parameter: Tensor) -> Tensor:
    """A parameter as float32 numbers."""
    return parameter.detach().float().contiguous()


def _fit(scratch: Tensor, like: Tensor) -> Tensor:
    """A contiguous (tokens, D) piece of scratch of the size of ``like``."""
    return scratch.view(-1)[: like.numel()].view(like.shape)

"""SS2D over a map in strips of rows, forwards and backwards: what a training that recomputes its strips is made of.

The states between strips have gradients of their own. Backwards they run the other way round, from the strip that a
state leaves to the one it entered, and a strip does to them what it does to states: g_in = P g_out + Q. So the same
algebra that finds the states that enter every strip finds the gradients of those that leave it (README.md).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from wsi_vmamba.ops import cpu_module
from wsi_vmamba.ops.cpu_module import array, native
from wsi_vmamba.ops.packing import BLOCK, ScanWeights, pack_scan, unpack_gradients
from wsi_vmamba.ops.strip_reference import ReferenceStripScan
from wsi_vmamba.ops.strips import strip_arrays

#: Gradients of dt_weight, dt_bias, A_logs and Ds, in their shapes.
WeightGradients = tuple[Tensor, Tensor, Tensor, Tensor]


class StripScan(Protocol):
    """The scan of one map whose strips are numbered from the top; a strip is u (n, width, D), proj (n, width, P).

    Forwards: `summarize` every strip, `combine`, then `scan` any strip. Backwards, with the gradients of what `scan`
    gave: `summarize_adjoint` every strip, `combine_adjoint`, then `gradients` of every strip once.
    """

    def summarize(self, u: Tensor, proj: Tensor, *, strip: int) -> None:
        """Record what a strip does to the states that pass through it."""
        ...

    def combine(self) -> None:
        """Find the states that enter every strip."""
        ...

    def scan(self, u: Tensor, proj: Tensor, *, strip: int) -> Tensor:
        """The scan of a strip, (n, width, D): four directions and skip."""
        ...

    def summarize_adjoint(self, u: Tensor, proj: Tensor, grad_y: Tensor, *, strip: int) -> None:
        """Record what a strip does to the gradients of the states that leave it; of u only the shape counts."""
        ...

    def combine_adjoint(self) -> None:
        """Find the gradients of the states that leave every strip."""
        ...

    def gradients(self, u: Tensor, proj: Tensor, grad_y: Tensor, *, strip: int) -> tuple[Tensor, Tensor]:
        """Gradients of a strip for u and proj; those of the weights are added up inside."""
        ...

    def weight_gradients(self) -> WeightGradients:
        """Those of all strips so far."""
        ...


def strip_scan(
    parameters: tuple[Tensor, Tensor, Tensor, Tensor], *, width: int, strips: int, threads: int = 1
) -> StripScan:
    """The scan of a map with the C++ kernels in float32, where they are, else in torch.

    Args:
        parameters: dt_weight (4, D, R), dt_bias (4, D), A_logs (4 D, N) and Ds (4 D,); they are only read.
        width: of the map, in tokens.
        strips: how many.
        threads: of the kernels.
    """
    parameters = tuple(t.detach() for t in parameters)  # type: ignore[assignment]
    if cpu_module.available and all(t.dtype == torch.float32 for t in parameters):
        return NativeStripScan(parameters, width=width, strips=strips, threads=threads)
    return ReferenceStripScan(parameters, width=width, strips=strips)


class NativeStripScan:
    """`StripScan` with the C++ kernels: float32."""

    def __init__(
        self,
        parameters: tuple[Tensor, Tensor, Tensor, Tensor],
        *,
        width: int,
        strips: int,
        threads: int,
        isa: str = "",
    ) -> None:
        """Pack the weights; see `strip_scan`."""
        self._weights = pack_scan(*parameters)
        self._width, self._strips = width, strips
        self._threads, self._isa = threads, isa
        self._decays, self._entering = self._transitions()
        self._adjoint_decays: list[Tensor] = []
        self._leaving: list[Tensor] = []
        self._totals = [torch.zeros_like(t, dtype=torch.float64) for t in self._weights.arrays]

    def _transitions(self) -> tuple[list[Tensor], list[Tensor]]:
        """Decays and states of the four directions, (strips, groups, chains, 16)."""
        groups = self._weights.state * self._weights.padded // BLOCK
        shapes = [(self._strips, groups, chains, BLOCK) for chains in (1, self._width) * 2]
        return [torch.zeros(shape) for shape in shapes], [torch.zeros(shape) for shape in shapes]

    def summarize(self, u: Tensor, proj: Tensor, *, strip: int) -> None:
        """See `StripScan.summarize`."""
        native().summarize_strip(
            *self._arrays(u, proj), self._decays, self._entering, strip, strip, True, True, self._isa
        )

    def combine(self) -> None:
        """See `StripScan.combine`."""
        for k, (decay, state) in enumerate(zip(self._decays, self._entering, strict=True)):
            native().combine(decay, state, k >= 2, self._threads, self._isa)
        self._decays = []

    def scan(self, u: Tensor, proj: Tensor, *, strip: int) -> Tensor:
        """See `StripScan.scan`."""
        y = torch.empty(u.shape)
        # The kernel leaves in the slot what leaves the strip; what enters it is needed again.
        states = [state[strip : strip + 1].clone() for state in self._entering]
        native().apply_strip(*self._arrays(u, proj), states, 0, 0, array(y, "y"), self._isa)
        return y

    def summarize_adjoint(self, u: Tensor, proj: Tensor, grad_y: Tensor, *, strip: int) -> None:
        """See `StripScan.summarize_adjoint`."""
        if not self._leaving:
            self._adjoint_decays, self._leaving = self._transitions()
        native().summarize_adjoint_strip(
            *self._arrays(u, proj), array(grad_y, "grad_y"), self._adjoint_decays, self._leaving, strip, self._threads,
            self._isa,
        )  # fmt: skip

    def combine_adjoint(self) -> None:
        """See `StripScan.combine_adjoint`."""
        for k, (decay, state) in enumerate(zip(self._adjoint_decays, self._leaving, strict=True)):
            native().combine(decay, state, k < 2, self._threads, self._isa)
        self._adjoint_decays = []

    def gradients(self, u: Tensor, proj: Tensor, grad_y: Tensor, *, strip: int) -> tuple[Tensor, Tensor]:
        """See `StripScan.gradients`."""
        parts = native().backward_ranges(self._weights.channels, 1, self._threads)
        grad_u, grad_proj = torch.empty(u.shape), torch.empty(parts, *proj.shape)
        packed = [torch.empty(t.shape) for t in self._weights.arrays]
        native().backward_strip(
            *self._arrays(u, proj), array(grad_y, "grad_y"), self._entering, self._leaving, strip,
            array(grad_u, "grad_u"), array(grad_proj, "grad_proj"), packed, self._threads, self._isa,
        )  # fmt: skip
        for total, share in zip(self._totals, packed, strict=True):
            total += share
        return grad_u, grad_proj.sum(0) if parts > 1 else grad_proj[0]

    def weight_gradients(self) -> WeightGradients:
        """See `StripScan.weight_gradients`."""
        weight, bias, rate, skip = (total.float() for total in self._totals)
        return unpack_gradients(self._weights, weight, bias, rate, skip)

    def _arrays(self, u: Tensor, proj: Tensor) -> tuple[object, ...]:
        return strip_arrays(self._weights, u, proj, width=self._width)


def states_bytes(weights_state: int, *, d_inner: int, width: int, strips: int) -> int:
    """Memory of the states between the strips of a map, in one sense (forwards, or the gradients backwards)."""
    lanes = weights_state * -(-d_inner // BLOCK) * BLOCK
    return 2 * 4 * strips * (width + 1) * lanes


__all__ = ["NativeStripScan", "ScanWeights", "StripScan", "WeightGradients", "states_bytes", "strip_scan"]

"""One VMamba block over a map in strips of rows, forwards and backwards.

Forwards in two passes: what each strip does to the states that cross it, then the block itself. Backwards in two more:
from the gradient of the block's result to that of the scan, and to what each strip does to the gradients of the states;
then, with those known, from the scan back to the map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wsi_vmamba.gradients.strips import StageStrips
from wsi_vmamba.gradients.totals import Totals
from wsi_vmamba.model.blocks import Block
from wsi_vmamba.ops.strip_gradients import StripScan, strip_scan


class BlockPass:
    """A block on one map (1, height, width, d_model); `forward` once, then `backward` once."""

    def __init__(self, block: Block, cut: StageStrips) -> None:
        """Prepare for a map that is cut so."""
        self._block = block
        self._cut = cut
        _, dt_weight, dt_bias, A_logs, Ds = block.op.scan_parameters()
        self._scan: StripScan = strip_scan(
            (dt_weight, dt_bias, A_logs, Ds), width=cut.width, strips=len(cut.rows), threads=torch.get_num_threads()
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """The block's result; the states between strips stay here, the map does not."""
        for strip, (first, last) in enumerate(self._cut.rows):
            u = self._scan_input(x, first, last)
            self._scan.summarize(u[0], self._block.op.project(u)[0], strip=strip)
        self._scan.combine()
        out = torch.empty_like(x)
        for strip, (first, last) in enumerate(self._cut.rows):
            y = self._scanned(x, strip)
            out[:, first:last] = self._block.after_scan(x[:, first:last], y)
        return out

    def backward(self, x: Tensor, grad: Tensor, totals: Totals) -> None:
        """Turn the gradient ``grad`` of the result into that of the map, in place.

        Args:
            x: the map that `forward` was given.
            grad: like ``x``.
            totals: gets the gradients of the parameters.
        """
        grad_y = grad.new_empty(*grad.shape[:3], self._block.op.d_inner)
        for strip, (first, last) in enumerate(self._cut.rows):
            self._to_scan(x, grad, grad_y, strip, slice(first, last), totals)
        self._scan.combine_adjoint()
        for strip, (first, last) in enumerate(self._cut.rows):
            self._to_map(x, grad, grad_y[:, first:last], strip, totals)
        self._add_scan_parameters(totals)

    def _to_scan(
        self, x: Tensor, grad: Tensor, grad_y: Tensor, strip: int, rows: slice, totals: Totals
    ) -> None:
        """Of one strip: the gradient of the scan, and of the map but for what goes through the scan."""
        u = self._scan_input(x, rows.start, rows.stop)
        proj = self._block.op.project(u)
        y = self._scan.scan(u[0], proj[0], strip=strip)[None]
        with torch.enable_grad():
            here, scanned = x[:, rows].detach().requires_grad_(), y.requires_grad_()
            out = self._block.after_scan(here, scanned)
            to_x, to_y = totals.backward([out], [grad[:, rows]], inputs=[here, scanned], module=self._block)
        grad[:, rows], grad_y[:, rows] = to_x, to_y
        self._scan.summarize_adjoint(u[0], proj[0], to_y[0].contiguous(), strip=strip)

    def _to_map(self, x: Tensor, grad: Tensor, grad_y: Tensor, strip: int, totals: Totals) -> None:
        """Of one strip: from the scan to the map, its rows and those beside it."""
        first, last = self._cut.rows[strip]
        above, below = max(first - 1, 0), min(last + 1, self._cut.height)
        with torch.enable_grad():
            around = x[:, above:below].detach().requires_grad_()
            u = self._block.before_scan(around)[:, first - above : last - above].contiguous()
            proj = self._block.op.project(u)
        to_u, to_proj = self._scan.gradients(
            u[0].detach(), proj[0].detach(), grad_y[0].contiguous(), strip=strip
        )
        (to_x,) = totals.backward([u, proj], [to_u[None], to_proj[None]], inputs=[around], module=self._block)
        grad[:, above:below] += to_x

    def _add_scan_parameters(self, totals: Totals) -> None:
        """Step sizes, rates and skip; directions that share them add up."""
        op = self._block.op
        with torch.enable_grad():
            for spelt, gradient in zip(op.scan_parameters()[1:], self._scan.weight_gradients(), strict=True):
                if spelt.requires_grad:
                    totals.backward([spelt], [gradient], inputs=[], module=op)

    def _scanned(self, x: Tensor, strip: int) -> Tensor:
        u = self._scan_input(x, *self._cut.rows[strip])
        return self._scan.scan(u[0], self._block.op.project(u)[0], strip=strip)[None]

    def _scan_input(self, x: Tensor, first: int, last: int) -> Tensor:
        """Rows [first, last) of what is scanned, (1, n, width, d_inner); the convolution sees the rows beside them."""
        above, below = max(first - 1, 0), min(last + 1, self._cut.height)
        return self._block.before_scan(x[:, above:below])[:, first - above : last - above].contiguous()

"""Stem and downsampling over a map in strips of rows, forwards and backwards.

A row of the smaller map looks at one row above its own two (or four, of pixels). So a strip is computed with one row
more above it, which is thrown away: its own edge is the border of the map in the first strip only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wsi_vmamba.gradients.strips import StageStrips
from wsi_vmamba.gradients.totals import Totals

#: From (1, H, W, C) to (1, ~H / factor, ~W / factor, dim).
Layer = Callable[[Tensor], Tensor]


def shrink(layer: Layer, source: Tensor, cut: StageStrips, out: Tensor, *, factor: int) -> None:
    """Apply a layer that makes a map of 1 / ``factor`` the size, without gradients.

    Args:
        layer: what makes it.
        source: (1, H, W, C).
        cut: strips of the smaller map.
        out: the smaller map, which is written.
        factor: 2, or 4 of pixels.
    """
    for first, last in cut.rows:
        out[:, first:last] = _part(layer, source[:, _rows(first, last, factor)], first)


def shrink_gradients(
    layer: Layer,
    source: Tensor,
    cut: StageStrips,
    grad: Tensor,
    totals: Totals,
    *,
    module: nn.Module,
    factor: int,
) -> Tensor | None:
    """The gradient of `shrink` for ``source``, from that of its result; those of ``module`` go to ``totals``.

    Whole numbers, as pixels are, have no gradient: of them it is None.
    """
    to_source = torch.zeros_like(source) if source.is_floating_point() else None
    for first, last in cut.rows:
        rows = _rows(first, last, factor)
        with torch.enable_grad():
            part = source[:, rows].detach()
            inputs = [] if to_source is None else [part.requires_grad_()]
            out = _part(layer, part, first)
        found = totals.backward([out], [grad[:, first:last]], inputs=inputs, module=module)
        if to_source is not None:
            to_source[:, rows] += found[0]
    return to_source


def _rows(first: int, last: int, factor: int) -> slice:
    return slice(factor * max(first - 1, 0), factor * last)


def _part(layer: Layer, rows: Tensor, first: int) -> Tensor:
    out = layer(rows)
    return out[:, 1:] if first else out

"""The carries of a map that passes through a GPU in strips: in its memory, but for one row of states for each strip.

`cuda_sweep` goes through the strips from top to bottom in both passes, so the forward directions are handed on as it
goes. Of the backward ones the columns' transitions, as long as a row of the map for every strip, are in files.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from wsi_vmamba.inference.cuda_transfers import Downloads, Named, Uploads
from wsi_vmamba.inference.memory import Layout
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.ops.device_strips import (
    ScanParameters,
    Transition,
    entering_columns,
    scan_strip,
    state_shapes,
    transitions,
)

_ROW, _COLUMN, _ROW_UP, _COLUMN_UP = range(4)


class CudaCarries:
    """See `block.Carries`; another process can take the states up."""

    def __init__(
        self, parameters: ScanParameters, *, width: int, strips: int, scratch: Scratch, name: str
    ) -> None:
        """Prepare for a map of some strips, each ``width`` tokens wide; its files are called ``name.`` and more."""
        self._parameters = parameters
        self._strips = strips
        self._scratch = scratch
        self._name = name
        row, column, _, _ = state_shapes(parameters, width=width)
        self._device, self._dtype = parameters[0].device, parameters[0].dtype
        self._layout: Layout = {"decay": (column, self._dtype), "state": (column, self._dtype)}
        self._from_top: Transition | None = None
        self._from_below: Transition | None = None
        self._rows_up: list[Transition] = []
        #: What enters the next strip from above, and what enters each from below.
        self._row, self._column = (self._new(shape) for shape in (row, column))
        self._entering_rows_up = self._new((strips, *row[1:]))
        self._out = Downloads(self._layout, device=self._device)
        self._in: Uploads | None = None

    def close(self) -> None:
        """End its threads."""
        self._out.close()
        if self._in is not None:
            self._in.close()

    @property
    def forward_layout(self) -> Layout:
        """Of `forward_states`."""
        return {
            "row": (tuple(self._row.shape), self._dtype),
            "column": (tuple(self._column.shape), self._dtype),
        }

    @property
    def forward_states(self) -> Named:
        """What enters the next strip from above."""
        return {"row": self._row, "column": self._column}

    def summarize(self, u: Tensor, proj: Tensor, *, strip: int) -> None:
        """See `Carries.summarize`; strips come from the top."""
        found = transitions(u, proj, self._parameters)
        down, up = found[_COLUMN], found[_COLUMN_UP]
        self._from_top = down if self._from_top is None else self._from_top.then(down)
        self._from_below = up if self._from_below is None else up.then(self._from_below)
        self._rows_up.append(found[_ROW_UP])
        self._out.send(up._asdict(), partial(self._write, f"carry.{strip}", ("decay", "state")))

    def combine(self, *, threads: int) -> None:
        """See `Carries.combine`."""
        assert self._from_top is not None
        assert self._from_below is not None
        self._out.drain()
        self._column = entering_columns(self._from_top, reverse=False)
        column = entering_columns(self._from_below, reverse=True)
        row = torch.zeros_like(self._row)
        upwards = list(reversed(range(self._strips)))
        uploads = Uploads(
            self._layout, [partial(self._read, f"carry.{strip}", tuple(self._layout)) for strip in upwards],
            device=self._device,
        )  # fmt: skip
        try:
            for strip in upwards:
                self._entering_rows_up[strip], row = row[0], self._rows_up[strip](row)
                transition = Transition(**uploads.take())
                self._out.send({"state": column}, partial(self._keep_entering, strip))
                column = transition(column)
            self._out.drain()
        finally:
            uploads.close()

    def apply(self, u: Tensor, proj: Tensor, y: Tensor, *, strip: int) -> None:
        """See `Carries.apply`; strips come from the top, the first of them any."""
        if self._in is None:
            layout: Layout = {"state": self._layout["state"]}
            left = range(strip, self._strips)
            fills = [partial(self._read, f"enter.{i}", ("state",)) for i in left]
            self._in = Uploads(layout, fills, device=self._device)
        from_below = self._entering_rows_up[strip : strip + 1], self._in.take()["state"]
        entering = [self._row, self._column, *from_below]
        self._row, self._column, _, _ = scan_strip(u, proj, self._parameters, entering, out=y)

    def keep(self) -> None:
        """After `combine`: keep what the second pass begins with, for whoever goes on."""
        self._scratch.write(
            f"{self._name}.entering", [t.cpu() for t in (self._column, self._entering_rows_up)]
        )

    def take_up(self) -> bool:
        """Take up what `keep` kept, if it did."""
        if not self._scratch.has(f"{self._name}.entering"):
            return False
        self._column, self._entering_rows_up = self._read_like(
            "entering", self._column, self._entering_rows_up
        )
        return True

    def keep_reached(self, done: int, forward: Named, beside: Tensor) -> None:
        """Keep, of the host, `forward_states` below the ``done`` strips that are finished, and what they hand on."""
        tensors = [torch.tensor([done]), forward["row"], forward["column"], beside]
        self._scratch.write(f"{self._name}.reached", tensors)

    def take_up_reached(self, beside: Tensor) -> tuple[int, Tensor | None]:
        """Take up what `keep_reached` kept last: strips that are finished and what they hand on, like ``beside``."""
        if not self._scratch.has(f"{self._name}.reached"):
            return 0, None
        counted = torch.zeros(1, dtype=torch.int64, device=self._device)
        found = self._read_like("reached", counted, self._row, self._column, beside)
        self._row, self._column = found[1], found[2]
        return int(found[0]), found[3]

    def _new(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, dtype=self._dtype, device=self._device)

    def _read_like(self, name: str, *like: Tensor) -> list[Tensor]:
        host = [torch.empty(t.shape, dtype=t.dtype) for t in like]
        self._scratch.read(f"{self._name}.{name}", host)
        return [t.to(self._device) for t in host]

    def _write(self, name: str, order: tuple[str, ...], host: Named) -> None:
        self._scratch.write(f"{self._name}.{name}", [host[each] for each in order])

    def _read(self, name: str, order: tuple[str, ...], host: Named) -> None:
        self._scratch.read(f"{self._name}.{name}", [host[each] for each in order])

    def _keep_entering(self, strip: int, host: Named) -> None:
        self._write(f"enter.{strip}", ("state",), host)
        self._scratch.drop(f"{self._name}.carry.{strip}")

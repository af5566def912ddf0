"""Stem and downsampling of the tissue of a map: the runs of columns of each strip, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.inference.convolve import Rows, downsampled_rows, stem_rows, stem_sources
from wsi_vmamba.inference.packed import PackedConv, PackedMerge, PackedStem
from wsi_vmamba.inference.plan import CONV_ROWS
from wsi_vmamba.inference.sparse_plan import Columns, SparseStage, SparseStrip
from wsi_vmamba.inference.steps import Norm
from wsi_vmamba.inference.workers import Profile, Workers

#: Tokens of a run that are convolved together, if that is more than `CONV_ROWS` rows.
_CONV_TOKENS = 8192

#: Fills (last - first, tokens of tissue, d_model) with rows [first, last) of a map, all of one strip.
MakeRows = Callable[[SparseStrip, int, int, Tensor], None]


class TissueOfMap(Protocol):
    """The tissue of a map that is there."""

    stage: SparseStage

    def strip(self, strip: int, *, rows: slice = slice(None)) -> Tensor:
        """See `sparse_block.SparseMap.strip`."""
        ...


def stem_tissue(pixels: Rows, stem: PackedStem) -> MakeRows:
    """What makes rows of the first map of those of the pixels, which are at hand."""

    def make(strip: SparseStrip, first: int, last: int, out: Tensor) -> None:
        top, bottom = stem_sources(stem, first, last)
        held = _HeldPixels(pixels, max(top, 0), min(bottom, pixels.height))
        for left, right, place in strip.columns.pieces:
            # One token more to the left: its own left half is wrong, and all that the others look at is there.
            start = max(left - 1, 0)
            rows = stem_rows(held.columns(4 * start, 4 * right), stem, first, last)
            out[:, place] = rows[:, left - start :]

    return make


def downsample_tissue(source: TissueOfMap, layer: PackedConv | PackedMerge) -> MakeRows:
    """What makes rows of the map of half the size."""

    def make(strip: SparseStrip, first: int, last: int, out: Tensor) -> None:
        held = _HeldTissue(source, max(2 * first - 1, 0), min(2 * last + 1, source.stage.dense.height))
        for left, right, place in strip.columns.pieces:
            # One token more to the left, as for the stem: what is beside the tissue may be glass and what is
            # above that tissue.
            start = max(left - 1, 0)
            rows = downsampled_rows(held.columns(2 * start, 2 * right), layer, first, last)
            out[:, place] = rows[:, left - start :]

    return make


def fill_strip(
    strip: SparseStrip, out: Tensor, make: MakeRows, *, operator: str, workers: Workers, profile: Profile
) -> None:
    """Fill ``out`` (rows, tokens of tissue, d_model) with a strip, some rows at a time."""

    def rows(first: int, last: int) -> None:
        with profile.measure(operator):
            make(strip, first, last, out[first - strip.first : last - strip.first])

    step = _rows_at_once(strip)
    starts = range(strip.first, strip.last, step)
    workers.run([partial(rows, row, min(row + step, strip.last)) for row in starts])


class _Columns:
    """Some columns of rows that are held: what the convolutions take."""

    def __init__(self, height: int, width: int, rows: Callable[[int, int], Tensor]) -> None:
        self.height, self.width = height, width
        self.rows = rows


class _HeldPixels:
    """Rows [first, last) of the pixels, of which columns are taken."""

    def __init__(self, pixels: Rows, first: int, last: int) -> None:
        self._height = pixels.height
        self._first = first
        self._rows = pixels.rows(first, last)

    def columns(self, left: int, right: int) -> _Columns:
        """Columns [left, right)."""

        def rows(first: int, last: int) -> Tensor:
            return self._rows[first - self._first : last - self._first, left:right]

        return _Columns(self._height, right - left, rows)


class _HeldTissue:
    """Rows [first, last) of a map of tissue, of which columns are taken, zeros where there is none."""

    def __init__(self, source: TissueOfMap, first: int, last: int) -> None:
        self._dense = source.stage.dense
        self._parts: list[tuple[int, SparseStrip, Tensor]] = []
        for i, strip in enumerate(source.stage.strips):
            top, bottom = max(first, strip.first), min(last, strip.last)
            if top < bottom:
                rows = source.strip(i, rows=slice(top - strip.first, bottom - strip.first))
                self._parts.append((top, strip, rows))

    def columns(self, left: int, right: int) -> _Columns:
        """Columns [left, right)."""
        return _Columns(self._dense.height, right - left, partial(self._cut, left, right))

    def _cut(self, left: int, right: int, first: int, last: int) -> Tensor:
        out = torch.empty(last - first, right - left, self._dense.d_model, dtype=self._dense.dtype)
        row = first
        for top, strip, rows in self._parts:
            low, high = max(first, top), min(last, top + len(rows))
            if low >= high:
                continue
            out[row - first : low - first] = 0
            row = high
            _cut_columns(strip.columns, rows[low - top : high - top], out[low - first : high - first], left)
        out[row - first :] = 0
        return out


def _cut_columns(columns: Columns, rows: Tensor, out: Tensor, left: int) -> None:
    """Fill ``out`` (n, some columns from ``left`` on, C) from tissue (n, count, C), zeros where there is none."""
    column, right = left, left + out.shape[1]
    for begin, end, place in columns.pieces:
        start, stop = max(begin, left), min(end, right)
        if start < stop:
            out[:, column - left : start - left] = 0
            found = rows[:, place.start + start - begin : place.start + stop - begin]
            out[:, start - left : stop - left] = found
            column = stop
    out[:, column - left :] = 0


def _rows_at_once(strip: SparseStrip) -> int:
    """Rows that are convolved together: the shorter the runs of columns, the more, so that each call is worth it."""
    longest = max(last - first for first, last in strip.columns.runs)
    return max(CONV_ROWS, _CONV_TOKENS // longest)


def pooled_tissue(last: TissueOfMap, norm: Norm) -> NDArray[np.float32]:
    """The mean of the normed tokens of each patch of tissue of the last map, row by row, (n, dim)."""
    stage = last.stage
    tokens, dim = stage.rows_per_patch, stage.dense.d_model
    pooled, held = [], []
    for i, strip in enumerate(stage.strips):
        held.append(last.strip(i))
        if strip.last % tokens == 0:  # the lower edge of a row of patches
            x = torch.cat(held)
            held = []
            features = norm(x, x.new_empty(x.shape, dtype=torch.float32)).numpy()
            pooled.append(features.reshape(tokens, -1, tokens, dim).mean(axis=(0, 2), dtype=np.float32))
    return np.concatenate(pooled)


def tissue_conv_bytes(tissue: SparseStage) -> int:
    """Rows of the convolution that makes a stage's map, see `plan.conv_bytes`."""
    stage = tissue.dense
    longest = max(last - first for strip in tissue.strips for first, last in strip.columns.runs)
    return stage.workers * max(CONV_ROWS * (longest + 1), _CONV_TOKENS) * stage.d_model * 4 * 6

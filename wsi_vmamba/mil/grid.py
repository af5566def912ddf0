"""The patches of a slide on their grid: orders in which to walk them, and their neighbours. Linear in patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wsi_vmamba.errors import DatasetError

#: Patches convolved at a time, so that what is gathered stays in the cache.
_PIECE_PATCHES = 2048


@dataclass(frozen=True)
class PatchGrid:
    """Where the tissue patches of a slide are; the background costs nothing, however much of it there is.

    Attributes:
        rows_first: (N,) int64, the patches in the order of reading: row by row, in a row by column.
        columns_first: (N,) int64, of the patches so ordered, the order column by column.
        places: (N, 2) int64, (col, row) of the patches row by row, from the smallest of each.
    """

    rows_first: Tensor
    columns_first: Tensor
    places: Tensor

    @classmethod
    def of(cls, coords: Tensor) -> PatchGrid:
        """Sort patches at coords (N, 2) int64, (col, row), in any order.

        Raises:
            DatasetError: two patches are at one place.
        """
        places = coords - coords.amin(dim=0)
        width, height = (places.amax(dim=0) + 1).tolist()
        rows_first = torch.argsort(places[:, 1] * width + places[:, 0])
        places = places[rows_first]
        same = (places[1:] == places[:-1]).all(dim=1)
        if bool(same.any()):
            col, row = coords[rows_first][1:][same][0].tolist()
            raise DatasetError(
                f"two patches are at column {col}, row {row} of the grid; a slide holds each patch once: "
                "extract it again"
            )
        columns_first = torch.argsort(places[:, 0] * height + places[:, 1])
        return cls(rows_first=rows_first, columns_first=columns_first, places=places)

    def __len__(self) -> int:
        return len(self.places)

    def neighbours(self, radius: int) -> Tensor:
        """Index of each patch's neighbours within ``radius`` columns and rows, itself included.

        Returns:
            (K, N) int64 with K = (2 radius + 1)², row by row from the top left neighbour; patches are numbered row
            by row, and N stands for background.
        """
        # A margin between rows keeps a step beyond the end of one from landing in the next.
        stride = int(self.places[:, 0].amax()) + 1 + 2 * radius
        keys = self.places[:, 1] * stride + self.places[:, 0]
        reach = range(-radius, radius + 1)
        return torch.stack(
            [_find(keys, keys + (rows * stride + columns)) for rows in reach for columns in reach]
        )


def _find(keys: Tensor, wanted: Tensor) -> Tensor:
    """Position of each wanted key in the sorted ``keys``; ``len(keys)`` where there is none."""
    found = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return torch.where(keys[found] == wanted, found, len(keys))


def grid_convolve(patches: Tensor, weight: Tensor, neighbours: Tensor) -> Tensor:
    """Depthwise convolution over the grid, as `conv2d` with zeros for background; differentiable once.

    Args:
        patches: (N, C), row by row.
        weight: (K, C).
        neighbours: (K, N) from `PatchGrid.neighbours`.

    Returns:
        (N, C).
    """
    return cast(Tensor, _GridConvolution.apply(patches, weight, neighbours))  # type: ignore[no-untyped-call]


class _GridConvolution(torch.autograd.Function):
    """Keeps only its input for the backward pass; autograd alone would keep all K gathered copies."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, weight: Tensor, neighbours: Tensor) -> Tensor:
        ctx.save_for_backward(patches, weight, neighbours)
        return _convolve(patches, weight, neighbours)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        patches, weight, neighbours = ctx.saved_tensors
        # A patch is the neighbour of its own neighbours, at the opposite step.
        grad_patches = _convolve(grad, weight.flip(0), neighbours)
        padded = torch.cat([patches, patches.new_zeros(1, patches.shape[1])])
        grad_weight = torch.zeros_like(weight)
        for start in range(0, len(patches), _PIECE_PATCHES):
            piece = grad[start : start + _PIECE_PATCHES]
            for step, index in enumerate(neighbours[:, start : start + _PIECE_PATCHES]):
                grad_weight[step] += (padded[index] * piece).sum(dim=0)
        return grad_patches, grad_weight, None


def _convolve(patches: Tensor, weight: Tensor, neighbours: Tensor) -> Tensor:
    padded = torch.cat([patches, patches.new_zeros(1, patches.shape[1])])
    out = torch.zeros_like(patches)
    for start in range(0, len(patches), _PIECE_PATCHES):
        piece = out[start : start + _PIECE_PATCHES]
        for step, index in enumerate(neighbours[:, start : start + _PIECE_PATCHES]):
            piece.addcmul_(padded[index], weight[step])
    return out

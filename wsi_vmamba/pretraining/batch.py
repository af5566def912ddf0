"""What a step is given: views of squares of slides, generated tiles with their tissues, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


class Crops(Protocol):
    """Views of squares of slides, as `wsi_vmamba.pretraining.views` cuts them: tuples of uint8 (B, H, W, 3)."""

    @property
    def large(self) -> tuple[Tensor, ...]:
        """Views of much of a square, all of one size."""
        ...

    @property
    def small(self) -> tuple[Tensor, ...]:
        """Views of little of it, all of one size; there may be none."""
        ...

    @property
    def measured(self) -> Tensor | None:
        """What was measured of the first large views, (B, COUNT); None where nothing was."""
        ...


@dataclass(frozen=True, kw_only=True)
class Painted:
    """Generated windows.

    Attributes:
        images: RGB uint8 (n, H, W, 3).
        target: float32 (n, H / 32, W / 32, tissues), the share of each tissue in each square of 32 px.
    """

    images: Tensor
    target: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """All of a step, of one rank.

    Attributes:
        large: see `Crops`; empty where no slides are read.
        small: see `Crops`.
        measured: see `Crops`.
        painted: in steps that have some.
    """

    large: tuple[Tensor, ...] = ()
    small: tuple[Tensor, ...] = ()
    measured: Tensor | None = None
    painted: Painted | None = None

    @property
    def n_images(self) -> int:
        """Images that the student encodes."""
        windows = 0 if self.painted is None else len(self.painted.images)
        return sum(len(view) for view in (*self.large, *self.small)) + windows

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        if device.type == "cpu":
            return self
        large, small = (
            tuple(view.to(device, non_blocking=True) for view in views) for views in (self.large, self.small)
        )
        painted = self.painted
        if painted is not None:
            painted = Painted(images=painted.images.to(device), target=painted.target.to(device))
        measured = None if self.measured is None else self.measured.to(device, non_blocking=True)
        return replace(self, large=large, small=small, measured=measured, painted=painted)


#: Gives the views of the steps from the first to before the last, in order.
CropBatches = Callable[[int, int], Iterator[tuple[int, Crops]]]

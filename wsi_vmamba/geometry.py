"""Lengths and frames: level <-> level 0, pixels <-> micrometres. Pure arithmetic, xy and wh order."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_vmamba.errors import UsageError

#: Resolutions outside this range are not microscopy of tissue sections; they are writer's defaults or unit errors.
MPP_RANGE = (0.05, 4.0)
#: How far mpp in x and y may differ before pixels count as not square.
ISOTROPY = 0.015


@dataclass(frozen=True, kw_only=True)
class Rect:
    """An axis-aligned rectangle of level-0 pixels; (x_l0, y_l0) is the top-left corner, right/bottom exclusive."""

    x_l0: int
    y_l0: int
    width_l0: int
    height_l0: int

    def __post_init__(self) -> None:
        if self.width_l0 <= 0 or self.height_l0 <= 0:
            raise UsageError(
                f"a rectangle needs a positive width and height, got {self.width_l0} x {self.height_l0}"
            )

    @property
    def right_l0(self) -> int:
        """First level-0 column to the right of the rectangle."""
        return self.x_l0 + self.width_l0

    @property
    def bottom_l0(self) -> int:
        """First level-0 row below the rectangle."""
        return self.y_l0 + self.height_l0


def um_to_px(length_um: float, *, mpp: float) -> float:
    """Pixels that ``length_um`` micrometres span at ``mpp`` micrometres per pixel."""
    return length_um / mpp


def px_to_um(length_px: float, *, mpp: float) -> float:
    """Micrometres that ``length_px`` pixels span at ``mpp`` micrometres per pixel."""
    return length_px * mpp


def level_to_l0(position_px: float, *, downsample: float) -> float:
    """Level-0 coordinate of a position given in pixels of a level with that downsample."""
    return position_px * downsample


def l0_to_level(position_l0: float, *, downsample: float) -> float:
    """Position in pixels of a level of a level-0 coordinate."""
    return position_l0 / downsample

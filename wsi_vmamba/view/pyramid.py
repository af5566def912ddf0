"""The levels that a viewer shows of a slide: those that are stored, and halves where the file lacks them."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_vmamba.slide import Slide
from wsi_vmamba.slide.base import Level

#: The last level is to be seen at once.
SMALLEST_PX = 512
#: Where levels lie further apart, some are made between them: the square of it is loaded for each pixel shown.
_WIDEST_STEP = 4.5
#: Stored tiles of these sides are shown as they are; smaller ones would be too many, larger ones too slow.
_TILE_SIDES = range(128, 1025)
_MADE_TILE_PX = 512


@dataclass(frozen=True, kw_only=True)
class ViewLevel:
    """One level of the viewer's pyramid.

    Attributes:
        width_px: width.
        height_px: height.
        downsample: level-0 pixels per pixel of this level.
        tile_width_px: width of a tile of its grid.
        tile_height_px: its height.
        source: the level of the slide that it is; None for one that is made, by halves, from the one before it.
    """

    width_px: int
    height_px: int
    downsample: float
    tile_width_px: int
    tile_height_px: int
    source: int | None

    @property
    def columns(self) -> int:
        """Tiles side by side."""
        return -(-self.width_px // self.tile_width_px)

    @property
    def rows(self) -> int:
        """Tiles on top of each other."""
        return -(-self.height_px // self.tile_height_px)

    def has_tile(self, *, column: int, row: int) -> bool:
        """Whether there is a tile at a place."""
        return 0 <= column < self.columns and 0 <= row < self.rows

    def tile_box_px(self, *, column: int, row: int, overlap_px: int = 0) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a tile on this level, what it shares with its neighbours included."""
        left, top = column * self.tile_width_px, row * self.tile_height_px
        return (
            max(0, left - overlap_px),
            max(0, top - overlap_px),
            min(self.width_px, left + self.tile_width_px + overlap_px),
            min(self.height_px, top + self.tile_height_px + overlap_px),
        )


def view_levels(slide: Slide) -> tuple[ViewLevel, ...]:
    """The pyramid of a slide, finest first, down to one that fits on a screen."""
    found: list[ViewLevel] = []
    for number, level in enumerate(slide.levels):
        if found and max(found[-1].width_px, found[-1].height_px) <= SMALLEST_PX:
            break
        while found and level.downsample / found[-1].downsample > _WIDEST_STEP:
            found.append(_half(found[-1]))
        found.append(_stored(number, level))
    while max(found[-1].width_px, found[-1].height_px) > SMALLEST_PX:
        found.append(_half(found[-1]))
    return tuple(found)


def _stored(number: int, level: Level) -> ViewLevel:
    tile = level.stored_px
    if tile is None or not all(side in _TILE_SIDES for side in tile):
        tile = (_MADE_TILE_PX, _MADE_TILE_PX)
    return ViewLevel(
        width_px=level.width_px, height_px=level.height_px, downsample=level.downsample,
        tile_width_px=tile[0], tile_height_px=tile[1], source=number,
    )  # fmt: skip


def _half(level: ViewLevel) -> ViewLevel:
    return ViewLevel(
        width_px=-(-level.width_px // 2), height_px=-(-level.height_px // 2), downsample=level.downsample * 2,
        tile_width_px=_MADE_TILE_PX, tile_height_px=_MADE_TILE_PX, source=None,
    )  # fmt: skip

"""What every reader shares: checked requests, white outside the slide, and facts as plain attributes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UsageError
from wsi_vmamba.geometry import l0_to_level_px
from wsi_vmamba.slide.averaged import read_thumbnail
from wsi_vmamba.slide.base import DamagedArea, Level
from wsi_vmamba.slide.readers import folder_suffixes, slide_suffixes
from wsi_vmamba.slide.scenes import Scene

WHITE = 255


@dataclass(frozen=True, kw_only=True)
class RecordedMpp:
    """Micrometres per level-0 pixel as a file records them, per axis, and in what (for messages)."""

    x: float
    y: float
    source: str


class CanvasSlide(ABC):
    """A slide that answers any request; a subclass only reads rectangles that lie inside a level."""

    def __init__(
        self,
        path: str | Path,
        *,
        reader: str,
        levels: tuple[Level, ...],
        mpp: RecordedMpp | None,
        properties: Mapping[str, str],
        scene: Scene | None = None,
        scenes: Sequence[Scene] = (),
    ) -> None:
        """Keep the facts; a recorded mpp is also put into the properties, per axis and with its source.

        Without a ``scene`` the slide is the only picture of its file.
        """
        self.path = str(path)
        self.slide_id = slide_id_of(path)
        self.reader = reader
        self.levels = levels
        self.mpp = None if mpp is None else (mpp.x + mpp.y) / 2
        self.scene = scene or Scene(
            number=0, width_px=levels[0].width_px, height_px=levels[0].height_px, mpp=self.mpp
        )
        self.scenes = tuple(scenes) or (self.scene,)
        recorded = (
            {} if mpp is None else {"mpp_x": f"{mpp.x!r}", "mpp_y": f"{mpp.y!r}", "mpp_source": mpp.source}
        )
        self.properties: Mapping[str, str] = MappingProxyType({**properties, **recorded})

    @abstractmethod
    def _read_into(self, out: NDArray[np.uint8], *, level: int, x_px: int, y_px: int) -> None:
        """Fill ``out`` (h, w, 3) with the rectangle of ``level`` at (x_px, y_px), all of it inside the level.

        ``out`` is a view into white pixels and need not be contiguous.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the file; further reads are errors."""

    def read_region(
        self,
        *,
        x_l0: int,
        y_l0: int,
        level: int,
        width_px: int,
        height_px: int,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Read RGB pixels, shape (height_px, width_px, 3); see `Slide.read_region` for the frames and errors."""
        if not 0 <= level < len(self.levels):
            raise UsageError(f"{self.path} has levels 0 to {len(self.levels) - 1}, asked for level {level}")
        if width_px <= 0 or height_px <= 0:
            raise UsageError(f"a region needs a positive width and height, got {width_px} x {height_px}")
        level_info = self.levels[level]
        x_px, y_px = (l0_to_level_px(position, downsample=level_info.downsample) for position in (x_l0, y_l0))
        left, right = max(x_px, 0), min(x_px + width_px, level_info.width_px)
        top, bottom = max(y_px, 0), min(y_px + height_px, level_info.height_px)
        inside = left < right and top < bottom
        out = _canvas(out, (height_px, width_px, 3))
        # Readers paint every pixel inside a level, so a canvas that is all inside need not be whitened first.
        if not inside or (right - left, bottom - top) != (width_px, height_px):
            out[:] = WHITE
        if inside:
            view = out[top - y_px : bottom - y_px, left - x_px : right - x_px]
            self._read_into(view, level=level, x_px=left, y_px=top)
        return out

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """The whole slide as RGB, (height, width, 3), of at most ``max_px`` a side; see `Slide.thumbnail`."""
        return read_thumbnail(self, max_px)

    def damage(self, level: int) -> tuple[DamagedArea, ...]:
        """Nothing: a damaged tile is an error here."""
        return ()

    def __repr__(self) -> str:
        base, mpp = self.levels[0], "no mpp recorded" if self.mpp is None else f"{self.mpp:g} um per pixel"
        size = f"{base.width_px} x {base.height_px} px, {len(self.levels)} levels"
        return f"<{type(self).__name__} {self.slide_id}: {size}, {mpp}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _canvas(out: NDArray[np.uint8] | None, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The caller's array if it gave one, else a new one."""
    if out is None:
        return np.empty(shape, dtype=np.uint8)
    if out.shape != shape or out.dtype != np.uint8:
        raise UsageError(f"out must be uint8 {shape}, got {out.dtype} {out.shape}")
    return out


def slide_id_of(path: str | Path) -> str:
    """File name without its extension, double extensions such as ``.ome.tif`` included."""
    name = Path(path).name
    double = [ending for ending in (*slide_suffixes(), *folder_suffixes()) if ending.count(".") > 1]
    for ending in sorted(double, key=len, reverse=True):
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return Path(name).stem


def pyramid(sizes_px: list[tuple[int, int]]) -> tuple[Level, ...]:
    """Levels of the given (width, height), finest first, with the downsample each was most likely made with.

    A writer halves 9821 to 4910, so the ratio of the sizes (2.0003) is not the scale of the pixels (2); far
    from the origin the difference is several pixels. Where a whole factor explains both sizes, it is taken.
    """
    width, height = sizes_px[0]
    return tuple(
        Level(width_px=w, height_px=h, downsample=_downsample(width / w, height / h, w, h))
        for w, h in sizes_px
    )


def _downsample(ratio_x: float, ratio_y: float, width_px: int, height_px: int) -> float:
    mean = (ratio_x + ratio_y) / 2
    for factor in (2 ** round(math.log2(mean)), round(mean)):
        off_x, off_y = width_px * (ratio_x / factor - 1), height_px * (ratio_y / factor - 1)
        if abs(off_x) < 1 and abs(off_y) < 1:
            return float(factor)
    return mean

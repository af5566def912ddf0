"""What a slide is to the rest of the package: levels, a resolution and one way to read pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from wsi_vmamba.errors import UnsupportedSlideError

if TYPE_CHECKING:  # keeps `import wsi_vmamba.slide` free of NumPy, so that the command line stays quick
    import numpy as np
    from numpy.typing import NDArray

    from wsi_vmamba.slide.scenes import Scene


class NeedsOtherReaderError(UnsupportedSlideError):
    """The file seems sound, but its layout is not one that this reader is made for."""


class VendorLayoutError(NeedsOtherReaderError):
    """A vendor's own arrangement of pixels in a TIFF: taken for an ordinary TIFF, it gives wrong pixels."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """One resolution of the pyramid.

    Attributes:
        width_px: width.
        height_px: height.
        downsample: level-0 pixels per pixel of this level; 1.0 for level 0.
        stored_px: (width, height) of the tiles or strips it is stored in, each decoded as a whole; None where that
            is not known. Reads that follow them decode less.
    """

    width_px: int
    height_px: int
    downsample: float
    # Two readers may know more or less of it and still mean the same level.
    stored_px: tuple[int, int] | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, order=True)
class DamagedArea:
    """A rectangle of one level that does not decode, in pixels of that level; ``cause`` is for people."""

    level: int
    y_px: int
    x_px: int
    width_px: int
    height_px: int
    cause: str


@runtime_checkable
class Slide(Protocol):
    """An open whole-slide image. Safe to read from several threads at once."""

    @property
    def path(self) -> str:
        """Path or URL the slide was opened from."""

    @property
    def slide_id(self) -> str:
        """File name without its extension; names the feature file."""

    @property
    def reader(self) -> str:
        """Name in the READERS table of the reader in use."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The pyramid, level 0 (finest) first."""

    @property
    def mpp(self) -> float | None:
        """Micrometres per level-0 pixel as the file records it, unchecked; None where it records none."""

    @property
    def properties(self) -> Mapping[str, str]:
        """What else the file records (vendor, objective power, codec), as text."""

    @property
    def scene(self) -> Scene:
        """The picture that was opened."""

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """All pictures of the file, in its order; `scene` is one of them."""

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
        """Read RGB pixels, shape (height_px, width_px, 3).

        (x_l0, y_l0) is the top-left corner in the level-0 frame; width_px and height_px count pixels of
        ``level``. Pixels outside the slide are white (255). The first pixel returned is the one of ``level``
        under the centre of that level-0 pixel: `geometry.level_to_l0_px` of ``x_px`` always lands on ``x_px``.

        With ``out``, uint8 of that shape and possibly a part of a larger array, the pixels are put there and ``out`` is
        returned, which spares a copy; after an error what it holds is undefined.

        Raises:
            BadTileError: a tile in the rectangle cannot be decoded; it names the level and the tile.
            UnreadableSlideError: the file went away, was closed or cannot be read.
            UsageError: no such level, a width or height that is not positive, or an ``out`` that does not fit.
        """

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """The whole slide as RGB, uint8, shape (height, width, 3), of at most ``max_px`` a side.

        The longer side has ``max_px`` pixels and the other what the aspect of level 0 makes it; a slide that is smaller
        comes as it is. Averaged from the smallest level that is large enough, in bounded memory.

        Raises:
            BadTileError: a tile of that level cannot be decoded.
            UnreadableSlideError: as `read_region`.
            UsageError: ``max_px`` is not positive.
        """

    def damage(self, level: int) -> tuple[DamagedArea, ...]:
        """What was read around on a level so far, in reading order; see `TolerantSlide`.

        Empty for a slide that is not read tolerantly: there a damaged tile is an error.
        """

    def close(self) -> None:
        """Release the file; further reads are errors."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

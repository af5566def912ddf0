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
        under the centre of that level-0 pixel: ``round(x_px * downsample)`` always lands on ``x_px``.

        With ``out``, uint8 of that shape and possibly a part of a larger array, the pixels are put there and ``out`` is
        returned, which spares a copy; after an error what it holds is undefined.

        Raises:
            BadTileError: a tile in the rectangle cannot be decoded; it names the level and the tile.
            UnreadableSlideError: the file went away, was closed or cannot be read.
            UsageError: no such level, a width or height that is not positive, or an ``out`` that does not fit.
        """

    def close(self) -> None:
        """Release the file; further reads are errors."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

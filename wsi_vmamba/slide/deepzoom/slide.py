"""Deep Zoom slides: every stored level is a level, every tile is decoded once for the reads that follow each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import BadTileError, UnreadableSlideError
from wsi_vmamba.slide.base import Level
from wsi_vmamba.slide.canvas import WHITE, CanvasSlide, RecordedMpp
from wsi_vmamba.slide.deepzoom.decode import decode_picture_tile, encoded_picture_tile
from wsi_vmamba.slide.deepzoom.descriptor import Descriptor, read_descriptor
from wsi_vmamba.slide.deepzoom.files import TileFiles, open_files
from wsi_vmamba.slide.deepzoom.vips import MAX_PROPERTIES_BYTES, PROPERTIES, recorded_mpp
from wsi_vmamba.slide.encoded import most_tile_bytes
from wsi_vmamba.slide.jpeg import DamagedTileError
from wsi_vmamba.slide.scenes import only_scene
from wsi_vmamba.slide.tile_cache import TILES
from wsi_vmamba.slide.workers import run_all

#: As for TIFF: no scan compresses this far.
_MAX_RATIO, _BOMB_FLOOR_BYTES = 4000, 1 << 30


class DeepZoomSlide(CanvasSlide):
    """A Deep Zoom pyramid of JPEG, PNG or WebP tiles, in a folder or a zip.

    Of each tile its own square is shown; the pixels that it shares with its neighbours are theirs. A tile that is
    missing is damage, as an incomplete copy leaves it, unless the descriptor lists the parts that are covered
    (DisplayRects) and it lies in none of them: that is white. Deep Zoom records no resolution; `vips dzsave` leaves one
    beside the tiles, see `vips`.
    """

    def __init__(self, path: str | Path, *, scene: int | None = None) -> None:
        """Read the descriptor and look which levels are there.

        Args:
            path: the descriptor, or a zip of it and its folder of tiles.
            scene: 0 or None: a descriptor is of one picture.

        Raises:
            SceneError: another scene was asked for.
            UnreadableSlideError: the descriptor is damaged or malicious, or the tiles are not there.
        """
        only_scene(path, scene, reader="deepzoom")
        self._files = open_files(Path(path))
        self._token = object()  # whose tiles are kept
        try:
            self._descriptor = read_descriptor(str(path), self._files.descriptor)
            self._numbers = _stored_levels(path, self._descriptor, self._files)
            mpp = _mpp(self._descriptor, self._files)
        except UnreadableSlideError:
            self._files.close()
            raise
        descriptor = self._descriptor
        self.icc_profile: bytes | None = None
        self.tile_overlap_px = descriptor.overlap_px
        super().__init__(
            path,
            reader="deepzoom",
            levels=tuple(_level(descriptor, number) for number in self._numbers),
            mpp=mpp,
            properties={
                "format": "Deep Zoom",
                "codec": descriptor.suffix,
                "tile": f"{descriptor.tile_px} x {descriptor.tile_px}, overlap {descriptor.overlap_px}",
            },
        )

    def _read_into(self, out: NDArray[np.uint8], *, level: int, x_px: int, y_px: int) -> None:
        side, level_info = self._descriptor.tile_px, self.levels[level]
        columns = range(x_px // side, -(-(x_px + out.shape[1]) // side))
        rows = range(y_px // side, -(-(y_px + out.shape[0]) // side))

        def paste(tile: tuple[int, int]) -> None:
            column, row = tile
            left, top = column * side, row * side
            # The tile's part inside the rectangle, in pixels of the level.
            x0, x1 = max(left, x_px), min(left + side, x_px + out.shape[1])
            y0, y1 = max(top, y_px), min(top + side, y_px + out.shape[0])
            target = out[y0 - y_px : y1 - y_px, x0 - x_px : x1 - x_px]
            is_whole = (x1 - x0, y1 - y0) == (
                min(side, level_info.width_px - left),
                min(side, level_info.height_px - top),
            )
            try:
                pixels = self._square(level, column, row, keep=not is_whole)
            except DamagedTileError as error:
                raise self._bad_tile(level, column, row, error) from error
            target[:] = WHITE if pixels is None else pixels[y0 - top : y1 - top, x0 - left : x1 - left]

        run_all(paste, [(column, row) for row in rows for column in columns])

    def _square(self, level: int, column: int, row: int, *, keep: bool) -> NDArray[np.uint8] | None:
        """The pixels of a tile's own square, without what it shares; None where nothing is covered."""
        width_tiles = -(-self.levels[level].width_px // self._descriptor.tile_px)
        key = (self._token, level, row * width_tiles + column)
        pixels = TILES.get(key)
        if pixels is None:
            pixels = self._decode(self._numbers[level], column, row)
            if pixels is not None and keep:
                TILES.put(key, pixels)
        return pixels

    def _decode(self, number: int, column: int, row: int) -> NDArray[np.uint8] | None:
        data = self._stored(number, column, row)
        if data is None:
            return None
        left, top, right, bottom = self._descriptor.tile_box_px(number, column, row)
        pixels = decode_picture_tile(data, width_px=right - left, height_px=bottom - top)
        side = self._descriptor.tile_px
        x, y = column * side - left, row * side - top
        return pixels[y : y + side, x : x + side]

    def _stored(self, number: int, column: int, row: int) -> bytes | None:
        """The file of a tile; None where nothing is covered."""
        descriptor = self._descriptor
        left, top, right, bottom = descriptor.tile_box_px(number, column, row)
        name = f"{column}_{row}.{descriptor.suffix}"
        max_bytes = most_tile_bytes(width_px=right - left, height_px=bottom - top)
        data = self._files.read(number, name, max_bytes=max_bytes)
        if data is None:
            if not descriptor.is_covered(number, column, row):
                return None
            raise DamagedTileError(f"its file {number}/{name} is not there; is the copy incomplete?")
        return data

    def has_encoded_tiles(self, level: int) -> bool:
        """Whether tiles may be handed out, which are all of one kind; see `EncodedTiles`."""
        return self._descriptor.suffix.lower() in {"jpg", "jpeg"}

    def encoded_tile(self, *, level: int, column: int, row: int) -> bytes | None:
        """A stored tile as a JPEG file, with its overlap; see `EncodedTiles`."""
        number = self._numbers[level]
        try:
            data = self._stored(number, column, row)
            if data is None:
                return None
            left, top, right, bottom = self._descriptor.tile_box_px(number, column, row)
            return encoded_picture_tile(data, width_px=right - left, height_px=bottom - top)
        except DamagedTileError as error:
            raise self._bad_tile(level, column, row, error) from error

    def _bad_tile(self, level: int, column: int, row: int, error: DamagedTileError) -> BadTileError:
        """What to raise of a tile that is damaged; it says where the tile's own square lies."""
        side = self._descriptor.tile_px
        return BadTileError(
            self.path,
            f"level {level} (folder {self._numbers[level]}), tile (col, row) ({column}, {row}): {error}",
            box_px=(column * side, row * side, side, side),
        )

    def close(self) -> None:
        """Let go of the files; further reads are errors."""
        self._files.close()
        TILES.forget(self._token)


def _mpp(descriptor: Descriptor, files: TileFiles) -> RecordedMpp | None:
    text = files.beside(PROPERTIES, max_bytes=MAX_PROPERTIES_BYTES)
    size = {"width_px": descriptor.width_px, "height_px": descriptor.height_px}
    return None if text is None else recorded_mpp(text, **size)


def _stored_levels(path: str | Path, descriptor: Descriptor, files: TileFiles) -> list[int]:
    """Deep Zoom's numbers of the levels that are there, finest first.

    Raises:
        UnreadableSlideError: the finest is not there, or its files cannot hold what the descriptor claims.
    """
    deepest = descriptor.deepest
    if not files.has_level(deepest):
        raise UnreadableSlideError(
            path,
            f"the folder {deepest} of the finest level ({descriptor.width_px} x {descriptor.height_px} px) is not "
            "there; the copy is incomplete",
        )
    claimed = 3 * descriptor.width_px * descriptor.height_px
    if claimed > _BOMB_FLOOR_BYTES and not descriptor.covered:
        stored = 0
        for size in files.tile_sizes(deepest):
            stored += size
            if claimed <= _MAX_RATIO * stored:
                break
        else:
            raise UnreadableSlideError(
                path,
                f"the descriptor claims {descriptor.width_px} x {descriptor.height_px} px, which {stored} bytes of "
                "tiles cannot hold; the copy is incomplete, or it was made to exhaust memory",
            )
    return [number for number in range(deepest, -1, -1) if files.has_level(number)]


def _level(descriptor: Descriptor, number: int) -> Level:
    width, height = descriptor.level_size_px(number)
    return Level(
        width_px=width,
        height_px=height,
        downsample=float(1 << (descriptor.deepest - number)),
        stored_px=(descriptor.tile_px, descriptor.tile_px),
    )

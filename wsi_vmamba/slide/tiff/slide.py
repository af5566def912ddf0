"""TIFF slides decoded natively: every stored tile that a read needs is decoded once, straight into the result.

A tile of which a read needs only a part is kept for a while, so that small reads side by side decode it once too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import BadTileError
from wsi_vmamba.slide.base import NeedsOtherReaderError
from wsi_vmamba.slide.canvas import WHITE, CanvasSlide, pyramid
from wsi_vmamba.slide.compose import lay_over_white
from wsi_vmamba.slide.jpeg import DamagedTileError
from wsi_vmamba.slide.shared_file import SharedFile, failed_read
from wsi_vmamba.slide.tiff.layout import read_layout
from wsi_vmamba.slide.tiff.levels import TiffLevel
from wsi_vmamba.slide.tiff.limits import check_directories
from wsi_vmamba.slide.tile_cache import LARGE_PX, TILES, LastStrip
from wsi_vmamba.slide.tile_codecs import (
    JPEG2000_YCBCR,
    MIN_IS_WHITE,
    decode_tile,
    encoded_jpeg,
    is_shown_jpeg,
    jpeg2000_size,
)
from wsi_vmamba.slide.workers import run_all


class TiffSlide(CanvasSlide):
    """Tiled or stripped TIFF, BigTIFF, Aperio SVS and OME-TIFF; 8-bit RGB, YCbCr or grey, with or without opacity.

    Pixels equal OpenSlide's bit for bit on level 0 and whole downsamples: JPEG comes from libjpeg-turbo and JPEG
    2000 from OpenJPEG on both sides, with the same upsampling; the lossless codecs leave no room. The one
    exception is Aperio's YCbCr JPEG 2000, where rounding may differ by 1. Tiles never written are white.
    """

    #: TIFF tiles lie side by side.
    tile_overlap_px = 0

    def __init__(self, path: str | Path, *, scene: int | None = None) -> None:
        """Read the directory; pixels are decoded when asked for.

        Args:
            path: the file.
            scene: which of its pictures; None for the one that is the slide.

        Raises:
            NeedsOtherReaderError: a sound TIFF of a kind that OpenSlide may read.
            SceneError: there is no such scene, or nothing tells which of them is the slide.
            UnsupportedSlideError: a sound TIFF of a kind that neither reads rightly.
            UnreadableSlideError: damaged, cut short, or not a TIFF.
        """
        self._file = SharedFile(path)
        self._token = object()  # whose tiles are kept; not the file, which would then stay open with them
        with self._file.reading():
            check_directories(str(path), self._file.read_head, size_bytes=self._file.size_bytes)
        layout = read_layout(str(path), size_bytes=self._file.size_bytes, scene=scene)
        self._tables = layout.levels
        self.icc_profile = layout.icc_profile
        self._refuse_subsampled_jpeg2000(path)
        self._last_strip = LastStrip()
        sizes_px = [(table.width_px, table.height_px) for table in self._tables]
        super().__init__(
            path,
            reader="tiff",
            levels=tuple(
                replace(level, stored_px=(table.tile_width_px, table.tile_height_px))
                for level, table in zip(pyramid(sizes_px), self._tables, strict=True)
            ),
            mpp=layout.mpp,
            properties=layout.properties,
            scene=layout.scene,
            scenes=layout.scenes,
        )

    def _refuse_subsampled_jpeg2000(self, path: str | Path) -> None:
        """Leave JPEG 2000 with half-size colour planes to OpenSlide: the two libraries enlarge them differently."""
        table = self._tables[0]
        written = np.flatnonzero(table.byte_counts)
        if table.form.compression != JPEG2000_YCBCR or not written.size:
            return
        with self._file.reading():
            head = self._file.read_head(int(table.offsets[written[0]]), 256)
        try:
            subsampled = jpeg2000_size(head)[3]
        except DamagedTileError:
            return  # reading that tile will say so
        if subsampled:
            raise NeedsOtherReaderError(path, "JPEG 2000 with subsampled colours is not decoded natively")

    def _read_into(self, out: NDArray[np.uint8], *, level: int, x_px: int, y_px: int) -> None:
        table = self._tables[level]
        columns = range(x_px // table.tile_width_px, -(-(x_px + out.shape[1]) // table.tile_width_px))
        rows = range(y_px // table.tile_height_px, -(-(y_px + out.shape[0]) // table.tile_height_px))

        def paste(tile: tuple[int, int]) -> None:
            column, row = tile
            left, top = column * table.tile_width_px, row * table.tile_height_px
            # The tile's part inside the rectangle, in pixels of the level.
            x0, x1 = max(left, x_px), min(left + table.tile_width_px, x_px + out.shape[1])
            y0, y1 = max(top, y_px), min(top + table.tile_height_px, y_px + out.shape[0])
            target = out[y0 - y_px : y1 - y_px, x0 - x_px : x1 - x_px]
            try:
                self._paste_tile(target, level, tile, x_in_tile=x0 - left, y_in_tile=y0 - top)
            except DamagedTileError as error:
                raise self._bad_tile(level, column, row, error) from error

        with self._file.reading():
            run_all(paste, [(column, row) for row in rows for column in columns])

    def _paste_tile(
        self,
        target: NDArray[np.uint8],
        level: int,
        tile: tuple[int, int],
        *,
        x_in_tile: int,
        y_in_tile: int,
    ) -> None:
        """Decode one tile, all its planes, and put the part that is wanted into ``target``."""
        table = self._tables[level]
        corner = (x_in_tile, y_in_tile)
        if table.planes == 1:
            samples = self._part(level, tile, 0, corner, target.shape[:2])
            if samples is None:
                target[:] = WHITE
                return
        else:
            samples = np.full((*target.shape[:2], table.planes), WHITE, dtype=np.uint8)
            for plane in range(table.planes if table.opacity else table.colours):
                part = self._part(level, tile, plane, corner, target.shape[:2])
                if part is not None:
                    samples[..., plane] = part[..., 0]
        if table.form.photometric == MIN_IS_WHITE:
            samples = WHITE - samples
        if table.opacity is None:
            target[:] = samples[..., : table.colours]  # one grey sample is repeated by broadcasting
        else:
            lay_over_white(target, samples, opacity=table.opacity)

    def _part(
        self,
        level: int,
        tile: tuple[int, int],
        plane: int,
        corner_px: tuple[int, int],
        wanted_hw: tuple[int, ...],
    ) -> NDArray[np.uint8] | None:
        """The rectangle at ``corner_px`` of one tile and plane; None where that was never written."""
        table, (column, row), (x_in_tile, y_in_tile) = self._tables[level], tile, corner_px
        index = (plane * table.rows + row) * table.columns + column
        pixels = self._decoded(level, index, row, wanted_hw=wanted_hw)
        if pixels is None:
            return None
        part = pixels[y_in_tile : y_in_tile + wanted_hw[0], x_in_tile : x_in_tile + wanted_hw[1]]
        if part.shape[:2] != wanted_hw:
            raise DamagedTileError(f"only {pixels.shape[1]} x {pixels.shape[0]} px are stored")
        return part

    def _decoded(
        self, level: int, index: int, row: int, *, wanted_hw: tuple[int, ...]
    ) -> NDArray[np.uint8] | None:
        """Pixels of one tile or strip, decoded once for the reads that follow each other.

        A large strip, which many reads share, is kept by itself; of other tiles those that this read needs only in
        part.
        """
        table = self._tables[level]
        if not table.is_tiled and table.tile_width_px * table.stored_rows(row) >= LARGE_PX:
            return self._last_strip.get((level, index), lambda: self._decode(table, index, row))
        key = (self._token, level, index)
        pixels = TILES.get(key)
        if pixels is None:
            pixels = self._decode(table, index, row)
            if pixels is not None and pixels.shape[:2] != wanted_hw:
                TILES.put(key, pixels)
        return pixels

    def _decode(self, table: TiffLevel, index: int, row: int) -> NDArray[np.uint8] | None:
        """Pixels of one tile, (h, w, samples); None for a tile that was never written."""
        data = self._stored(table, index)
        if data is None:
            return None
        return decode_tile(data, table.form, width_px=table.tile_width_px, height_px=table.stored_rows(row))

    def _stored(self, table: TiffLevel, index: int) -> bytes | None:
        """The data of one tile; None for a tile that was never written."""
        offset, length = int(table.offsets[index]), int(table.byte_counts[index])
        if not offset or not length:
            return None
        if offset < 0 or length < 0 or offset + length > self._file.size_bytes:
            raise DamagedTileError(
                f"its data should end at byte {offset + length}, the file ends at {self._file.size_bytes}; "
                "it was cut short or its tile table is damaged"
            )
        try:
            return self._file.read_at(offset, length)
        except OSError as error:
            raise failed_read(self.path, error) from error

    def has_encoded_tiles(self, level: int) -> bool:
        """Whether tiles of a level may be handed out; see `EncodedTiles`."""
        table = self._tables[level]
        is_plain = table.planes == 1 and table.opacity is None and table.form.samples == table.colours
        return is_plain and is_shown_jpeg(table.form)

    def encoded_tile(self, *, level: int, column: int, row: int) -> bytes | None:
        """A stored tile as a JPEG file of its part of the picture; see `EncodedTiles`."""
        if not self.has_encoded_tiles(level):
            return None
        table = self._tables[level]
        left, top = column * table.tile_width_px, row * table.tile_height_px
        size_px = (
            min(table.tile_width_px, table.width_px - left),
            min(table.tile_height_px, table.height_px - top),
        )
        try:
            with self._file.reading():
                data = self._stored(table, row * table.columns + column)
            if data is None:
                return None
            return encoded_jpeg(
                data, table.form, width_px=size_px[0], height_px=size_px[1], icc_profile=self.icc_profile
            )
        except DamagedTileError as error:
            raise self._bad_tile(level, column, row, error) from error

    def _bad_tile(self, level: int, column: int, row: int, error: DamagedTileError) -> BadTileError:
        """What to raise of a tile that is damaged; it says where the tile lies."""
        width, height = self._tables[level].tile_width_px, self._tables[level].tile_height_px
        return BadTileError(
            self.path,
            f"level {level}, tile (col, row) ({column}, {row}): {error}",
            box_px=(column * width, row * height, width, height),
        )

    def close(self) -> None:
        """Release the file once running reads are done; further reads are errors."""
        self._file.close()
        TILES.forget(self._token)
        self._last_strip.clear()

"""OME-Zarr and plain zarr pictures, in a folder or a zip, on this machine or behind a URL."""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.storage import LocalStore, ZipStore

from wsi_vmamba.errors import BadTileError, UnreadableSlideError
from wsi_vmamba.slide.canvas import CanvasSlide, pyramid
from wsi_vmamba.slide.location import Location, is_url
from wsi_vmamba.slide.remote import open_remote_store, remote_errors
from wsi_vmamba.slide.zarr_layout import ZarrLevel, read_layout

#: Rows read at a time, at least; keeps the copy in the array's own axis order small beside the result.
_BAND_ROWS = 1024
#: What damaged chunks and metadata raise: codecs use RuntimeError and ValueError, missing keys LookupError.
_DAMAGE = (RuntimeError, ValueError, LookupError, TypeError, OSError, zipfile.BadZipFile)


class ZarrSlide(CanvasSlide):
    """OME-Zarr 0.4 and 0.5, or a plain zarr array or group of arrays; 8-bit RGB or grey.

    Chunks that were never written have the array's fill value, as zarr defines it.
    """

    def __init__(self, path: Location) -> None:
        """Read the metadata.

        Args:
            path: a folder or zip, or the URL of one.

        Raises:
            UnreadableSlideError: not zarr, damaged, or not one 8-bit RGB or grey plane.
        """
        # What a network raises; on this machine nothing does.
        self._network: tuple[type[Exception], ...] = (OSError, *remote_errors()) if is_url(path) else ()
        unusable: tuple[type[Exception], ...] = (*_DAMAGE, *self._network)
        try:
            self._store = _open_store(path)
            layout = read_layout(str(path), zarr.open(self._store, mode="r"))
        except UnreadableSlideError:
            raise
        except unusable as error:
            raise UnreadableSlideError(
                path, f"not a zarr picture, or its metadata are damaged ({error})"
            ) from error
        self._arrays: tuple[ZarrLevel, ...] = layout.levels
        super().__init__(
            path,
            reader="zarr",
            levels=pyramid([level.size_px for level in layout.levels]),
            mpp=layout.mpp,
            properties=layout.properties,
        )

    def _read_into(self, out: NDArray[np.uint8], *, level: int, x_px: int, y_px: int) -> None:
        if not self._arrays:
            raise UnreadableSlideError(self.path, "the slide is closed; open it again to read")
        source = self._arrays[level]
        chunk_rows = source.chunk_px[1]
        band = max(1, _BAND_ROWS // chunk_rows) * chunk_rows
        # Bands end at chunk borders, so that no chunk is decoded twice.
        edges = [y_px, *range((y_px // band + 1) * band, y_px + out.shape[0], band), y_px + out.shape[0]]
        for top, bottom in itertools.pairwise(edges):
            try:
                pixels = _read_hwc(source, x_px, x_px + out.shape[1], top, bottom)
            except self._network as error:
                raise UnreadableSlideError(self.path, f"reading failed in the middle ({error})") from error
            except _DAMAGE as error:
                column, row = _find_bad_chunk(source, x_px, x_px + out.shape[1], top, bottom)
                raise BadTileError(
                    self.path,
                    f"level {level}, chunk (col, row) ({column}, {row}): it does not decode ({error})",
                ) from error
            out[top - y_px : bottom - y_px] = pixels

    def close(self) -> None:
        """Let go of the store; further reads are errors."""
        self._arrays = ()
        self._store.close()


def _open_store(path: Location) -> Store:
    if isinstance(path, str) and is_url(path):
        return open_remote_store(path)
    if not Path(path).exists():
        raise UnreadableSlideError(path, "no such file or folder")
    return LocalStore(path, read_only=True) if Path(path).is_dir() else ZipStore(Path(path), mode="r")


def _read_hwc(source: ZarrLevel, left: int, right: int, top: int, bottom: int) -> NDArray[np.uint8]:
    """Read a rectangle as (h, w, 1 or 3)."""
    bounds = {"x": slice(left, right), "y": slice(top, bottom), "c": slice(None)}
    pixels = np.asarray(source.array[tuple(bounds.get(axis, 0) for axis in source.axes)], dtype=np.uint8)
    kept = [axis for axis in source.axes if axis in bounds]
    if "c" not in kept:
        kept, pixels = [*kept, "c"], pixels[..., None]
    return pixels.transpose([kept.index(axis) for axis in "yxc"])


def _find_bad_chunk(source: ZarrLevel, left: int, right: int, top: int, bottom: int) -> tuple[int, int]:
    """(column, row) of the first chunk under a rectangle that does not decode; its first chunk if all do now."""
    width, height = source.chunk_px
    for row in range(top // height, -(-bottom // height)):
        for column in range(left // width, -(-right // width)):
            try:
                _read_hwc(source, column * width, (column + 1) * width, row * height, (row + 1) * height)
            except _DAMAGE:
                return column, row
    return left // width, top // height

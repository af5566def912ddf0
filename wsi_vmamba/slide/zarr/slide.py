"""OME-Zarr and plain zarr pictures, in a folder or a zip, on this machine or behind a URL."""

from __future__ import annotations

import itertools
import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.errors import NodeNotFoundError
from zarr.storage import FsspecStore, LocalStore, ZipStore

from wsi_vmamba.errors import BadTileError, UnreadableSlideError
from wsi_vmamba.slide.canvas import CanvasSlide, pyramid
from wsi_vmamba.slide.location import Location, is_url, may_exist
from wsi_vmamba.slide.remote import open_remote_store, zip_directory
from wsi_vmamba.slide.web import in_words, remote_errors
from wsi_vmamba.slide.zarr.guard import (
    MAX_CHUNK_BYTES,
    METADATA,
    ChunkLimit,
    GuardedStore,
    codec_name,
    root_in_zip,
)
from wsi_vmamba.slide.zarr.layout import ZarrLevel, read_layout
from wsi_vmamba.slide.zarr.remote_limits import check_size, estimate_stored_bytes
from wsi_vmamba.slide.zips import check_zip

#: Rows read at a time, at least; keeps the copy in the array's own axis order small beside the result.
_BAND_ROWS = 1024
#: Chunks up to this side are tiles to those who read by tiles; larger ones would have them read too much at once.
_TILE_PX = 2048
#: As for TIFF: no scan compresses this far.
_MAX_RATIO = 4000
_BOMB_FLOOR_BYTES = 1 << 32
#: What damaged chunks and metadata raise: codecs use RuntimeError and ValueError, missing keys LookupError, values
#: of another kind than expected the rest.
_DAMAGE = (
    RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError, zipfile.BadZipFile
)  # fmt: skip
#: What zarr and numcodecs raise of a codec that they lack: two classes of one name, which older versions have not.
_UNKNOWN_CODEC = "UnknownCodecError"


class ZarrSlide(CanvasSlide):
    """OME-Zarr 0.4 and 0.5, or a plain zarr array or group of arrays; 8-bit RGB or grey.

    Chunks that were never written have the array's fill value, as zarr defines it.
    """

    def __init__(self, path: Location, *, scene: int | None = None) -> None:
        """Read the metadata.

        Args:
            path: a folder or zip, or the URL of one.
            scene: which of its pictures; None for the one that is the slide.

        Raises:
            SceneError: there is no such scene, or nothing tells which of them is the slide.
            UnreadableSlideError: not zarr, damaged, or not one 8-bit RGB or grey plane.
        """
        # What a network raises; on this machine nothing does.
        self._network: tuple[type[Exception], ...] = (OSError, *remote_errors()) if is_url(path) else ()
        unusable: tuple[type[Exception], ...] = (*_DAMAGE, *self._network)
        try:
            store = _open_store(path)
            self._store = GuardedStore(store)
            root = zarr.open(self._store, path=_root_in(path, store), mode="r")
            layout = read_layout(str(path), root, scene=scene)
            _check_limits(path, layout.levels, store)
        except UnreadableSlideError:
            raise
        except NodeNotFoundError as error:
            raise UnreadableSlideError(path, _nothing_there(path, self._store)) from error
        except self._network as error:
            raise UnreadableSlideError(path, f"cannot be read: {in_words(error)}") from error
        except unusable as error:
            if type(error).__name__ == _UNKNOWN_CODEC:
                raise UnreadableSlideError(
                    path,
                    f"its chunks are compressed in a way that neither zarr nor numcodecs knows by itself ({error}); "
                    "write it again with one of theirs, such as blosc or zstd",
                ) from error
            raise UnreadableSlideError(
                path, f"not a zarr picture, or its metadata are damaged ({error})"
            ) from error
        self._arrays: tuple[ZarrLevel, ...] = layout.levels
        self._store.limits = {level.array.path: _limit(level) for level in layout.levels}
        super().__init__(
            path,
            reader="zarr",
            levels=tuple(
                replace(level, stored_px=stored.chunk_px if max(stored.chunk_px) <= _TILE_PX else None)
                for level, stored in zip(
                    pyramid([each.size_px for each in layout.levels]), layout.levels, strict=True
                )
            ),
            mpp=layout.mpp,
            properties=layout.properties,
            scene=layout.scene,
            scenes=layout.scenes,
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
                pixels = self._read_band(source, x_px, x_px + out.shape[1], top, bottom, level=level)
            except self._network as error:
                if isinstance(error, UnreadableSlideError):
                    raise
                raise UnreadableSlideError(
                    self.path, f"reading failed in the middle: {in_words(error)}"
                ) from error
            out[top - y_px : bottom - y_px] = pixels

    def _read_band(
        self, source: ZarrLevel, left: int, right: int, top: int, bottom: int, *, level: int
    ) -> NDArray[np.uint8]:
        """Read a rectangle as (h, w, 1 or 3), or name the chunk that does not decode; network errors go through."""
        try:
            return _read_hwc(source, left, right, top, bottom)
        except self._network:
            raise
        except _DAMAGE as error:
            if not self._is_there():
                raise UnreadableSlideError(self.path, "it went away while it was read") from error
            column, row = _find_bad_chunk(source, left, right, top, bottom, network=self._network)
            width, height = source.chunk_px
            raise BadTileError(
                self.path,
                f"level {level}, chunk (col, row) ({column}, {row}): it does not decode ({error})",
                box_px=(column * width, row * height, width, height),
            ) from error

    def _is_there(self) -> bool:
        try:
            return may_exist(self.path)
        except OSError:
            return False

    def close(self) -> None:
        """Let go of the store; further reads are errors."""
        self._arrays = ()
        self._store.close()


def _open_store(path: Location) -> Store:
    if isinstance(path, str) and is_url(path):
        return open_remote_store(path)
    path = Path(path)
    if not path.exists():
        raise UnreadableSlideError(path, "no such file or folder")
    if path.is_dir():
        return LocalStore(path, read_only=True)
    check_zip(path, metadata=METADATA)
    return ZipStore(path, mode="r")


def _root_in(path: Location, store: Store) -> str:
    """Where in a store the zarr begins: at its root but in a zip, whose directory says it."""
    if isinstance(store, ZipStore):
        with zipfile.ZipFile(store.path) as archive:
            return root_in_zip(path, archive.namelist())
    entries = zip_directory(store) if isinstance(store, FsspecStore) else None
    return "" if entries is None else root_in_zip(path, [entry.filename for entry in entries])


def _nothing_there(path: Location, store: GuardedStore) -> str:
    """What to say where no metadata are."""
    what = "no zarr picture there: neither zarr.json, .zgroup nor .zarray"
    if store.forbidden:
        return f"{what}; the server refused {sorted(store.forbidden)[0]} (403), is a password or key missing?"
    if str(path).startswith("http"):
        return f"{what}; web servers are not searched, list the slides in the path column of a CSV"
    return what


def _check_limits(path: Location, levels: Sequence[ZarrLevel], store: Store) -> None:
    """Refuse sizes that would exhaust memory, or that the files cannot hold, before anything is read.

    Raises:
        UnreadableSlideError: naming the claim.
    """
    for level in levels:
        shape, chunks = level.array.shape, level.array.chunks
        if math.prod(chunks) > MAX_CHUNK_BYTES:
            raise UnreadableSlideError(
                path,
                f"one chunk is {chunks}, {math.prod(chunks) / 2**30:.1f} GiB, and chunks are decoded whole; expected "
                f"at most {MAX_CHUNK_BYTES >> 20} MiB; write it again with chunks of 256 to 1024 px",
            )
        claimed = math.prod(shape)
        if claimed <= _BOMB_FLOOR_BYTES:
            continue
        stored: float
        if isinstance(path, str) and is_url(path):
            width_px, height_px = level.size_px
            check_size(path, width_px=width_px, height_px=height_px)
            stored = estimate_stored_bytes(path, store, level.array, enough=claimed / _MAX_RATIO)
        else:
            stored = _stored_bytes(path, claimed // _MAX_RATIO)
        if claimed > _MAX_RATIO * stored:
            raise UnreadableSlideError(
                path,
                f"the metadata claim {shape}, {claimed / 2**30:.0f} GiB, which its files cannot hold; the copy is "
                "incomplete, or it was made to exhaust memory",
            )


def _stored_bytes(path: Location, enough: int) -> int:
    """Bytes in a file, or in the files of a folder until there are enough."""
    if not Path(path).is_dir():
        return Path(path).stat().st_size
    total = 0
    for root, _, names in os.walk(path):
        for name in names:
            total += (Path(root) / name).stat().st_size
            if total > enough:
                return total
    return total


def _limit(level: ZarrLevel) -> ChunkLimit:
    # The chunks of a sharded array are parts of files; what is read of those at once is not one chunk.
    compressors = level.array.compressors if level.array.shards is None else ()
    return ChunkLimit(
        chunk_bytes=math.prod(level.array.chunks), codec=codec_name(compressors[0]) if compressors else ""
    )


def _read_hwc(source: ZarrLevel, left: int, right: int, top: int, bottom: int) -> NDArray[np.uint8]:
    """Read a rectangle as (h, w, 1 or 3)."""
    bounds = {"x": slice(left, right), "y": slice(top, bottom), "c": slice(None)}
    pixels = np.asarray(source.array[tuple(bounds.get(axis, 0) for axis in source.axes)], dtype=np.uint8)
    kept = [axis for axis in source.axes if axis in bounds]
    if "c" not in kept:
        kept, pixels = [*kept, "c"], pixels[..., None]
    return pixels.transpose([kept.index(axis) for axis in "yxc"])


def _find_bad_chunk(
    source: ZarrLevel,
    left: int,
    right: int,
    top: int,
    bottom: int,
    *,
    network: tuple[type[Exception], ...],
) -> tuple[int, int]:
    """(column, row) of the first chunk under a rectangle that does not decode; its first chunk if all do now."""
    width, height = source.chunk_px
    for row in range(top // height, -(-bottom // height)):
        for column in range(left // width, -(-right // width)):
            try:
                _read_hwc(source, column * width, (column + 1) * width, row * height, (row + 1) * height)
            except network:
                raise
            except _DAMAGE:
                return column, row
    return left // width, top // height

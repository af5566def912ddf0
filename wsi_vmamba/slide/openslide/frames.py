"""JPEG frames of DICOM slides as they lie in their files, for those who show them and need not decode them.

OpenSlide reads the pixels. Here is only found which file of the series a level is, and where its frames begin. What is
not plain is left to OpenSlide: several focal planes or optical paths, two files of one size, frames in several pieces.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.base import Level
from wsi_vmamba.slide.encoded import most_tile_bytes, standalone_jpeg
from wsi_vmamba.slide.jpeg import Colours, DamagedTileError, jpeg_size
from wsi_vmamba.slide.openslide.dicom import (
    OFFSETS,
    PLACES,
    SLIDE_TYPE,
    DicomHeader,
    read_up_to_pixels,
    unreadable,
)
from wsi_vmamba.slide.openslide.series import Series
from wsi_vmamba.slide.shared_file import SharedFile, failed_read

_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_COLOURS = {"YBR_FULL_422": Colours.YCBCR, "RGB": Colours.RGB}
_ITEM, _ITEM_HEAD_BYTES = b"\xfe\xff\x00\xe0", 8
#: PixelData, OB, two reserved bytes, undefined length.
_PIXELS, _PIXELS_HEAD_BYTES = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff", 12
_SINGLE = {"TotalPixelMatrixFocalPlanes": 0x00480303, "NumberOfOpticalPaths": 0x00480302}
#: The place of each frame is parsed by pydicom, 10,000 a second.
_MOST_PLACED_FRAMES = 20_000


@dataclass(frozen=True, kw_only=True)
class _Frames:
    """The frames of one level.

    Attributes:
        file: where they lie.
        items: where the item of each tile begins, by rows; -1 for a tile that has no frame.
        starts: the same in ascending order.
        columns: tiles side by side.
        colours: what the components are.
    """

    file: SharedFile
    items: NDArray[np.int64]
    starts: NDArray[np.int64]
    columns: int
    colours: Colours


class DicomFrames:
    """The frames of a slide, found when they are first asked for. Safe to use from several threads."""

    def __init__(self, path: str, series: Series, levels: Sequence[Level]) -> None:
        """Choose the file of each level; none is opened.

        Args:
            path: of the slide, for messages.
            series: its files; none where it is no DICOM.
            levels: as OpenSlide shows them.
        """
        self._levels = levels
        volumes = [each for each in series if each[1].image_type[2:3] == (SLIDE_TYPE,)]
        self._files = {number: _file_of(level, volumes) for number, level in enumerate(levels)}
        self._found: dict[int, _Frames | None] = {}
        self._path, self._closed = path, False
        self._lock = threading.Lock()

    def has_level(self, level: int) -> bool:
        """Whether the frames of a level may be JPEG that browsers show."""
        return self._files[level] is not None

    def jpeg(self, *, level: int, column: int, row: int, icc_profile: bytes | None) -> bytes | None:
        """A frame as a JPEG file; see `EncodedTiles`.

        Raises:
            DamagedTileError: it is visibly damaged.
            UnreadableSlideError: the file went away or was closed.
        """
        frames = self._frames(level)
        about = self._levels[level]
        if frames is None or about.stored_px is None:
            return None
        width, height = about.stored_px
        if (column + 1) * width > about.width_px or (row + 1) * height > about.height_px:
            return None
        start = int(frames.items[row * frames.columns + column])
        if start < 0:
            return None
        data = _read_frame(frames, start, max_bytes=most_tile_bytes(width_px=width, height_px=height))
        if data is None or jpeg_size(data) != (width, height, 3):
            return None
        return standalone_jpeg(data, tables=None, stored=frames.colours, icc_profile=icc_profile)

    def _frames(self, level: int) -> _Frames | None:
        if level in self._found:  # without waiting for another level that is being looked at
            return self._found[level]
        with self._lock:
            if self._closed:
                raise UnreadableSlideError(self._path, "the slide is closed; open it again to read")
            if level not in self._found:
                named = self._files[level]
                self._found[level] = None if named is None else _look(*named, self._levels[level])
            return self._found[level]

    def close(self) -> None:
        """Release the files; further reads are errors."""
        with self._lock:
            self._closed = True
            for frames in self._found.values():
                if frames is not None:
                    frames.file.close()


def _file_of(level: Level, volumes: Series) -> tuple[Path, DicomHeader] | None:
    """The one file that holds a level, if its frames are JPEG as browsers show them."""
    same = [each for each in volumes if each[1].matrix_px == (level.width_px, level.height_px)]
    if len(same) != 1:
        return None
    header = same[0][1]
    is_shown = header.syntax == _JPEG_BASELINE and header.photometric in _COLOURS
    return same[0] if is_shown and header.frame_px == level.stored_px else None


def _look(path: Path, header: DicomHeader, level: Level) -> _Frames | None:
    """Find the frames of a file; None where they are not one JPEG for each tile."""
    file = SharedFile(path)
    try:
        items = _items(path, header, level)
    except unreadable():
        items = None
    if items is None:
        file.close()
        return None
    columns = -(-level.width_px // header.frame_px[0])
    return _Frames(
        file=file, items=items, starts=np.sort(items), columns=columns, colours=_COLOURS[header.photometric]
    )


def _items(path: Path, header: DicomHeader, level: Level) -> NDArray[np.int64] | None:
    """Where the item of each tile begins, by rows; -1 for a tile without; None where that is not plain."""
    found, pixels_at = read_up_to_pixels(path, [PLACES, OFFSETS, *_SINGLE.values()])
    if any(int(found.get(name) or 1) != 1 for name in _SINGLE):
        return None
    width, height = header.frame_px
    columns, rows = -(-level.width_px // width), -(-level.height_px // height)
    if not 0 < header.frames <= columns * rows:
        return None
    with path.open("rb") as stream:
        starts = _starts(stream, pixels_at, header.frames, found.get("ExtendedOffsetTable"))
    if starts is None:
        return None
    if header.organisation == "TILED_FULL":
        return starts if len(starts) == columns * rows else None
    places = _places(found, header.frames)
    items = np.full((rows, columns), -1, dtype=np.int64)
    if places is None or (places % header.frame_px).any():
        return None
    tiles = places // header.frame_px
    if (tiles < 0).any() or (tiles >= (columns, rows)).any() or len(np.unique(tiles, axis=0)) != len(tiles):
        return None
    items[tiles[:, 1], tiles[:, 0]] = starts
    return items.ravel()


def _places(found: Any, frames: int) -> NDArray[np.int64] | None:
    """The corner (x, y) of each frame in pixels of the level, as the file lists them."""
    if frames > _MOST_PLACED_FRAMES:
        return None
    listed = found.get("PerFrameFunctionalGroupsSequence") or ()
    if len(listed) != frames:
        return None
    corners = [each.PlanePositionSlideSequence[0] for each in listed]
    return np.array(
        [
            (each.ColumnPositionInTotalImagePixelMatrix - 1, each.RowPositionInTotalImagePixelMatrix - 1)
            for each in corners
        ],
        dtype=np.int64,
    ).reshape(-1, 2)


def _starts(
    stream: BinaryIO, pixels_at: int, frames: int, extended: bytes | None
) -> NDArray[np.int64] | None:
    """Where the item of each frame begins, from the file's own table or by going from one to the next."""
    stream.seek(pixels_at)
    head = stream.read(_PIXELS_HEAD_BYTES + _ITEM_HEAD_BYTES)
    if head[:_PIXELS_HEAD_BYTES] != _PIXELS or head[_PIXELS_HEAD_BYTES:][:4] != _ITEM:
        return None
    table = stream.read(int.from_bytes(head[-4:], "little")) if head[-4:] != b"\xff\xff\xff\xff" else b""
    first = stream.tell()
    if extended:
        starts = first + np.frombuffer(extended, dtype="<u8").astype(np.int64)
    elif table:
        starts = first + np.frombuffer(table, dtype="<u4").astype(np.int64)
    else:
        starts = _walk(stream, first, frames)
    return starts if len(starts) == frames else None


def _walk(stream: BinaryIO, at: int, frames: int) -> NDArray[np.int64]:
    """Where the items begin that follow one another, up to one more than there are frames."""
    found: list[int] = []
    while len(found) <= frames:
        stream.seek(at)
        head = stream.read(_ITEM_HEAD_BYTES)
        if head[:4] != _ITEM or len(head) < _ITEM_HEAD_BYTES:
            break
        found.append(at)
        at += _ITEM_HEAD_BYTES + struct.unpack_from("<I", head, 4)[0]
    return np.array(found, dtype=np.int64)


def _read_frame(frames: _Frames, start: int, *, max_bytes: int) -> bytes | None:
    """The data of the item at ``start``; None where the item after it belongs to the same frame.

    Raises:
        DamagedTileError: it does not lie in the file, or is larger than ``max_bytes``.
    """
    file = frames.file
    with file.reading():
        try:
            head = file.read_at(start, _ITEM_HEAD_BYTES) if start < file.size_bytes else b""
            if head[:4] != _ITEM or len(head) < _ITEM_HEAD_BYTES:
                raise DamagedTileError("its data are not where the file says; it was cut short or damaged")
            begin = start + _ITEM_HEAD_BYTES
            end = begin + struct.unpack_from("<I", head, 4)[0]
            if end > file.size_bytes:
                raise DamagedTileError("its data should go on behind the end of the file; it was cut short")
            if end - begin > max_bytes:
                raise DamagedTileError(
                    f"it has {end - begin} bytes, expected at most {max_bytes} for a tile of its size"
                )
            data = file.read_at(begin, end - begin + len(_ITEM))
        except OSError as error:
            raise failed_read(file.path, error) from error
    place = np.searchsorted(frames.starts, end)
    is_frame = place < len(frames.starts) and frames.starts[place] == end
    return data[: end - begin] if is_frame or data[end - begin :] != _ITEM else None

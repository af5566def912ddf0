"""A first look at the directories of a TIFF: refuse what no slide has, before a library reads it all into memory."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from wsi_vmamba.errors import UnreadableSlideError

#: Reads bytes at an offset; fewer where the file ends.
ReadAt = Callable[[int, int], bytes]

#: Slides have a handful of directories, stacks some hundred.
_MAX_DIRECTORIES = 10_000
_MAX_ENTRIES = 4096
#: A slide of 500,000 px a side in tiles of 256 px has 4 million.
_MAX_TILES = 1 << 22
#: Descriptions, tables and colour profiles, each.
_MAX_TAG_BYTES = 64 << 20
_MAX_SUBDIRECTORIES = 1000
_TABLES = frozenset({273, 279, 324, 325})
_SUBIFDS = 330
_NDPI = 65420
_SHORT, _WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 3, 256, 257, 322, 323
#: A tile is decoded whole, 4 bytes a pixel.
_MAX_TILE_PX = 1 << 28
#: A glass of 26 x 76 mm at 0.2 um has 5e10 pixels; no JPEG of tissue packs a thousand into a byte.
_MAX_NDPI_PX, _MAX_PX_PER_BYTE, _FLOOR_PX = 1 << 36, 1000, 1 << 28
_BYTES_OF_TYPE = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}


@dataclass(frozen=True, kw_only=True)
class _Form:
    """How a TIFF writes its numbers: struct formats of the count of entries, an entry and an offset."""

    count: str
    entry: str
    offset: str


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One tag; ``place`` is where its value lies, or the value itself where that is short."""

    tag: int
    kind: int
    count: int
    place: int

    @property
    def size_bytes(self) -> int:
        return self.count * _BYTES_OF_TYPE.get(self.kind, 1)


def check_directories(path: str, read_at: ReadAt, *, size_bytes: int) -> None:
    """Walk all directories and refuse sizes that no slide has, and directories that are no longer there.

    Raises:
        UnreadableSlideError: naming the claim, or where the file ends too early.
    """
    head = read_at(0, 16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 16:
        return
    if struct.unpack_from(order + "H", head, 2)[0] == 43:
        form = _Form(count=order + "Q", entry=order + "HHQQ", offset=order + "Q")
        (first,) = struct.unpack_from(order + "Q", head, 8)
    else:
        form = _Form(count=order + "H", entry=order + "HHII", offset=order + "I")
        (first,) = struct.unpack_from(order + "I", head, 4)
        # Hamamatsu writes directories of eight-byte offsets into files that say they have four.
        (wide,) = struct.unpack_from(order + "Q", head, 4)
        ndpi = _Form(count=order + "H", entry=order + "HHII", offset=order + "Q")
        if any(entry.tag == _NDPI for entry in _directory(read_at, wide, ndpi)[0]):
            form, first = ndpi, wide
    seen: set[int] = set()
    waiting = [first]
    while waiting:
        at = waiting.pop()
        if at >= size_bytes:
            raise UnreadableSlideError(
                path,
                f"a directory should lie at byte {at}, the file ends at {size_bytes}; it was cut short or is damaged",
            )
        if at == 0 or at in seen:
            continue
        seen.add(at)
        if len(seen) > _MAX_DIRECTORIES:
            raise _refusal(path, f"has more than {_MAX_DIRECTORIES} directories")
        entries, following = _directory(read_at, at, form)
        waiting.append(following)
        _check_sides(path, entries, size_bytes=size_bytes)
        for entry in entries:
            _check_entry(path, entry)
            if entry.tag == _SUBIFDS:
                waiting += _offsets(read_at, entry, form)


def _directory(read_at: ReadAt, at: int, form: _Form) -> tuple[list[_Entry], int]:
    """The entries of a directory, and where the next one is; 0 at the end, or where this is none."""
    count_size, entry_size, offset_size = map(struct.calcsize, (form.count, form.entry, form.offset))
    raw = read_at(at, count_size)
    if len(raw) < count_size:
        return [], 0
    number = struct.unpack(form.count, raw)[0]
    if number > _MAX_ENTRIES:
        return [], 0
    body = read_at(at + count_size, number * entry_size + offset_size)
    if len(body) < number * entry_size + offset_size:
        return [], 0
    entries = [struct.unpack_from(form.entry, body, i * entry_size) for i in range(number)]
    (following,) = struct.unpack_from(form.offset, body, number * entry_size)
    return [
        _Entry(tag=tag, kind=kind, count=count, place=place) for tag, kind, count, place in entries
    ], following


def _offsets(read_at: ReadAt, entry: _Entry, form: _Form) -> list[int]:
    """Where the directories inside a directory are."""
    letter = "Q" if _BYTES_OF_TYPE.get(entry.kind) == 8 else "I"
    if entry.size_bytes <= struct.calcsize(form.offset):
        return [entry.place & 0xFFFFFFFF, entry.place >> 32] if letter == "I" else [entry.place]
    raw = read_at(entry.place, entry.size_bytes)
    return [each for (each,) in struct.iter_unpack(form.offset[0] + letter, raw[: len(raw) // 8 * 8])]


def _check_entry(path: str, entry: _Entry) -> None:
    if entry.tag in _TABLES:
        if entry.count > _MAX_TILES:
            raise _refusal(path, f"claims a table of {entry.count} tiles")
    elif entry.tag == _SUBIFDS and entry.count > _MAX_SUBDIRECTORIES:
        raise _refusal(path, f"claims {entry.count} directories inside one")
    elif entry.size_bytes > _MAX_TAG_BYTES:
        raise _refusal(path, f"claims {entry.size_bytes} bytes for the tag {entry.tag}")


def _check_sides(path: str, entries: list[_Entry], *, size_bytes: int) -> None:
    """Refuse sizes that OpenSlide would make room for; other pictures are looked at when they are read."""
    values = {entry.tag: entry.place & (0xFFFF if entry.kind == _SHORT else 0xFFFFFFFF) for entry in entries}
    width, height = values.get(_TILE_WIDTH, 0), values.get(_TILE_HEIGHT, 0)
    if width * height > _MAX_TILE_PX:
        raise _refusal(path, f"claims tiles of {width} x {height} px")
    width, height = values.get(_WIDTH, 0), values.get(_HEIGHT, 0)
    many = width * height > _MAX_NDPI_PX or width * height > max(_FLOOR_PX, _MAX_PX_PER_BYTE * size_bytes)
    if _NDPI in values and many:
        raise _refusal(path, f"claims a level of {width} x {height} px in {size_bytes} bytes")


def _refusal(path: str, claim: str) -> UnreadableSlideError:
    return UnreadableSlideError(path, f"the TIFF {claim}; it is damaged or made to exhaust memory")

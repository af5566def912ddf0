"""As much DICOM as it takes to tell which files belong to one slide; OpenSlide reads the pixels."""

from __future__ import annotations

import struct
from pathlib import Path

_PREAMBLE = 128
_MAGIC = b"DICM"
_SERIES_INSTANCE_UID = (0x0020, 0x000E)
#: Value representations whose length takes four bytes, after two reserved ones.
_LONG = frozenset([b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"])
_UNDEFINED_LENGTH = 0xFFFFFFFF
#: The series is named near the front; what lies further is frames.
_HEADER_BYTES = 1 << 20


def is_dicom(path: Path) -> bool:
    """Whether the file carries the mark of DICOM; False also where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE + 4)[_PREAMBLE:] == _MAGIC
    except OSError:
        return False


def series_uid(path: Path) -> str | None:
    """Series instance UID of a DICOM file in explicit little-endian syntax, None where it cannot be found."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    position = _PREAMBLE + len(_MAGIC)
    while position + 12 <= len(header):
        group, element, kind = struct.unpack_from("<HH2s", header, position)
        if (group, element) > _SERIES_INSTANCE_UID:
            return None
        if kind in _LONG:
            (length,) = struct.unpack_from("<I", header, position + 8)
            position += 12
        else:
            (length,) = struct.unpack_from("<H", header, position + 6)
            position += 8
        if length == _UNDEFINED_LENGTH:
            position = _after_sequence(header, position)
            continue
        if (group, element) == _SERIES_INSTANCE_UID:
            return header[position : position + length].rstrip(b"\0 ").decode("ascii", errors="replace")
        position += length
    return None


def _after_sequence(header: bytes, position: int) -> int:
    """Position after a sequence of undefined length; the end of the header where it does not end.

    Sequences nest, so every further one of undefined length that begins asks for one more delimiter.
    """
    delimiter = b"\xfe\xff\xdd\xe0\0\0\0\0"
    opened = b"SQ\0\0\xff\xff\xff\xff"
    start, depth = position, 1
    while depth:
        end = header.find(delimiter, position)
        if end < 0:
            return len(header)
        depth += header.count(opened, start, end) - 1
        start = position = end + len(delimiter)
    return position

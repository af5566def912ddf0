r"""The bytes of a journal: how regions are written, and read back where any part may be torn or rotten.

    b"wsi-vmamba regions 1\n"
    header   u32 length, u32 CRC-32, JSON: what the regions were made of and with
    records  b"REGN", u32 region, u64 length, u32 CRC-32 of the payload, u32 CRC-32 of the fields before it; payload

Records stand in the order in which they were made. One whose checksum does not hold was torn by a crash, or rotted:
it counts for nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"wsi-vmamba regions 1\n"
_MARK = b"REGN"
_HEADER = struct.Struct("<II")
_RECORD = struct.Struct("<4sIQI")
_CHECK = struct.Struct("<I")
#: Bytes before the payload of a record.
FRAME = _RECORD.size + _CHECK.size


@dataclass(frozen=True, eq=False, kw_only=True)
class DoneRegion:
    """The features of one region.

    Attributes:
        index: of the region in its plan.
        sound: bool, shape (patches of the region,): which of them have features.
        features: float16, shape (number of sound patches, D).
        damage: what of the slide was found damaged by then, as JSON values.
    """

    index: int
    sound: NDArray[np.bool_]
    features: NDArray[np.float16]
    damage: list[list[Any]]


def preamble(header: Mapping[str, Any]) -> bytes:
    """What a journal begins with."""
    text = json.dumps(header, sort_keys=True).encode()
    return _MAGIC + _HEADER.pack(len(text), zlib.crc32(text)) + text


def write_all(file: BinaryIO, content: bytes) -> None:
    """Write all of it: a file without a buffer may take a part only."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def frame(index: int, payload: bytes) -> bytes:
    """What stands before the payload of a record."""
    fields = _RECORD.pack(_MARK, index, len(payload), zlib.crc32(payload))
    return fields + _CHECK.pack(zlib.crc32(fields))


class NotAJournalError(Exception):
    """No whole header: it was torn by a crash before it counted for anything."""


class JournalReader:
    """Reads a journal of which any part may be torn or rotten."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size
        self.header = self._read_header()

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Open a journal for the block.

        Raises:
            NotAJournalError: its header is torn.
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            yield cls(file, os.fstat(file.fileno()).st_size)

    def _read_header(self) -> dict[str, Any]:
        start = self.file.read(len(_MAGIC) + _HEADER.size)
        if len(start) < len(_MAGIC) + _HEADER.size or not start.startswith(_MAGIC):
            raise NotAJournalError
        length, checksum = _HEADER.unpack_from(start, len(_MAGIC))
        text = self.file.read(min(length, self.size))
        if len(text) != length or zlib.crc32(text) != checksum:
            raise NotAJournalError
        header: dict[str, Any] = json.loads(text)
        return header

    def frames(self) -> Iterator[tuple[int, int, int]]:
        """Region, length and checksum of each record whose frame holds, the file at its payload; ends at a torn one."""
        while True:
            fields = self.file.read(FRAME)
            if len(fields) < FRAME or _CHECK.unpack_from(fields, _RECORD.size)[0] != zlib.crc32(
                fields[: _RECORD.size]
            ):
                return
            _, index, length, checksum = _RECORD.unpack_from(fields)
            after = self.file.tell() + length
            if after > self.size:
                return
            yield index, length, checksum
            self.file.seek(after)


def fits(index: int, payload: bytes, header: Mapping[str, Any]) -> bool:
    """Whether a payload can be that of the region; with a checksum that holds, anything else is a mistake of ours."""
    if index >= len(header["n_patches"]):
        return False
    try:
        region = unpack(index, payload, header["dim"])
    except (ValueError, KeyError):
        return False
    return bool(len(region.sound) == header["n_patches"][index])


def pack(region: DoneRegion) -> bytes:
    """A region as a payload."""
    words = json.dumps({"n_patches": len(region.sound), "damage": region.damage}).encode()
    bits = np.packbits(region.sound).tobytes()
    return b"".join((_CHECK.pack(len(words)), words, bits, region.features.astype("<f2").tobytes()))


def unpack(index: int, payload: bytes, dim: int) -> DoneRegion:
    """Undo `pack`.

    Raises:
        ValueError: it is no payload.
    """
    (length,) = _CHECK.unpack_from(payload)
    after = _CHECK.size + length
    words = json.loads(payload[_CHECK.size : after])
    n_bytes = -(-words["n_patches"] // 8)
    bits = np.frombuffer(payload[after : after + n_bytes], np.uint8)
    sound = np.unpackbits(bits, count=words["n_patches"]).astype(np.bool_)
    features = (
        np.frombuffer(payload[after + n_bytes :], "<f2")
        .astype(np.float16, copy=False)
        .reshape(int(sound.sum()), dim)
    )
    return DoneRegion(index=index, sound=sound, features=features, damage=words["damage"])

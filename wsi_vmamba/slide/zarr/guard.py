"""A zarr store that refuses what would exhaust memory: chunks that inflate too far, metadata without end, odd zips."""

from __future__ import annotations

import bz2
import lzma
import math
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.storage import FsspecStore, WrapperStore, ZipStore

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.location import Location
from wsi_vmamba.slide.web import is_forbidden, remote_errors
from wsi_vmamba.slide.zarr import MARKERS
from wsi_vmamba.slide.zips import MAX_METADATA_BYTES

#: Where bioformats2raw leaves the OME-XML of its pictures.
OME_XML = "OME/METADATA.ome.xml"
#: Files that are read whole.
METADATA = MARKERS | {".zattrs", ".zmetadata", PurePosixPath(OME_XML).name}
#: One chunk is decoded whole, so this bounds memory whatever the metadata claim.
MAX_CHUNK_BYTES = 1 << 29
_PIECE_BYTES = 1 << 20


class InflatedChunkError(ValueError):
    """A chunk says that it holds more than its array has room for."""


@dataclass(frozen=True, kw_only=True)
class ChunkLimit:
    """What the chunks of one array may hold: ``codec`` names the compressor, in lower case, or is empty."""

    chunk_bytes: int
    codec: str


class WholeFileError(OSError):
    """A server sent a whole file where a part of it was asked for."""


class GuardedStore(WrapperStore[Any]):  # type: ignore[misc]  # zarr is untyped here
    """Another store, looked at before anything from it is decoded; arrays without a limit are not looked at.

    Attributes:
        limits: by the path of an array.
        forbidden: metadata that a server refused to give. They count as not there, which they mostly are: those who
            may not list a bucket are told so of everything that is missing.
    """

    def __init__(self, store: Any) -> None:
        """Guard ``store``."""
        super().__init__(store)
        self.limits: dict[str, ChunkLimit] = {}
        self.forbidden: set[str] = set()

    def _with_store(self, store: Any) -> GuardedStore:
        guarded = type(self)(store)
        guarded.limits, guarded.forbidden = self.limits, self.forbidden
        return guarded

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Read a value.

        Raises:
            InflatedChunkError: it would inflate to more than a chunk of its array.
            ValueError: metadata longer than any picture needs.
            WholeFileError: a server does not know how to send a part.
        """
        if PurePosixPath(key).name in METADATA:
            return await self._get_metadata(key, prototype, byte_range)
        value = await super().get(key, prototype, byte_range)
        if value is not None and len(value) > _asked_bytes(byte_range):
            raise WholeFileError(
                f"asked for {_asked_bytes(byte_range)} bytes of {key}, the server sent {len(value)}: it cannot send "
                "parts of files (Range requests), which sharded arrays need"
            )
        limit = self._limit_of(key)
        if value is not None and limit is not None and byte_range is None:
            check_inflation(value.to_bytes(), limit)
        return value

    async def _get_metadata(self, key: str, prototype: Any, byte_range: Any) -> Any:
        network: tuple[type[Exception], ...] = (OSError, *remote_errors())
        try:
            await self._check_metadata(key)
            return await super().get(key, prototype, byte_range)
        except network as error:
            if not (is_forbidden(error) and isinstance(self._store, FsspecStore)):
                raise
            self.forbidden.add(key)
            return None

    async def _check_metadata(self, key: str) -> None:
        if isinstance(self._store, ZipStore):  # `check_zip` has looked already, and asking would inflate it
            return
        try:
            size = await self._store.getsize(key)
        except FileNotFoundError:
            return
        if size > MAX_METADATA_BYTES:
            raise ValueError(f"{key} is {size} bytes long, expected at most {MAX_METADATA_BYTES}")

    def _limit_of(self, key: str) -> ChunkLimit | None:
        found = [path for path in self.limits if not path or key.startswith(f"{path}/")]
        return self.limits[max(found, key=len)] if found else None


def _asked_bytes(byte_range: Any) -> float:
    """Bytes that a request is answered with at most; infinite where it is for all, or all from some point on."""
    if isinstance(byte_range, RangeByteRequest):
        return float(byte_range.end - byte_range.start)
    return float(byte_range.suffix) if isinstance(byte_range, SuffixByteRequest) else math.inf


def root_in_zip(place: Location, names: Iterable[str]) -> str:
    """The folder of a zip that the zarr begins in; empty where it is the zip itself, or nothing there is zarr.

    Who zips a folder and not its content puts it one folder deeper; macOS adds a folder of its own beside it.

    Raises:
        UnreadableSlideError: there are several.
    """
    folders = {PurePosixPath(name).parent for name in names if PurePosixPath(name).name in MARKERS}
    tops = sorted(
        str(folder)
        for folder in folders
        if "__MACOSX" not in folder.parts and folders.isdisjoint(folder.parents)
    )
    if len(tops) > 1:
        raise UnreadableSlideError(
            place, f"the zip holds {len(tops)} zarr folders ({', '.join(tops[:5])}); make a zip of each"
        )
    return tops[0] if tops and tops[0] != "." else ""


def check_inflation(content: bytes, limit: ChunkLimit) -> None:
    """Refuse a chunk that inflates to more than its array's chunks hold; damage is left to the codec to find.

    Raises:
        InflatedChunkError: it does.
    """
    allowed = limit.chunk_bytes + 1024  # a checksum, or a filter's own header
    inflates_to = _SIZES.get(limit.codec)
    size = inflates_to(content, allowed) if inflates_to else None
    if size is not None and size > allowed:
        raise InflatedChunkError(
            f"its {len(content)} bytes would inflate to {size} or more, a chunk holds {limit.chunk_bytes}"
        )


def _blosc_size(content: bytes, _: int) -> int | None:
    return struct.unpack_from("<I", content, 4)[0] if len(content) >= 16 else None


def _lz4_size(content: bytes, _: int) -> int | None:
    return struct.unpack_from("<I", content)[0] if len(content) >= 4 else None


def _zstd_size(content: bytes, _: int) -> int | None:
    """Content size in the header of the first frame; decoders that are not told it work in bounded pieces."""
    if content[:4] != b"\x28\xb5\x2f\xfd" or len(content) < 18:
        return None
    descriptor = content[4]
    single, code = bool(descriptor & 0x20), descriptor >> 6
    length = (1 if single else 0, 2, 4, 8)[code]
    at = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    size = int.from_bytes(content[at : at + length], "little")
    return (size + 256 if length == 2 else size) if length else None


def _stream_size(make: Callable[[], Any]) -> Callable[[bytes, int], int | None]:
    """Count what a stream inflates to, a small piece at a time, up to the limit."""

    def count(content: bytes, limit: int) -> int | None:
        stream, total, rest = make(), 0, content
        try:
            while total <= limit and not stream.eof:
                piece = stream.decompress(rest, _PIECE_BYTES)
                rest = getattr(stream, "unconsumed_tail", b"")
                total += len(piece)
                if not piece and not rest:
                    break
        except (zlib.error, OSError, lzma.LZMAError, EOFError):
            return None
        return total

    return count


_SIZES: dict[str, Callable[[bytes, int], int | None]] = {
    "blosc": _blosc_size,
    "zstd": _zstd_size,
    "lz4": _lz4_size,
    "gzip": _stream_size(lambda: zlib.decompressobj(47)),
    "zlib": _stream_size(lambda: zlib.decompressobj(47)),
    "bz2": _stream_size(bz2.BZ2Decompressor),
    "lzma": _stream_size(lzma.LZMADecompressor),
}


def codec_name(codec: object) -> str:
    """Short name of a compressor: "gzip" of zarr's `GzipCodec` and of numcodecs' `GZip`."""
    name = str(getattr(codec, "codec_id", type(codec).__name__)).lower()
    return name.rpartition(".")[2].removesuffix("codec")

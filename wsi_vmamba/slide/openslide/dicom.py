"""What the header of a DICOM file says: which slide it is a part of, and why OpenSlide may refuse it.

OpenSlide reads the pixels. Only the beginning of a file is looked at, so whatever a header claims is bounded.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wsi_vmamba.text import printable

if TYPE_CHECKING:
    from pydicom import Dataset

_PREAMBLE = 128
_MAGIC = b"DICM"
#: What is asked for lies near the front; what lies further is frames.
_HEADER_BYTES = 1 << 17
_EXPLICIT, _DEFLATED = b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.1.99"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_SYNTAX, _IMAGE_TYPE, _SERIES = 0x00020010, 0x00080008, 0x0020000E
_ORGANISATION = 0x00209311
_PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS = 0x00280004, 0x00280008, 0x00280010, 0x00280011
_MATRIX_COLUMNS, _MATRIX_ROWS = 0x00480006, 0x00480007
_WANTED = frozenset({
    _SYNTAX, _IMAGE_TYPE, _SERIES, _ORGANISATION, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _MATRIX_COLUMNS, _MATRIX_ROWS,
})  # fmt: skip
#: Values longer than this are not kept; none of those wanted is.
_LONGEST_VALUE = 1 << 12
#: The places of 100,000 frames take less.
_MAX_VALUE_BYTES = 1 << 27
#: What OpenSlide takes for the pixels of a slide.
SLIDE_TYPE = "VOLUME"
#: The place of each frame, and tables of where the frames begin and how long they are.
PLACES, OFFSETS, LENGTHS = 0x52009230, 0x7FE00001, 0x7FE00002
_GLASS_TYPES = frozenset({"LABEL", "OVERVIEW", "THUMBNAIL"})
_VALUES_1 = frozenset({"ORIGINAL", "DERIVED"})


@dataclass(frozen=True, kw_only=True)
class DicomHeader:
    """What the header says, as text or numbers; empty or 0 where it says nothing.

    Attributes:
        syntax: UID of the transfer syntax, how the frames are stored.
        image_type: its values, such as ("ORIGINAL", "PRIMARY", "VOLUME", "NONE").
        series: UID of the series.
        organisation: how the frames tile the picture, such as "TILED_FULL".
        photometric: what the samples are.
        frames: number of frames.
        frame_px: (width, height) of a frame.
        matrix_px: (width, height) of the whole picture that the frames are tiles of.
        is_whole: whether the header was read up to its end.
    """

    syntax: str
    image_type: tuple[str, ...]
    series: str
    organisation: str
    photometric: str
    frames: int
    frame_px: tuple[int, int]
    matrix_px: tuple[int, int]
    is_whole: bool


def is_dicom(path: Path) -> bool:
    """Whether the file carries the mark of DICOM; False also where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE + 4)[_PREAMBLE:] == _MAGIC
    except OSError:
        return False


def series_uid(path: Path) -> str | None:
    """Series instance UID of a DICOM file in any transfer syntax, None where it cannot be found."""
    return read_header(path).series or None


def read_header(path: Path) -> DicomHeader:
    """Read what is wanted of a header; damage ends it early, and what came before it counts."""
    state = path.stat()
    return _read_header(path, state.st_mtime_ns, state.st_size)


# A slide is a folder of files, and opening it looks at each: so would opening each of many slides of one folder.
@lru_cache(maxsize=4096)
def _read_header(path: Path, _modified_ns: int, _size_bytes: int) -> DicomHeader:
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    values, is_whole = _elements(head)

    def text(tag: int) -> str:
        value = values.get(tag)
        return (
            printable(value.decode("ascii", errors="replace").strip("\0 "))
            if isinstance(value, bytes)
            else ""
        )

    def number(tag: int) -> int:
        value = values.get(tag)
        if tag == _FRAMES:
            return int(text(tag)) if text(tag).isascii() and text(tag).isdigit() else 0
        order: Literal["big", "little"] = "big" if text(_SYNTAX) == _BIG_ENDIAN else "little"
        return int.from_bytes(value, order) if isinstance(value, bytes) else 0

    return DicomHeader(
        syntax=text(_SYNTAX),
        image_type=tuple(part.strip() for part in text(_IMAGE_TYPE).split("\\") if part.strip()),
        series=text(_SERIES),
        organisation=text(_ORGANISATION),
        photometric=text(_PHOTOMETRIC),
        frames=number(_FRAMES),
        frame_px=(number(_COLUMNS), number(_ROWS)),
        matrix_px=(number(_MATRIX_COLUMNS), number(_MATRIX_ROWS)),
        is_whole=is_whole,
    )


def unreadable() -> tuple[type[Exception], ...]:
    """What pydicom raises on damaged headers, found by flipping bytes of sound ones and cutting them."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (
        InvalidDicomError, BytesLengthException, EOFError, OSError, struct.error, ValueError, LookupError, TypeError,
        AttributeError, OverflowError, NotImplementedError, RecursionError, zlib.error,
    )  # fmt: skip


class _BoundedReader(BufferedReader):
    """A file of which no value is read that is longer than any of a slide's header, whatever length it claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(_MAX_VALUE_BYTES if size is None or size < 0 else min(size, _MAX_VALUE_BYTES))


def read_up_to_pixels(path: Path, tags: list[int]) -> tuple[Dataset, int]:
    """Elements of a header, however long it is, and where the element of the pixels begins.

    Raises:
        Exception: one of `unreadable`.
    """
    from pydicom import dcmread

    with warnings.catch_warnings(action="ignore"), _BoundedReader(FileIO(path)) as file:
        found = dcmread(file, stop_before_pixels=True, specific_tags=tags)
        return found, file.tell()


def describe(header: DicomHeader) -> str:
    """Say in a line what a DICOM file is."""
    from pydicom.config import IGNORE
    from pydicom.uid import UID

    syntax = UID(header.syntax, validation_mode=IGNORE).name if header.syntax else "unnamed"
    width, height = header.frame_px
    parts = [
        f"transfer syntax {syntax}",
        f"ImageType {chr(92).join(header.image_type) or 'absent'}",
        f"{header.frames or 'an unnamed number of'} frame(s) of {width} x {height} px",
    ]
    if all(header.matrix_px):
        parts.append(f"a picture of {header.matrix_px[0]} x {header.matrix_px[1]} px")
    if header.photometric:
        parts.append(header.photometric)
    return f"the DICOM file has {', '.join(parts)}"


def remedy(header: DicomHeader) -> str:
    """Say what to do about a DICOM file that OpenSlide refuses."""
    flavour = header.image_type[2] if len(header.image_type) > 2 else ""
    if not header.is_whole:
        return "its header is damaged or cut short; copy it again"
    if flavour in _GLASS_TYPES:
        return f"it is the {flavour.lower()} of the glass; name the file of the series whose ImageType is {SLIDE_TYPE}"
    problems = []
    if flavour != SLIDE_TYPE:
        problems.append(f"OpenSlide wants {SLIDE_TYPE} as the third value of ImageType")
    elif header.image_type[0] not in _VALUES_1:
        problems.append(f"ImageType begins with {header.image_type[0]}, DICOM knows ORIGINAL and DERIVED")
    problems.append(
        "write it again as a DICOM whole-slide image or as tiled OME-TIFF, with the scanner's software or a converter "
        "such as wsidicomizer or bfconvert"
    )
    return "; ".join(problems)


def _elements(head: bytes) -> tuple[dict[int, Any], bool]:
    """Raw values of the wanted elements, by tag, and whether the header goes on behind the last of them."""
    # It takes a while to import, and most slides are no DICOM.
    from pydicom.dataelem import RawDataElement
    from pydicom.filereader import read_partial

    is_whole = False

    def is_past(tag: int, vr: str | None, length: int) -> bool:
        nonlocal is_whole
        is_whole = is_whole or tag > _MATRIX_ROWS
        return tag > _MATRIX_ROWS

    try:
        plain = _inflated(head)
        with warnings.catch_warnings(action="ignore"):  # what is odd and can be read is no news here
            found = read_partial(
                BytesIO(plain),
                stop_when=is_past,
                defer_size=_LONGEST_VALUE,
                specific_tags=sorted(_WANTED),
            )
            syntax = str(found.file_meta.get("TransferSyntaxUID", ""))
            elements: list[Any] = [found.get_item(tag) for tag in _WANTED if tag in found]
    except unreadable():
        return {}, False
    # Raw, as they are stored: pydicom would check and convert them. One that is cut short says nothing.
    values = {
        int(each.tag): each.value
        for each in elements
        if isinstance(each, RawDataElement) and each.value is not None and len(each.value) == each.length
    }
    values[_SYNTAX] = _DEFLATED if plain is not head else syntax.encode(errors="replace")
    return values, is_whole


def _inflated(head: bytes) -> bytes:
    """The head with what follows the file's own group inflated, up to a limit, where that is deflated.

    pydicom would inflate all of it, whatever it comes to.
    """
    start = _PREAMBLE + len(_MAGIC)
    if head[start : start + 8] != b"\2\0\0\0UL\4\0" or len(head) < start + 12:
        return head
    end = start + 12 + int.from_bytes(head[start + 8 : start + 12], "little")
    if _DEFLATED not in head[start:end]:
        return head
    meta = head[:end].replace(_DEFLATED, _EXPLICIT.ljust(len(_DEFLATED), b"\0"))
    return meta + zlib.decompressobj(-zlib.MAX_WBITS).decompress(head[end:], _HEADER_BYTES)

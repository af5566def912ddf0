"""A look at vendors' own files before OpenSlide opens them: it ends the process on some claims, or fills its memory.

Tried with OpenSlide 4.0.1: numbers in the texts of MIRAX and VMS and in the directory of CZI go into allocations as
they are. What is not understood here is left to OpenSlide.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from wsi_vmamba.errors import UnreadableSlideError

#: What OpenSlide reads of such texts, at most.
_MAX_TEXT_BYTES, _MAX_VMS_BYTES = 1 << 20, 64 << 10
#: Photos on a glass in MIRAX, whose grid is mostly empty, and in CZI, which lists those that are; 60,000 are many.
_MAX_PHOTOS, _MAX_FRAMES = 1 << 23, 1 << 20
#: Levels, layers and files of MIRAX; dozens are many.
_MAX_LIST = 1 << 16
#: Pixels of a photo, which is decoded whole: 512 MiB.
_MAX_PHOTO_PX = 1 << 27
#: 26 x 76 mm at 0.1 um are two thirds of it.
_MAX_PX = 1 << 38
_CZI_HEAD, _CZI_DIRECTORY = b"ZISRAWFILE\0", b"ZISRAWDIRECTORY"
_CZI_ENTRY, _CZI_DIMENSION = 32, 20


def check_limits(path: str | Path) -> None:
    """Refuse claims that no slide makes.

    Raises:
        UnreadableSlideError: naming the claim.
    """
    path = Path(path)
    slidedat = path.with_suffix("") / "Slidedat.ini"
    try:
        head = _beginning(path, 64)
        if path.suffix == ".mrxs" and slidedat.is_file():
            _check_mirax(path, _text(slidedat))
        elif head.startswith(_CZI_HEAD):
            _check_czi(path)
        elif path.stat().st_size <= _MAX_VMS_BYTES:
            _check_vms(path, _text(path))
    except FileNotFoundError:
        return
    except OSError as error:
        if isinstance(error, UnreadableSlideError):
            raise
        raise UnreadableSlideError(path, f"cannot read the file ({error.strerror})") from error


def check_size(path: str | Path, *, width_px: int, height_px: int) -> None:
    """Refuse pictures larger than any glass.

    Raises:
        UnreadableSlideError: naming the claim.
    """
    if width_px <= 0 or height_px <= 0 or width_px * height_px > _MAX_PX:
        raise _refusal(path, f"{width_px} x {height_px} px")


def _check_mirax(path: Path, text: str) -> None:
    def most(key: str) -> int:
        return max(_numbers(text, key), default=1)

    across, down, parts = most("IMAGENUMBER_X"), most("IMAGENUMBER_Y"), most("CameraImageDivisionsPerSide")
    if across * down > _MAX_PHOTOS or not 0 < parts <= min(across, down):
        raise _refusal(path, f"{across} x {down} images, {parts} x {parts} to a photo")
    lists = most(r"(?:NON)?HIER_(?:\d+_)?COUNT|FILE_COUNT")
    if lists > _MAX_LIST:
        raise _refusal(path, f"a list of {lists} parts")
    width, height = most("DIGITIZER_WIDTH"), most("DIGITIZER_HEIGHT")
    if width * height > _MAX_PHOTO_PX:
        raise _refusal(path, f"images of {width} x {height} px")


def _check_vms(path: Path, text: str) -> None:
    if "Virtual Microscope Specimen]" not in text:
        return
    columns, rows = (max(_numbers(text, key), default=1) for key in ("NoJpegColumns", "NoJpegRows"))
    named = len(re.findall(r"^ImageFile", text, re.MULTILINE))
    if columns * rows > max(1, named):
        raise _refusal(path, f"{columns} x {rows} JPEG files and names {named}")


def _check_czi(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(84)
        (at,) = struct.unpack("<q", file.read(8).ljust(8, b"\0"))
        length = path.stat().st_size - at
        if at <= 0 or length < 160:
            return
        file.seek(at)
        head = file.read(160)
        if not head.startswith(_CZI_DIRECTORY):
            return
        (frames,) = struct.unpack_from("<i", head, 32)
        if not 0 < frames <= _MAX_FRAMES:
            raise _refusal(path, f"{frames} frames")
        entries = file.read(min(length, frames * (_CZI_ENTRY + 10 * _CZI_DIMENSION)))
    for sizes in _czi_frames(entries, frames):
        (shown_w, width), (shown_h, height) = (sizes.get(axis, (0, 0)) for axis in (b"X", b"Y"))
        if not (0 < width <= shown_w and 0 < height <= shown_h and width * height <= _MAX_PHOTO_PX):
            raise _refusal(path, f"a frame of {width} x {height} px on {shown_w} x {shown_h} px")


def _czi_frames(entries: bytes, frames: int) -> Iterator[dict[bytes, tuple[int, int]]]:
    """Of each frame and each axis the size at level 0 and the one stored. Ends where the bytes do."""
    place = 0
    for _ in range(frames):
        if place + _CZI_ENTRY > len(entries):
            return
        (axes,) = struct.unpack_from("<i", entries, place + _CZI_ENTRY - 4)
        place += _CZI_ENTRY
        if not 0 < axes <= 10 or place + axes * _CZI_DIMENSION > len(entries):
            return
        found = struct.iter_unpack("<4siifi", entries[place : place + axes * _CZI_DIMENSION])
        yield {name.rstrip(b"\0"): (size, stored) for name, _, size, _, stored in found}
        place += axes * _CZI_DIMENSION


def _numbers(text: str, key: str) -> list[int]:
    return [
        int(number) for number in re.findall(rf"^(?:{key})[ \t]*=[ \t]*(-?\d{{1,30}})", text, re.MULTILINE)
    ]


def _beginning(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def _text(path: Path) -> str:
    return _beginning(path, _MAX_TEXT_BYTES).decode("utf-8-sig", errors="replace")


def _refusal(path: str | Path, claim: str) -> UnreadableSlideError:
    return UnreadableSlideError(path, f"it claims {claim}; it is damaged or made to exhaust memory")

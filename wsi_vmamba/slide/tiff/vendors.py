"""Vendors that put something else into a TIFF than the picture its directory describes; OpenSlide knows them.

Read as it stands, each gives pixels at the wrong place without an error, so the signs are taken widely: everything
that OpenSlide takes for that vendor, and a little more. The arrangements are described at openslide.org/formats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.base import NeedsOtherReaderError, VendorLayoutError

_XMP = 700
_NDPI_FLAG = 65420
_MAX_PAGES = 256
#: A glass of 26 x 76 mm in frames of 1024 px of 0.1 um has 200,000.
_MAX_FRAMES = 1 << 22


def check_vendor(path: str, page: tifffile.TiffPage) -> None:
    """Leave layouts whose tiles overlap, carry offsets, or hide sizes in XML to OpenSlide.

    Call it for each page before the next is looked at: tifffile looks into the JPEGs of an NDPI.

    Raises:
        VendorLayoutError: naming the vendor.
        UnreadableSlideError: a BIF claims more frames than any slide has; OpenSlide would make a table for them.
    """
    software, description = page.software, page.description
    signs = {
        "Hamamatsu NDPI": _NDPI_FLAG in page.tags,
        "Leica SCN": page.is_scn or "leica-microsystems.com/scn/" in description,
        "Ventana BIF": _is_ventana(page),
        "Philips TIFF": page.is_philips or (software.startswith("Philips") and "DPUfsImport" in description),
        "Trestle": software.startswith("MedScan"),
    }
    if signs["Ventana BIF"]:
        _check_frames(path, page.parent.pages)
    for name, found in signs.items():
        if found:
            raise VendorLayoutError(path, f"{name} is read through OpenSlide")


def check_missing_tiles(path: str, byte_counts: Sequence[NDArray[np.int64]]) -> None:
    """Leave an SVS with holes in its smaller levels to OpenSlide, which fills them from the level before.

    Some scanners lose tiles there; white in their place would hide tissue from the search for it.

    Args:
        path: for the message.
        byte_counts: bytes of each tile, level by level.

    Raises:
        NeedsOtherReaderError: there are holes.
    """
    for level, counts in enumerate(byte_counts):
        if level and not counts.all():
            raise NeedsOtherReaderError(path, f"level {level} of the SVS has tiles that were never stored")


def _is_ventana(page: tifffile.TiffPage) -> bool:
    packet = _packet(page)
    return b"<iScan" in packet or b"<EncodeInfo" in packet


def _check_frames(path: str, pages: tifffile.TiffPages) -> None:
    for number in range(min(len(pages), _MAX_PAGES)):
        packet = _packet(pages[number])
        rows, columns = (
            max(
                (int(found) for found in re.findall(rb"Num%s\s*=\s*[\"'](\d{1,30})" % side, packet)),
                default=0,
            )
            for side in (b"Rows", b"Cols")
        )
        areas = packet.count(b"<ImageInfo")
        if areas * rows * columns > _MAX_FRAMES:
            raise UnreadableSlideError(
                path,
                f"the BIF claims {areas} area(s) of up to {columns} x {rows} frames; it is damaged or made to exhaust "
                "memory",
            )


def _packet(page: tifffile.TiffPage) -> bytes:
    """The XMP text of a page; empty where it has none."""
    tag = page.tags.get(_XMP)
    if tag is None:
        return b""
    return tag.value if isinstance(tag.value, bytes) else str(tag.value).encode()

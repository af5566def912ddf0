"""The resolution that `vips dzsave` leaves among the tiles, in `vips-properties.xml`.

It holds what libvips knew of the picture it cut up: ``xres`` and ``yres`` in pixels per millimetre, and, where it was
read by OpenSlide, OpenSlide's properties and the level that was read.
"""

from __future__ import annotations

from collections.abc import Mapping

import defusedxml
from defusedxml import ElementTree

from wsi_vmamba.geometry import MPP_RANGE
from wsi_vmamba.slide.canvas import RecordedMpp
from wsi_vmamba.slide.lengths import read_number

#: Its name in the folder of tiles.
PROPERTIES = "vips-properties.xml"
#: It may hold a colour profile and a small picture, as text.
MAX_PROPERTIES_BYTES = 16 << 20


def recorded_mpp(text: bytes, *, width_px: int, height_px: int) -> RecordedMpp | None:
    """Micrometres per pixel of a picture of that size; None where the properties do not tell.

    OpenSlide's count where the picture is the level that they describe. One that was cut or scaled afterwards is left
    without: libvips does not change ``xres`` when it scales. Where OpenSlide did not read the picture, libvips' own
    numbers count; they are 1 px/mm, or a printer's, where nothing was known.
    """
    try:
        found = _properties(text)
    except (ElementTree.ParseError, defusedxml.DefusedXmlException, ValueError, LookupError):
        return None  # tiles do not need it, and a resolution is asked for
    if "openslide.mpp-x" in found:
        return _of_openslide(found, width_px, height_px)
    return _of_vips(found)


def _properties(text: bytes) -> dict[str, str]:
    root = ElementTree.fromstring(text)
    return {
        each.findtext("{*}name", ""): each.findtext("{*}value", "")
        for each in root.iterfind(".//{*}property")
    }


def _of_openslide(found: Mapping[str, str], width_px: int, height_px: int) -> RecordedMpp | None:
    level = f"openslide.level[{found.get('slide-level', '0')}]"
    if (found.get(f"{level}.width"), found.get(f"{level}.height")) != (str(width_px), str(height_px)):
        return None
    names = ("openslide.mpp-x", "openslide.mpp-y", f"{level}.downsample")
    x, y, downsample = (read_number(found.get(name, "")) for name in names)
    if x is None or y is None or downsample is None:
        return None
    return RecordedMpp(x=x * downsample, y=y * downsample, source=f"openslide.mpp-x in {PROPERTIES}")


def _of_vips(found: Mapping[str, str]) -> RecordedMpp | None:
    per_mm = [read_number(found.get(name, "")) for name in ("xres", "yres")]
    um = [1000 / number for number in per_mm if number]
    low, high = MPP_RANGE
    if len(um) != len(per_mm) or not all(low <= each <= high for each in um):
        return None
    return RecordedMpp(x=um[0], y=um[1], source=f"xres in {PROPERTIES}")

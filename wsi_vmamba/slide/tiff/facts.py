"""What a TIFF says about itself beside its pixels: writer, resolution, and whether it is one picture at all."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tifffile

from wsi_vmamba.errors import UnsupportedSlideError
from wsi_vmamba.slide.aperio import aperio_contradiction, aperio_field, aperio_mpp
from wsi_vmamba.slide.canvas import RecordedMpp
from wsi_vmamba.slide.channels import check_channels
from wsi_vmamba.slide.lengths import LengthError, length_um
from wsi_vmamba.slide.ome_xml import OmeImage
from wsi_vmamba.slide.resolution import MPP_NOTE, MPP_PROBLEM, disagreement

#: Micrometres per TIFF resolution unit, inch and centimetre; unit 1 means "none".
_UM_PER_RESOLUTION_UNIT = {2: 25_400.0, 3: 10_000.0}


@dataclass(frozen=True, kw_only=True)
class TiffFacts:
    """Resolution of level 0, and texts worth showing."""

    mpp: RecordedMpp | None
    properties: Mapping[str, str]


def check_one_plane(path: str, base: tifffile.TiffPage, pages: Sequence[tifffile.TiffPage]) -> None:
    """Refuse grey pages of one size, as fluorescence scanners write: taking one for the slide would be a guess.

    Raises:
        UnreadableSlideError: there are several.
    """
    size_px = (base.imagewidth, base.imagelength)
    alike = [
        page for page in pages if (page.imagewidth, page.imagelength) == size_px and page.samplesperpixel == 1
    ]
    if base.samplesperpixel == 1 and len(alike) > 1:
        raise UnsupportedSlideError(
            path,
            f"expected one RGB or grey picture, the TIFF has {len(alike)} grey pages of {size_px[0]} x {size_px[1]} "
            "px, channels or focal planes; export one picture as RGB",
        )


def read_facts(
    path: str, tif: tifffile.TiffFile, base: tifffile.TiffPage, *, ome: OmeImage | None
) -> TiffFacts:
    """Read the texts and the resolution of the page that is level 0.

    Args:
        path: for messages.
        tif: the file.
        base: the page.
        ome: the Image element of that page, where the file is OME-TIFF.

    Raises:
        UnsupportedSlideError: the OME-XML describes a stack and not one picture, or channels that are not its colours.
    """
    properties = {"format": _format_name(tif), "description": base.description, "software": base.software}
    if tif.is_svs:
        properties |= {"vendor": "aperio", "objective_power": aperio_field(base.description, "AppMag")}
    elif ome is not None:
        check_ome_planes(path, ome, base)
    mpp, problem = None, ""
    try:
        mpp = _recorded_mpp(tif, base, ome)
        problem = _contradiction(tif, base, ome)
    except LengthError as error:
        problem = str(error)
    properties[MPP_PROBLEM] = problem
    properties[MPP_NOTE] = disagreement(mpp, readable_tag_mpp(base))
    return TiffFacts(mpp=mpp, properties={key: text for key, text in properties.items() if text})


def _recorded_mpp(
    tif: tifffile.TiffFile, base: tifffile.TiffPage, ome: OmeImage | None
) -> RecordedMpp | None:
    if tif.is_svs:
        return aperio_mpp(base.description)
    if ome is not None and "PhysicalSizeX" in ome.pixels:
        return ome.mpp()
    return tag_mpp(base)


def _contradiction(tif: tifffile.TiffFile, base: tifffile.TiffPage, ome: OmeImage | None) -> str:
    """How a text of the file contradicts the size of the page, if it does: its resolution may be of before."""
    width, height = base.imagewidth, base.imagelength
    if tif.is_svs:
        return aperio_contradiction(base.description, width_px=width, height_px=height)
    size = ome.size_px() if ome is not None and "PhysicalSizeX" in ome.pixels else None
    if size is None or size == (width, height):
        return ""
    return (
        f"the OME-XML is of a picture of {size[0]} x {size[1]} px, the page has {width} x {height}: it was cut out or "
        "resized, and its PhysicalSizeX may be of before"
    )


def _format_name(tif: tifffile.TiffFile) -> str:
    name = "Aperio SVS" if tif.is_svs else "OME-TIFF" if tif.is_ome else "TIFF"
    return f"{name} (BigTIFF)" if tif.is_bigtiff else name


def check_ome_planes(path: str, ome: OmeImage, base: tifffile.TiffPage) -> None:
    """Refuse times and channels that are not colours: taking any of them for the slide would be a silent guess.

    Raises:
        UnsupportedSlideError: it is one.
    """
    sizes = {axis: int(ome.pixels.get(f"Size{axis}", 1)) for axis in "ZTC"}
    # Focal planes whose pages are known are scenes of their own.
    if sizes["Z"] > len(ome.focal_pages) or sizes["T"] > 1 or sizes["C"] > max(1, base.samplesperpixel):
        raise UnsupportedSlideError(
            path,
            f"expected one RGB picture, the OME-TIFF has {sizes['C']} channels in pages of "
            f"{base.samplesperpixel} samples, {sizes['Z']} focal planes and {sizes['T']} times; export one plane "
            "as RGB, or the focal planes as RGB pages",
        )
    check_channels(path, ome.channels, samples=base.samplesperpixel)


def tag_mpp(page: tifffile.TiffPage) -> RecordedMpp | None:
    """Micrometres per pixel by a page's resolution tags.

    Raises:
        LengthError: they are in a unit of ImageJ's that is not known.
    """
    per_unit = [_tag(page, f"{axis}Resolution", (0, 1)) for axis in "XY"]
    if not all(numerator and denominator for numerator, denominator in per_unit):
        return None
    number = int(_tag(page, "ResolutionUnit", 2))
    if number in _UM_PER_RESOLUTION_UNIT:
        units_um: list[float | None] = [_UM_PER_RESOLUTION_UNIT[number]] * 2
        source = "TIFF resolution tags"
    else:
        units_um, source = _imagej_units_um(page), "TIFF resolution tags in ImageJ's unit"
    if units_um[0] is None or units_um[1] is None:
        return None
    x, y = (
        unit * denominator / numerator
        for unit, (numerator, denominator) in zip(units_um, per_unit, strict=True)
    )
    return _mpp(x, y, source)


def readable_tag_mpp(page: tifffile.TiffPage) -> RecordedMpp | None:
    """The same; None also where they cannot be read. It is for comparing, whoever uses them says what is wrong."""
    try:
        return tag_mpp(page)
    except LengthError:
        return None


def _imagej_units_um(page: tifffile.TiffPage) -> list[float | None]:
    """ImageJ counts pixels per unit of its own in the tags and names the unit, of x and where it differs of y, in text.

    Raises:
        LengthError: the unit is not known.
    """
    if not page.is_imagej:
        return [None, None]
    named = dict(line.partition("=")[::2] for line in page.description.splitlines() if "=" in line)
    x = _unescaped(named.get("unit", ""))
    return [length_um(1.0, unit, what="ImageJ's pixel") for unit in (x, _unescaped(named.get("yunit", x)))]


def _unescaped(unit: str) -> str:
    r"""ImageJ writes letters beyond ASCII as \u00B5."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), unit)


def _tag(page: tifffile.TiffPage, name: str, default: Any) -> Any:
    tag = page.tags.get(name)
    return default if tag is None else tag.value


def _mpp(x_um: float, y_um: float, source: str) -> RecordedMpp | None:
    """None where what the file says is not a length."""
    if not (0 < x_um < math.inf and 0 < y_um < math.inf):
        return None
    return RecordedMpp(x=x_um, y=y_um, source=source)

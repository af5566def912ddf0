"""What a TIFF says about itself beside its pixels: writer, resolution, and whether it is one picture at all."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import defusedxml
import tifffile
from defusedxml import ElementTree

from wsi_vmamba.errors import UnreadableSlideError, UnsupportedSlideError
from wsi_vmamba.slide.canvas import RecordedMpp

_UM_PER_UNIT = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
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


def read_facts(path: str, tif: tifffile.TiffFile, base: tifffile.TiffPage) -> TiffFacts:
    """Read the texts and the resolution of the page that is level 0.

    Raises:
        UnreadableSlideError: the OME-XML is damaged, or describes a stack and not one picture.
    """
    properties = {"format": _format_name(tif), "description": base.description, "software": base.software}
    if tif.is_svs:
        power = re.search(r"\bAppMag\s*=\s*([\d.]+)", base.description)
        properties |= {"vendor": "aperio", "objective_power": power[1] if power else ""}
        mpp = _aperio_mpp(base.description)
    else:
        ome = _ome_pixels(path, tif)
        _check_ome_planes(path, ome, base)
        mpp = _ome_mpp(ome) if "PhysicalSizeX" in ome else _tag_mpp(base)
    return TiffFacts(mpp=mpp, properties={key: text for key, text in properties.items() if text})


def _format_name(tif: tifffile.TiffFile) -> str:
    name = "Aperio SVS" if tif.is_svs else "OME-TIFF" if tif.is_ome else "TIFF"
    return f"{name} (BigTIFF)" if tif.is_bigtiff else name


def _aperio_mpp(description: str) -> RecordedMpp | None:
    found = re.search(r"\bMPP\s*=\s*(\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)", description)
    return _mpp(float(found[1]), float(found[1]), "Aperio's MPP") if found else None


def _ome_pixels(path: str, tif: tifffile.TiffFile) -> Mapping[str, str]:
    """Attributes of the first picture's Pixels element; empty for what is not OME-TIFF."""
    if not tif.is_ome:
        return {}
    try:
        pixels = ElementTree.fromstring(tif.ome_metadata).find(".//{*}Image/{*}Pixels")
    except (ElementTree.ParseError, defusedxml.DefusedXmlException) as error:
        raise UnreadableSlideError(path, f"the OME-XML is damaged ({error})") from error
    return {} if pixels is None else dict(pixels.attrib)


def _check_ome_planes(path: str, ome: Mapping[str, str], base: tifffile.TiffPage) -> None:
    """Refuse stacks: taking their first plane for the slide would be a silent guess."""
    sizes = {axis: int(ome.get(f"Size{axis}", 1)) for axis in "ZTC"}
    if sizes["Z"] > 1 or sizes["T"] > 1 or sizes["C"] > max(1, base.samplesperpixel):
        raise UnsupportedSlideError(
            path,
            f"expected one RGB picture, the OME-TIFF has {sizes['C']} channels in pages of "
            f"{base.samplesperpixel} samples, {sizes['Z']} focal planes and {sizes['T']} times; export one plane "
            "as RGB",
        )


def _ome_mpp(ome: Mapping[str, str]) -> RecordedMpp | None:
    um = [_UM_PER_UNIT.get(ome.get(f"PhysicalSize{axis}Unit", "µm"), math.nan) for axis in "XY"]
    x, y = ome["PhysicalSizeX"], ome.get("PhysicalSizeY", ome["PhysicalSizeX"])
    return _mpp(float(x) * um[0], float(y) * um[1], "OME PhysicalSizeX")


def _tag_mpp(page: tifffile.TiffPage) -> RecordedMpp | None:
    unit = _UM_PER_RESOLUTION_UNIT.get(int(_tag(page, "ResolutionUnit", 2)))
    per_unit = [_tag(page, f"{axis}Resolution", (0, 1)) for axis in "XY"]
    if unit is None or not all(numerator and denominator for numerator, denominator in per_unit):
        return None
    x, y = (unit * denominator / numerator for numerator, denominator in per_unit)
    return _mpp(x, y, "TIFF resolution tags")


def _tag(page: tifffile.TiffPage, name: str, default: Any) -> Any:
    tag = page.tags.get(name)
    return default if tag is None else tag.value


def _mpp(x_um: float, y_um: float, source: str) -> RecordedMpp | None:
    """None where what the file says is not a length."""
    if not (0 < x_um < math.inf and 0 < y_um < math.inf):
        return None
    return RecordedMpp(x=x_um, y=y_um, source=source)

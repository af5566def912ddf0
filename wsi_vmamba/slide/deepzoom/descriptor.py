"""What a Deep Zoom descriptor says, in XML or JSON, and the arithmetic of levels and tiles that follows from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

import defusedxml
from defusedxml import ElementTree

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.location import Location

#: Formats of tiles, as descriptors name them; the name is the ending of the tiles' files.
FORMATS = frozenset({"jpg", "jpeg", "png", "webp"})
#: Descriptors are a few hundred bytes; those that list what is covered may be longer.
MAX_DESCRIPTOR_BYTES = 1 << 20
#: 26 x 76 mm at 0.1 um are two thirds of it.
_MAX_PX = 1 << 38
#: A tile is decoded whole.
_MAX_TILE_PX = 8192


@dataclass(frozen=True, kw_only=True)
class DisplayRect:
    """A part of the picture of which there are tiles, in level-0 pixels, from one Deep Zoom level to another."""

    x_l0: int
    y_l0: int
    width_l0: int
    height_l0: int
    min_level: int
    max_level: int


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """A descriptor, checked.

    Attributes:
        width_px: width of the whole picture.
        height_px: its height.
        tile_px: side of the tiles' grid.
        overlap_px: pixels that a tile has of each of its neighbours.
        suffix: ending of the tiles' files, without a dot.
        covered: the parts of which there are tiles; empty where that is all of it.
    """

    width_px: int
    height_px: int
    tile_px: int
    overlap_px: int
    suffix: str
    covered: tuple[DisplayRect, ...] = ()

    @property
    def deepest(self) -> int:
        """Number of the finest level as Deep Zoom counts them: level 0 is one pixel, each next one twice as large."""
        return (max(self.width_px, self.height_px) - 1).bit_length()

    def level_size_px(self, number: int) -> tuple[int, int]:
        """(width, height) of a level by Deep Zoom's number: halved from the finest, rounded up."""
        factor = 1 << (self.deepest - number)
        return -(-self.width_px // factor), -(-self.height_px // factor)

    def tile_box_px(self, number: int, column: int, row: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the picture of one tile on its level, overlap included."""
        width, height = self.level_size_px(number)
        left, top = column * self.tile_px, row * self.tile_px
        return (
            max(0, left - self.overlap_px),
            max(0, top - self.overlap_px),
            min(width, left + self.tile_px + self.overlap_px),
            min(height, top + self.tile_px + self.overlap_px),
        )

    def is_covered(self, number: int, column: int, row: int) -> bool:
        """Whether there should be a tile at a place: it touches a part that is covered, or everything is."""
        if not self.covered:
            return True
        factor = 1 << (self.deepest - number)
        left, top = column * self.tile_px * factor, row * self.tile_px * factor
        right, bottom = left + self.tile_px * factor, top + self.tile_px * factor
        return any(
            rect.min_level <= number <= rect.max_level
            and left < rect.x_l0 + rect.width_l0
            and right > rect.x_l0
            and top < rect.y_l0 + rect.height_l0
            and bottom > rect.y_l0
            for rect in self.covered
        )


def read_descriptor(path: Location, text: bytes) -> Descriptor:
    """Read a descriptor, XML (of 2008 or 2009) or JSON.

    Raises:
        UnreadableSlideError: damaged, not Deep Zoom, or it claims what no slide has.
    """
    if len(text) > MAX_DESCRIPTOR_BYTES:
        raise UnreadableSlideError(path, f"the descriptor is longer than {MAX_DESCRIPTOR_BYTES >> 20} MiB")
    plain = text.removeprefix(b"\xef\xbb\xbf").lstrip()
    fields, size, rects = _from_json(path, plain) if plain.startswith(b"{") else _from_xml(path, plain)
    found = Descriptor(
        width_px=_number(path, size, "Width"),
        height_px=_number(path, size, "Height"),
        tile_px=_number(path, fields, "TileSize"),
        overlap_px=_number(path, fields, "Overlap", default=0),
        suffix=str(fields.get("Format", "")),
        covered=tuple(_display_rect(path, rect) for rect in rects),
    )
    _check(path, found)
    return found


#: Fields of the picture, of its size, and of each part that is covered.
_Fields = tuple[Mapping[str, Any], Mapping[str, Any], list[Mapping[str, Any]]]


def _from_xml(path: Location, text: bytes) -> _Fields:
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, defusedxml.DefusedXmlException, ValueError, LookupError) as error:
        raise UnreadableSlideError(path, f"the Deep Zoom descriptor is damaged ({error})") from error
    kind = root.tag.rpartition("}")[2]
    if kind == "Collection":
        raise UnreadableSlideError(
            path, "expected one Deep Zoom picture, found a collection of many; name the .dzi of one of them"
        )
    size = root.find("./{*}Size")
    if kind != "Image" or size is None:
        raise UnreadableSlideError(
            path, f"expected a Deep Zoom descriptor (Image with a Size), found the XML element {kind!r}"
        )
    rects = [_xml_rect(each) for each in root.findall("./{*}DisplayRects/{*}DisplayRect")]
    return root.attrib, size.attrib, rects


def _xml_rect(element: Element) -> Mapping[str, Any]:
    rect = element.find("./{*}Rect")
    return {**element.attrib, **(rect.attrib if rect is not None else {})}


def _from_json(path: Location, text: bytes) -> _Fields:
    try:
        image = json.loads(text)["Image"]
        rects = image.get("DisplayRect") or []
        rects = [{**each, **each.get("Rect", {})} for each in (rects if isinstance(rects, list) else [rects])]
        size = image["Size"]
        if not isinstance(size, Mapping):
            raise TypeError("Size is no object")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableSlideError(path, f"the Deep Zoom descriptor is damaged ({error!r})") from error
    return image, size, rects


def _number(path: Location, fields: Mapping[str, Any], name: str, *, default: int | None = None) -> int:
    """A whole number, of XML or JSON."""
    text = str(fields.get(name, "" if default is None else default)).strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise UnreadableSlideError(
            path, f"the Deep Zoom descriptor has {name}={text[:40]!r}, expected a whole number"
        )
    return int(text)


def _display_rect(path: Location, rect: Mapping[str, Any]) -> DisplayRect:
    values = {
        name: _number(path, rect, name) for name in ("X", "Y", "Width", "Height", "MinLevel", "MaxLevel")
    }
    return DisplayRect(
        x_l0=values["X"], y_l0=values["Y"], width_l0=values["Width"], height_l0=values["Height"],
        min_level=values["MinLevel"], max_level=values["MaxLevel"],
    )  # fmt: skip


def _check(path: Location, found: Descriptor) -> None:
    """Refuse what no slide has.

    Raises:
        UnreadableSlideError: naming the claim.
    """
    if found.suffix.lower() not in FORMATS:
        raise UnreadableSlideError(
            path, f"the tiles are {found.suffix[:40]!r}, expected one of {', '.join(sorted(FORMATS))}"
        )
    if not 0 < found.width_px * found.height_px <= _MAX_PX:
        raise UnreadableSlideError(
            path,
            f"it claims {found.width_px} x {found.height_px} px, expected some and no more than any scanner makes; it "
            "is damaged or made to exhaust memory",
        )
    if not 0 < found.tile_px + 2 * found.overlap_px <= _MAX_TILE_PX or not found.overlap_px < found.tile_px:
        raise UnreadableSlideError(
            path,
            f"it claims tiles of {found.tile_px} px that overlap by {found.overlap_px}, expected at most "
            f"{_MAX_TILE_PX} px and less overlap than tile",
        )

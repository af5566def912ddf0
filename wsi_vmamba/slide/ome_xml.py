"""The images that OME-XML describes: names, sizes, resolutions and where in a TIFF each begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

import defusedxml
from defusedxml import ElementTree

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.canvas import RecordedMpp
from wsi_vmamba.slide.channels import Channel, signed_rgba
from wsi_vmamba.slide.lengths import length_um

#: A focal stack has a dozen planes; more are refused.
_MOST_PLANES = 256


@dataclass(frozen=True, kw_only=True)
class OmeImage:
    """One Image element.

    Attributes:
        number: its place in the XML.
        name: as recorded.
        pixels: attributes of its Pixels element.
        page: number of the page its first plane is; None where its planes are in other files.
        focal_pages: numbers of the pages of its focal planes, the first plane first; one number without a stack, None
            for a plane whose page is not said.
        elsewhere: name of the file its planes are in, where that is another one and named.
        channels: as described, in the file's order.
    """

    number: int
    name: str
    pixels: Mapping[str, str]
    page: int | None
    elsewhere: str = ""
    channels: tuple[Channel, ...] = ()
    focal_pages: tuple[int | None, ...] = ()

    def mpp(self) -> RecordedMpp | None:
        """Micrometres per pixel that this image records.

        Raises:
            LengthError: they cannot be read.
        """
        x = self.pixels.get("PhysicalSizeX", "")
        sides = {"X": x, "Y": self.pixels.get("PhysicalSizeY", x)}
        um = [
            length_um(
                text,
                self.pixels.get(f"PhysicalSize{axis}Unit", "µm"),
                what=f"the OME-XML's PhysicalSize{axis}",
            )
            for axis, text in sides.items()
        ]
        if um[0] is None or um[1] is None:
            return None
        return RecordedMpp(x=um[0], y=um[1], source="OME PhysicalSizeX")

    def size_px(self) -> tuple[int, int] | None:
        """(width, height) as the XML has it; None where it has none."""
        sides = [self.pixels.get(f"Size{axis}", "") for axis in "XY"]
        return (int(sides[0]), int(sides[1])) if all(side.isdigit() for side in sides) else None


def read_ome_images(path: str, xml: str | bytes, *, file_name: str = "") -> list[OmeImage]:
    """Read the images of an OME-XML text.

    Args:
        path: of the slide, for messages.
        xml: the text.
        file_name: of the TIFF that the text is in; planes of other files are not in it.

    Raises:
        UnreadableSlideError: the XML is damaged.
    """
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, defusedxml.DefusedXmlException) as error:
        raise UnreadableSlideError(path, f"the OME-XML is damaged ({error})") from error
    uuids = {_text(uuid) for uuid in root.findall(".//{*}TiffData/{*}UUID")}
    # A file that is alone may go without a UUID of its own.
    own = root.get("UUID") or (next(iter(uuids)) if len(uuids) == 1 else None)
    images = root.findall("./{*}Image") or root.findall(".//{*}Image")
    return [_image(number, image, own, file_name) for number, image in enumerate(images)]


def _image(number: int, image: Element, own: str | None, file_name: str) -> OmeImage:
    pixels = image.find("./{*}Pixels")
    found: Any = [] if pixels is None else pixels.findall("./{*}TiffData")
    page: int | None = 0 if not found else None
    elsewhere = ""
    for data in found:
        uuid = data.find("./{*}UUID")
        if uuid is None or _is_here(data, own, file_name):
            page = int(data.get("IFD", 0))
            break
        elsewhere = elsewhere or uuid.get("FileName", "")
    here = [data for data in found if _is_here(data, own, file_name)]
    return OmeImage(
        number=number,
        name=image.get("Name", ""),
        pixels={} if pixels is None else dict(pixels.attrib),
        page=page,
        elsewhere=elsewhere,
        channels=() if pixels is None else tuple(map(_channel, pixels.findall("./{*}Channel"))),
        focal_pages=(page,) if pixels is None else _focal_pages(pixels, here, page),
    )


def _is_here(data: Element, own: str | None, file_name: str) -> bool:
    """Whether a TiffData speaks of pages of this file."""
    uuid = data.find("./{*}UUID")
    return uuid is None or _text(uuid) == own or bool(file_name and uuid.get("FileName") == file_name)


def _focal_pages(pixels: Element, here: list[Element], first: int | None) -> tuple[int | None, ...]:
    """The page of each focal plane, of a picture with one plane a depth and nothing else; of others the first page.

    Without a number of planes a TiffData that names its page is of that one, and one that does not of all.
    """
    text = pixels.get("SizeZ", "1")
    depth = int(text) if text.isascii() and text.isdigit() else 1
    if (
        not 1 < depth <= _MOST_PLANES
        or pixels.get("SizeT", "1") != "1"
        or len(pixels.findall("./{*}Channel")) > 1
    ):
        return (first,)
    pages: dict[int, int] = {}
    for data in here or ([] if pixels.find("./{*}TiffData") is not None else [pixels]):
        start, page = int(data.get("FirstZ", 0)), int(data.get("IFD", 0))
        count = int(data.get("PlaneCount", 1 if "IFD" in data.keys() else depth))  # noqa: SIM118
        for index in range(min(count, depth)):
            pages[start + index] = page + index
    return tuple(pages.get(plane) for plane in range(depth))


def _channel(element: Element) -> Channel:
    return Channel(
        name=" ".join(filter(None, (element.get("Name", ""), element.get("Fluor", "")))),
        rgb=signed_rgba(element.get("Color", "")),
    )


def _text(element: Element) -> str:
    return (element.text or "").strip()

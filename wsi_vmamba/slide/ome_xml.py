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


@dataclass(frozen=True, kw_only=True)
class OmeImage:
    """One Image element.

    Attributes:
        number: its place in the XML.
        name: as recorded.
        pixels: attributes of its Pixels element.
        page: number of the page its first plane is; None where its planes are in other files.
        elsewhere: name of the file its planes are in, where that is another one and named.
        channels: as described, in the file's order.
    """

    number: int
    name: str
    pixels: Mapping[str, str]
    page: int | None
    elsewhere: str = ""
    channels: tuple[Channel, ...] = ()

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
        if uuid is None or _text(uuid) == own or (file_name and uuid.get("FileName") == file_name):
            page = int(data.get("IFD", 0))
            break
        elsewhere = elsewhere or uuid.get("FileName", "")
    return OmeImage(
        number=number,
        name=image.get("Name", ""),
        pixels={} if pixels is None else dict(pixels.attrib),
        page=page,
        elsewhere=elsewhere,
        channels=() if pixels is None else tuple(map(_channel, pixels.findall("./{*}Channel"))),
    )


def _channel(element: Element) -> Channel:
    return Channel(
        name=" ".join(filter(None, (element.get("Name", ""), element.get("Fluor", "")))),
        rgb=signed_rgba(element.get("Color", "")),
    )


def _text(element: Element) -> str:
    return (element.text or "").strip()

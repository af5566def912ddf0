"""What the text of an Aperio SVS says: resolution, magnification, and the size it believes the picture to have."""

from __future__ import annotations

import re

from wsi_vmamba.slide.canvas import RecordedMpp
from wsi_vmamba.slide.lengths import LengthError, text_um

_SIZE = r"(\d+)\s*x\s*(\d+)"
#: The whole scan, the part of it that the picture is (with a blank or, from newer scanners, a comma before its size),
#: tiles, and the size it was brought to.
_GEOMETRY = re.compile(
    rf"{_SIZE}\s*(?:\[\s*\d+\s*,\s*\d+[\s,]+{_SIZE}\s*\])?\s*(?:\(\d+\s*x\s*\d+\))?\s*(?:->\s*{_SIZE})?"
)
#: How far text and page may be apart.
_TOLERANCE = 0.01


def aperio_field(description: str, name: str) -> str:
    """The first value of a field; empty where it has none."""
    found = re.search(rf"\b{name}\s*=\s*([^|;\r\n]*)", description)
    return found[1].strip() if found else ""


def aperio_mpp(description: str) -> RecordedMpp | None:
    """Micrometres per pixel that the text records.

    Raises:
        LengthError: the text cannot be read as a number, or has several.
    """
    values = dict.fromkeys(
        text.strip() for text in re.findall(r"\bMPP\s*=\s*([^|;\r\n]*)", description) if text.strip()
    )
    found = [text_um(text, "um", what="Aperio's MPP") for text in values]
    if len({um for um in found if um is not None}) > 1:
        raise LengthError(f"Aperio's text has several MPP: {', '.join(values)}")
    um = next((um for um in found if um is not None), None)
    return None if um is None else RecordedMpp(x=um, y=um, source="Aperio's MPP")


def aperio_contradiction(description: str, *, width_px: int, height_px: int) -> str:
    """How the size in the text contradicts the page; empty where it does not.

    A picture that was made smaller and kept the scanner's text has another resolution than the text says.
    """
    found = _GEOMETRY.search(re.split(r"[|;]", description)[0])
    if not found:
        return ""
    scan, part, brought_to = ((int(found[i]), int(found[i + 1])) if found[i] else None for i in (1, 3, 5))
    size_px = part or scan or (width_px, height_px)
    page_px = (width_px, height_px)
    if brought_to is not None and _differ(brought_to, size_px) and not _differ(brought_to, page_px):
        return (
            f"Aperio's text says that the picture was brought from {size_px[0]} x {size_px[1]} to {brought_to[0]} x "
            f"{brought_to[1]} px, and not for which of the two its MPP is"
        )
    if _differ(size_px, page_px):
        return (
            f"Aperio's text is of a picture of {size_px[0]} x {size_px[1]} px, the page has {width_px} x {height_px}: "
            "it was cut out or resized, and its MPP may be of before"
        )
    return ""


def _differ(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return any(abs(x - y) > _TOLERANCE * max(x, y) for x, y in zip(a, b, strict=True))

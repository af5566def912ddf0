"""What a file says of its channels, and whether three of them are the red, green and blue of one picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from wsi_vmamba.errors import UnsupportedSlideError

_RGB = ("red", "green", "blue")
#: A component at least so strong where a colour is red, green or blue, and at most so strong where it is not.
_STRONG, _WEAK = 0xC0, 0x3F
#: Dyes of fluorescence by their names. Some writers colour channels red, green and blue by their number alone.
_DYES = re.compile(
    r"\b(dapi|hoechst|draq\d|fitc|tritc|cy ?\d(\.5)?|[eymc]?gfp|[er]?[ryc]fp|mcherry|tdtomato|texas ?red|txred|"
    r"alexa|alexafluor|af ?\d{3}|rhodamine|opal ?\d{3}|sybr|atto ?\d{3}|autofluorescence|fluorescence)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One channel as a file describes it.

    Attributes:
        name: as recorded, possibly nothing.
        rgb: the colour it is to be shown in, 0 to 255 each; None where none is recorded.
    """

    name: str = ""
    rgb: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        colour = "" if self.rgb is None else "#{:02X}{:02X}{:02X}".format(*self.rgb)
        return " ".join(filter(None, (repr(self.name) if self.name else "", colour))) or "unnamed"


def hex_rgb(text: object) -> tuple[int, int, int] | None:
    """The colour in a text such as ``FF0000``, with or without ``#`` and opacity behind it; None if it is none."""
    found = re.fullmatch(r"\s*#?([0-9a-fA-F]{6})([0-9a-fA-F]{2})?\s*", str(text))
    return _bytes_rgb(int(found[1], 16)) if found else None


def signed_rgba(text: str) -> tuple[int, int, int] | None:
    """The colour in OME-XML's signed number of red, green, blue and opacity; None if it is none."""
    try:
        return _bytes_rgb((int(text) & 0xFFFFFFFF) >> 8)
    except ValueError:
        return None


def check_channels(path: str, channels: Sequence[Channel], *, samples: int) -> None:
    """Refuse channels that are no picture in red, green and blue, in this order, and no brightness either.

    One colour for all three, or none, says nothing: converters give it to brightfield slides. Neither does a channel
    that stands for all samples. Nothing is put into another order: blue, green, red may as well be three dyes.

    Args:
        path: for the message.
        channels: what the file says; nothing is fine.
        samples: of each pixel, 1 or 3.

    Raises:
        UnsupportedSlideError: naming what the file says.
    """
    dyes = [channel for channel in channels if _DYES.search(channel.name.replace("_", " "))]
    apart = samples == len(_RGB) == len(channels)
    if not dyes and not (apart and (_contradicts_by_colour(channels) or _contradicts_by_name(channels))):
        return
    raise UnsupportedSlideError(
        path,
        f"expected one RGB or grey picture, the file says that its channels are {', '.join(map(str, channels[:8]))}: "
        "fluorescence, or colours in another order than red, green, blue; export one picture as RGB",
    )


def _contradicts_by_colour(channels: Sequence[Channel]) -> bool:
    colours = {channel.rgb for channel in channels}
    if len(colours) == 1:
        return False
    return any(
        channel.rgb is not None and not _is_primary(channel.rgb, place)
        for place, channel in enumerate(channels)
    )


def _contradicts_by_name(channels: Sequence[Channel]) -> bool:
    """Whether names are those of the colours, in another order."""
    names = [channel.name.strip().casefold() for channel in channels]
    for colours in (_RGB, tuple(colour[0] for colour in _RGB)):
        if sorted(names) == sorted(colours) and names != list(colours):
            return True
    return False


def _is_primary(rgb: tuple[int, int, int], place: int) -> bool:
    return all(
        value >= _STRONG if component == place else value <= _WEAK for component, value in enumerate(rgb)
    )


def _bytes_rgb(number: int) -> tuple[int, int, int]:
    return number >> 16 & 0xFF, number >> 8 & 0xFF, number & 0xFF

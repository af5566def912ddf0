"""Tiles as JPEG files of their own, as a browser shows them rightly: taken from a slide without decoding.

The numbers in the data stay as the scanner wrote them. Only the markers before them are written anew: what the
components are (Adobe's APP14), the colour profile (APP2), nothing else, so that neither a turned-picture note of EXIF
nor a text with a patient's name travels with a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from wsi_vmamba.slide.jpeg import Colours, check_whole, frame_of, segments

#: Baseline, extended and progressive Huffman coding: what browsers decode.
_SHOWN_BY_BROWSERS = frozenset({0xC0, 0xC1, 0xC2})
_ICC, _ICC_HEAD = 0xE2, b"ICC_PROFILE\0"
#: A segment's length is 16 bits and counts itself; a part of a profile has two bytes of numbering.
_ICC_PART_BYTES = 0xFFFF - 2 - len(_ICC_HEAD) - 2
_ICC_MOST_PARTS = 255
#: What a tile's file may have beyond its pixels, uncompressed: headers, colour profiles, descriptions.
_TILE_HEADER_BYTES = 4 << 20


@runtime_checkable
class HasColourProfile(Protocol):
    """A slide that knows the colour profile of its pixels."""

    @property
    def icc_profile(self) -> bytes | None:
        """The ICC profile; None where it records none."""


@runtime_checkable
class EncodedTiles(HasColourProfile, Protocol):
    """A slide that can hand out tiles as they are stored."""

    @property
    def tile_overlap_px(self) -> int:
        """Pixels that a stored tile has of each of its neighbours; 0 for most formats."""

    def has_encoded_tiles(self, level: int) -> bool:
        """Whether tiles of a level may be handed out; False where all of them have to be decoded."""

    def encoded_tile(self, *, level: int, column: int, row: int) -> bytes | None:
        """A stored tile as a JPEG file, with its overlap, or None where it has to be decoded.

        It has to be where it is no JPEG, of a kind that browsers do not show, or larger than the part of it that
        belongs to the picture.

        Raises:
            BadTileError: its data are visibly damaged: cut short, zeroed, or of another size.
            UnreadableSlideError: the file went away, was closed or cannot be read.
        """


def standalone_jpeg(
    data: bytes, *, tables: bytes | None, stored: Colours, icc_profile: bytes | None = None
) -> bytes | None:
    """Make a JPEG file of a stored tile; None where browsers would not show it.

    Args:
        data: one JPEG picture, with its end mark.
        tables: quantisation and Huffman tables that it shares with others, if it does.
        stored: what its components are, whatever its markers say.
        icc_profile: the colour profile to carry, in place of the picture's own.

    Raises:
        DamagedTileError: it is visibly damaged, as `check_whole` finds.
    """
    whole = tables[:-2] + data[2:] if tables else data
    check_whole(whole, data)
    kind, samples = frame_of(whole)
    if kind not in _SHOWN_BY_BROWSERS or samples != (1 if stored is Colours.GREY else 3):
        return None
    parts = [b"\xff\xd8"]
    if stored is not Colours.GREY:
        parts.append(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([stored.value[0] or 0]))
    if icc_profile:
        parts += icc_segments(icc_profile)
    return b"".join(parts) + _after_start(
        whole,
        lambda marker, content: (
            not _is_note(marker) or (_is_profile(whole, marker, content) and not icc_profile)
        ),
    )


def with_icc(jpeg: bytes, icc_profile: bytes | None) -> bytes:
    """Put a colour profile into a JPEG that was encoded just now."""
    return jpeg[:2] + b"".join(icc_segments(icc_profile)) + jpeg[2:] if icc_profile else jpeg


def without_icc(jpeg: bytes) -> bytes:
    """Leave out the colour profile that a JPEG file carries."""
    return jpeg[:2] + _after_start(jpeg, lambda marker, content: not _is_profile(jpeg, marker, content))


def icc_segments(profile: bytes) -> list[bytes]:
    """A colour profile as the APP2 segments of a JPEG; none where it is longer than they can hold."""
    pieces = [profile[at : at + _ICC_PART_BYTES] for at in range(0, len(profile), _ICC_PART_BYTES)]
    if len(pieces) > _ICC_MOST_PARTS:
        return []
    found = []
    for number, piece in enumerate(pieces, start=1):
        content = _ICC_HEAD + bytes((number, len(pieces))) + piece
        found.append(bytes((0xFF, _ICC)) + (len(content) + 2).to_bytes(2) + content)
    return found


def most_tile_bytes(*, width_px: int, height_px: int) -> int:
    """More than the file of any tile of that size has, headers and colour profiles included."""
    return 4 * width_px * height_px + _TILE_HEADER_BYTES


def _after_start(jpeg: bytes, keeps: Callable[[int, int], bool]) -> bytes:
    """What follows the start mark, with those segments that are kept: asked by marker and where the content begins."""
    parts, position = [], 2
    for marker, content, length in segments(jpeg):
        position = content + length
        if keeps(marker, content):
            parts.append(bytes((0xFF, marker)) + jpeg[content - 2 : position])
    return b"".join([*parts, jpeg[position:]])


def _is_profile(jpeg: bytes, marker: int, content: int) -> bool:
    """Whether a segment holds a part of the colour profile."""
    return marker == _ICC and jpeg.startswith(_ICC_HEAD, content)


def _is_note(marker: int) -> bool:
    """Whether a segment says something beside the picture: APP0 to APP15 and comments."""
    return 0xE0 <= marker <= 0xEF or marker == 0xFE


__all__ = [
    "EncodedTiles",
    "HasColourProfile",
    "icc_segments",
    "most_tile_bytes",
    "standalone_jpeg",
    "with_icc",
    "without_icc",
]

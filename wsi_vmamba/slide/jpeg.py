"""JPEG tiles, strictly: what libjpeg would paint over with a warning is damage here.

A rotten sector inside a tile mostly leaves data that still decode, to grey or to noise; libjpeg notices and warns,
and most programs show the noise. `simplejpeg` hands those warnings on.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from enum import Enum

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray

#: Scans of one progressive tile. Encoders write about ten; thousands keep a decoder busy for minutes.
_MAX_SCANS = 100
#: More filling than this is no alignment but a sector of zeros.
_MAX_PADDING_BYTES = 16
#: So many zero bits are more than two blocks of any picture, see `_zeros_mean_blank`.
_ZEROS = bytes(64)
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


class DamagedTileError(ValueError):
    """The data of one tile do not decode; the caller adds which tile of which slide."""


class Colours(Enum):
    """What the components of a JPEG are; the value is Adobe's number for it, and imagecodecs' name."""

    GREY = (None, "GRAYSCALE")
    RGB = (0, "RGB")
    YCBCR = (1, "YCBCR")


def decode_jpeg(data: bytes, *, tables: bytes | None, stored: Colours) -> NDArray[np.uint8]:
    """Decode to RGB (h, w, 3), or grey (h, w) or (h, w, 1), with libjpeg-turbo's slow transform and smooth upsampling.

    Args:
        data: one JPEG picture, with its end mark.
        tables: quantisation and Huffman tables that it shares with others, if it does.
        stored: what its components are, whatever its markers say.

    Raises:
        DamagedTileError: the data are damaged.
    """
    whole = tables[:-2] + data[2:] if tables else data
    check_whole(whole, data)
    claimed = _claimed_colours(whole)
    if claimed is None and stored is not Colours.GREY:
        whole = _mark(whole, stored)
    elif claimed not in (None, stored) and stored is not Colours.GREY:
        # The markers say otherwise and would win, so this decode only tells whether the data are sound.
        _decode_strictly(whole, "RGB")
        return np.asarray(
            imagecodecs.jpeg8_decode(data, tables=tables, colorspace=stored.value[1], outcolorspace="RGB")
        )
    return _decode_strictly(whole, "GRAY" if stored is Colours.GREY else "RGB")


def check_whole(whole: bytes, data: bytes) -> None:
    """Refuse what is visibly damaged, without decoding it.

    Args:
        whole: the picture with the tables that it shares with others.
        data: the picture as it is stored.

    Raises:
        DamagedTileError: it ends before its end mark, has a run of zeros that no encoder writes, or far too many scans.
    """
    # libjpeg fills up what is missing with grey and only warns; the mark of the end tells.
    if b"\xff\xd9" not in data[-64:]:
        raise DamagedTileError("JPEG data end before their end mark")
    if whole.count(b"\xff\xda") > _MAX_SCANS:
        raise DamagedTileError(f"JPEG data of more than {_MAX_SCANS} scans")
    if _ZEROS in data and not _zeros_mean_blank(whole):
        raise DamagedTileError("JPEG data with a run of zeros in them, as a lost sector leaves it")


def _decode_strictly(whole: bytes, colours: str) -> NDArray[np.uint8]:
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(whole, colours, strict=True)
    except ValueError as error:
        if not _is_padding(whole, str(error)):
            raise DamagedTileError(f"JPEG data do not decode ({error})") from error
        pixels = simplejpeg.decode_jpeg(whole, colours, strict=False)
    return pixels


def _is_padding(whole: bytes, warning: str) -> bool:
    """Whether a warning is about filling that an encoder put before the end mark, which harms nothing."""
    found = _EXTRANEOUS.search(warning)
    if found is None or int(found[1]) > _MAX_PADDING_BYTES:
        return False
    end = whole.rfind(b"\xff\xd9")
    return not whole[end - int(found[1]) : end].strip(b"\0\xff")


def _zeros_mean_blank(whole: bytes) -> bool:
    """Whether zero bits can be blank blocks: where the first code of every AC table is "end of block".

    With any other tables, the usual ones among them, a run of zeros is blocks full of the least coefficient, which
    no encoder writes and which decode without a warning.
    """
    first_symbols = []
    for marker, position, length in segments(whole):
        at, end = position, position + length
        while marker == 0xC4 and at + 17 < min(end, len(whole)):
            if whole[at] & 0x10:
                first_symbols.append(whole[at + 17])
            at += 17 + sum(whole[at + 1 : at + 17])
    return all(symbol == 0 for symbol in first_symbols)


def _mark(whole: bytes, stored: Colours) -> bytes:
    """Put Adobe's marker in, which tells libjpeg what the components are."""
    marker = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([stored.value[0] or 0])
    return whole[:2] + marker + whole[2:]


def _claimed_colours(whole: bytes) -> Colours | None:
    """What the markers of a JPEG say its components are, as libjpeg takes it; None where they say nothing."""
    claimed: Colours | None = None
    for marker, position, length in segments(whole):
        if marker == 0xE0 and length >= 14 and whole[position : position + 5] == b"JFIF\0":
            return Colours.YCBCR
        if marker == 0xEE and length >= 12 and whole[position : position + 5] == b"Adobe":
            claimed = Colours.RGB if whole[position + 11] == 0 else Colours.YCBCR
    return claimed


def own_colours(data: bytes) -> Colours:
    """What the components of a JPEG that stands alone are, as libjpeg takes it.

    Raises:
        DamagedTileError: there is no frame header, or more than one, or neither 1 nor 3 components.
    """
    samples = jpeg_size(data)[2]
    if samples not in (1, 3):
        raise DamagedTileError(f"expected JPEG data of 1 or 3 samples, found {samples}")
    if samples == 1:
        return Colours.GREY
    claimed = _claimed_colours(data)
    if claimed is not None:
        return claimed
    return Colours.RGB if _component_names(data) == b"RGB" else Colours.YCBCR


def _component_names(data: bytes) -> bytes:
    """The identifiers in the frame header of a JPEG of three components."""
    _, position, _ = next(each for each in segments(data) if _is_frame_header(each[0]))
    return data[position + 6 : position + 15 : 3]


def _is_frame_header(marker: int) -> bool:
    """Whether a marker is one of C0 to CF, except for the tables C4 and CC and the reserved C8."""
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, position of its content, length of its content) up to the first scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xDA:
            return
        length = int.from_bytes(data[position + 2 : position + 4])
        yield marker, position + 4, length - 2
        position += 2 + length


def frame_of(data: bytes) -> tuple[int, int]:
    """The marker of a JPEG's frame header, which says how it is coded, and the number of its components.

    Raises:
        DamagedTileError: there is no such header, or more than one.
    """
    samples = jpeg_size(data)[2]
    return next(marker for marker, _, _ in segments(data) if _is_frame_header(marker)), samples


def jpeg_size(data: bytes) -> tuple[int, int, int]:
    """(width, height, samples) that a JPEG's frame header says.

    Raises:
        DamagedTileError: there is no such header, or more than one.
    """
    if data[:2] != b"\xff\xd8":
        raise DamagedTileError(f"expected JPEG data, found bytes {data[:4].hex(' ')}")
    frames = [
        struct.unpack_from(">HHB", data, position + 1)
        for marker, position, length in segments(data)
        if _is_frame_header(marker) and position + 6 <= len(data)
    ]
    if len(frames) != 1:
        raise DamagedTileError(f"JPEG data with {len(frames) or 'no'} frame headers")
    height, width, samples = frames[0]
    return width, height, samples

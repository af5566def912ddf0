"""One TIFF tile or strip: bytes in, pixels out. Sizes are checked before anything is decoded."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.slide.encoded import standalone_jpeg
from wsi_vmamba.slide.jpeg import Colours, DamagedTileError, decode_jpeg, jpeg_size
from wsi_vmamba.slide.picture_codecs import JPEG_XL, JPEG_XR, LERC, LERC_PLAIN, WEBP, decode_picture

#: Photometric interpretations, by their numbers in TIFF.
MIN_IS_WHITE, MIN_IS_BLACK, RGB, YCBCR = 0, 1, 2, 6
#: Compressions whose data carry their own size and colours.
JPEG = 7
JPEG2000_YCBCR = 33003
JPEG2000 = (JPEG2000_YCBCR, 33005, 34712)
PICTURES = (LERC, JPEG_XR, WEBP, JPEG_XL)
LZMA = 34925
HORIZONTAL_PREDICTOR = 2
#: JPEG 2000 may cut a picture into tiles of its own; inside a TIFF tile there is usually one.
_MAX_INNER_TILES = 1024


@dataclass(frozen=True, kw_only=True)
class TileFormat:
    """How the tiles of one level are stored.

    Attributes:
        compression: TIFF number.
        photometric: TIFF number.
        samples: interleaved samples per pixel in one tile, 1 to 4.
        predictor: TIFF number, 1 for none.
        jpeg_tables: quantisation and Huffman tables that JPEG tiles share, if they do.
        lerc_packed: what LERC data are packed in once more, see `picture_codecs`.
    """

    compression: int
    photometric: int
    samples: int
    predictor: int = 1
    jpeg_tables: bytes | None = None
    lerc_packed: int = LERC_PLAIN

    @property
    def codec(self) -> str:
        """Name of the compression, for people."""
        return CODEC_NAMES[self.compression]


def decode_tile(data: bytes, form: TileFormat, *, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Decode one tile to (h, w, samples); h and w are at most ``height_px`` and ``width_px``.

    JPEG and JPEG 2000 tiles may be smaller where a writer cropped those at the slide's edge.

    Raises:
        DamagedTileError: the data are cut short, damaged or of another size.
    """
    try:
        if form.compression == JPEG:
            return _decode_jpeg(data, form, width_px, height_px)
        if form.compression in JPEG2000:
            return _decode_jpeg2000(data, form, width_px, height_px)
        if form.compression in PICTURES:
            return decode_picture(
                data, form.compression, height_px=height_px, width_px=width_px, samples=form.samples,
                packed=form.lerc_packed,
            )  # fmt: skip
        return _decode_bytes(data, form, width_px, height_px)
    # imagecodecs' own errors (Jpeg8Error, ZlibError ...) have RuntimeError as their only common base.
    except RuntimeError as error:
        raise DamagedTileError(f"{form.codec} data do not decode ({error})") from error


def _decode_jpeg(data: bytes, form: TileFormat, width_px: int, height_px: int) -> NDArray[np.uint8]:
    _check_size(jpeg_size(data), form, width_px, height_px)
    return _as_hwc(decode_jpeg(data, tables=form.jpeg_tables, stored=stored_colours(form)))


def is_shown_jpeg(form: TileFormat) -> bool:
    """Whether tiles are JPEG of a kind that browsers show as it is."""
    return form.compression == JPEG and form.photometric != MIN_IS_WHITE and form.samples in (1, 3)


def encoded_jpeg(
    data: bytes, form: TileFormat, *, width_px: int, height_px: int, icc_profile: bytes | None
) -> bytes | None:
    """One tile of `is_shown_jpeg` as a JPEG file, not decoded; None where it is not of exactly that size.

    Raises:
        DamagedTileError: the data are visibly damaged.
    """
    found = jpeg_size(data)
    if found != (width_px, height_px, form.samples):
        return None
    return standalone_jpeg(
        data, tables=form.jpeg_tables, stored=stored_colours(form), icc_profile=icc_profile
    )


def stored_colours(form: TileFormat) -> Colours:
    """What the components of a JPEG tile are.

    Photometric, not the JPEG's own markers, says it: Aperio stores RGB without saying so.
    """
    return Colours.GREY if form.samples == 1 else Colours.YCBCR if form.photometric == YCBCR else Colours.RGB


def _decode_jpeg2000(data: bytes, form: TileFormat, width_px: int, height_px: int) -> NDArray[np.uint8]:
    _check_size(jpeg2000_size(data)[:3], form, width_px, height_px)
    check_jpeg2000_parts(data)
    pixels = _as_hwc(imagecodecs.jpeg2k_decode(data))
    return ycbcr_to_rgb(pixels) if form.compression == JPEG2000_YCBCR else pixels


def _decode_bytes(data: bytes, form: TileFormat, width_px: int, height_px: int) -> NDArray[np.uint8]:
    wanted = width_px * height_px * form.samples
    flat = np.frombuffer(_INFLATE[form.compression](data, wanted), dtype=np.uint8)
    if flat.size != wanted:
        raise DamagedTileError(f"expected {wanted} bytes of pixels, got {flat.size}")
    pixels = flat.reshape(height_px, width_px, form.samples)
    if form.predictor == HORIZONTAL_PREDICTOR:
        pixels = np.cumsum(pixels, axis=1, dtype=np.uint8)
    return pixels


def _into_buffer(
    decode: Callable[..., Any], *, spare_bytes: int = 0
) -> Callable[[bytes, int], NDArray[np.uint8]]:
    """Decode into a buffer of the wanted size, so that a bomb cannot ask for more.

    With a spare byte, a decoder that stops without a word where the buffer ends shows that there was more.
    """

    def inflate(data: bytes, wanted_bytes: int) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = decode(data, out=np.empty(wanted_bytes + spare_bytes, dtype=np.uint8))
        return pixels

    return inflate


def _stored(data: bytes, wanted_bytes: int) -> bytes:
    return data[:wanted_bytes]


_INFLATE: dict[int, Callable[[bytes, int], bytes | NDArray[np.uint8]]] = {
    1: _stored,
    5: _into_buffer(imagecodecs.lzw_decode),
    8: _into_buffer(imagecodecs.deflate_decode),
    32773: _into_buffer(imagecodecs.packbits_decode),
    32946: _into_buffer(imagecodecs.deflate_decode),
    LZMA: _into_buffer(imagecodecs.lzma_decode, spare_bytes=1),
    50000: _into_buffer(imagecodecs.zstd_decode),
}
CODEC_NAMES = {
    1: "uncompressed",
    5: "LZW",
    JPEG: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    33003: "JPEG 2000 (YCbCr)",
    33005: "JPEG 2000 (RGB)",
    34712: "JPEG 2000",
    LERC: "LERC",
    LZMA: "LZMA",
    JPEG_XR: "JPEG XR",
    50000: "Zstandard",
    WEBP: "WebP",
    JPEG_XL: "JPEG XL",
}


def _check_size(found: tuple[int, int, int], form: TileFormat, width_px: int, height_px: int) -> None:
    width, height, samples = found
    if not (0 < width <= width_px and 0 < height <= height_px) or samples != form.samples:
        raise DamagedTileError(
            f"{form.codec} data say {width} x {height} px of {samples} samples, expected {width_px} x {height_px} "
            f"of {form.samples}"
        )


def _as_hwc(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        raise DamagedTileError(f"expected 8-bit samples, got {pixels.dtype}")
    return pixels if pixels.ndim == 3 else pixels[..., None]


def jpeg2000_size(data: bytes) -> tuple[int, int, int, bool]:
    """(width, height, samples, whether some are subsampled) that a JPEG 2000 codestream says.

    Raises:
        DamagedTileError: there is no codestream.
    """
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0 or start + 42 > len(data):
        raise DamagedTileError(f"expected JPEG 2000 data, found bytes {data[:4].hex(' ')}")
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    (samples,) = struct.unpack_from(">H", data, start + 40)
    steps = [data[start + 43 + 3 * i : start + 45 + 3 * i] for i in range(min(samples, 16))]
    return right - left, bottom - top, samples, any(step != b"\1\1" for step in steps)


def check_jpeg2000_parts(data: bytes) -> None:
    """Follow the chain of tile-parts to the end mark: OpenJPEG fills up what is missing without a word.

    Raises:
        DamagedTileError: a part is missing or cut short, or there are more tiles than any encoder makes of one.
    """
    start = data.find(b"\xff\x4f\xff\x51")
    right, bottom = struct.unpack_from(">2I", data, start + 8)
    tile_width, tile_height, left, top = struct.unpack_from(">4I", data, start + 24)
    across, down = (
        -(-(end - begin) // step) if step else 0
        for end, begin, step in ((right, left, tile_width), (bottom, top, tile_height))
    )
    if not 0 < across * down <= _MAX_INNER_TILES:
        raise DamagedTileError(f"JPEG 2000 data of {across * down} tiles inside one")
    at = data.find(b"\xff\x90\0\x0a", start)
    found = set()
    while at >= 0 and data[at : at + 4] == b"\xff\x90\0\x0a" and at + 12 <= len(data):
        index, length = struct.unpack_from(">HI", data, at + 4)
        found.add(index)
        # A length of 0 means "up to the end mark", and is allowed in the last part.
        at = at + length if length else data.rfind(b"\xff\xd9")
    if at < 0 or data[at : at + 2] != b"\xff\xd9":
        raise DamagedTileError("JPEG 2000 data end before their end mark")
    if found != set(range(across * down)):
        raise DamagedTileError(f"JPEG 2000 data hold {len(found)} of {across * down} inner tiles")


def ycbcr_to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Full-range BT.601 YCbCr to RGB, (h, w, 3), rounded to nearest."""
    y, cb, cr = (pixels[..., i].astype(np.float32) - offset for i, offset in enumerate((0, 128, 128)))
    rgb = np.stack((y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb), axis=-1)
    converted: NDArray[np.uint8] = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return converted

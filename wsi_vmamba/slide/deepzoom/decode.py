"""One Deep Zoom tile: a JPEG, PNG or WebP picture that must have exactly the size that its place asks for."""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.slide.compose import lay_over_white
from wsi_vmamba.slide.jpeg import Colours, DamagedTileError, jpeg_size, own_colours
from wsi_vmamba.slide.picture_codecs import WEBP
from wsi_vmamba.slide.tile_codecs import JPEG, MIN_IS_BLACK, RGB, YCBCR, TileFormat, decode_tile, encoded_jpeg

_PHOTOMETRIC = {Colours.GREY: MIN_IS_BLACK, Colours.RGB: RGB, Colours.YCBCR: YCBCR}
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def decode_picture_tile(data: bytes, *, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Decode a tile to RGB, (height_px, width_px, 3); opacity is laid over white. The content decides, not the name.

    Raises:
        DamagedTileError: no such picture, cut short, damaged or of another size.
    """
    if data.startswith(b"\xff\xd8"):
        pixels = _decode_jpeg(data, width_px, height_px)
    elif data.startswith(_PNG_MAGIC):
        pixels = _decode_png(data, width_px, height_px)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        form = TileFormat(compression=WEBP, photometric=RGB, samples=4)
        pixels = decode_tile(data, form, width_px=width_px, height_px=height_px)
    else:
        raise DamagedTileError(
            f"expected a JPEG, PNG or WebP picture, found bytes {data[:8].hex(' ')}"
            if data
            else "it is empty"
        )
    if pixels.shape[:2] != (height_px, width_px):
        raise DamagedTileError(_other_size(pixels.shape[1], pixels.shape[0], width_px, height_px))
    if pixels.shape[2] == 3:
        return pixels
    out = np.empty((height_px, width_px, 3), dtype=np.uint8)
    if pixels.shape[2] == 1:
        out[:] = pixels
    else:
        lay_over_white(out, pixels)
    return out


def encoded_picture_tile(data: bytes, *, width_px: int, height_px: int) -> bytes | None:
    """A tile as a JPEG file, without decoding it; None where it is another picture, or not shown by browsers.

    Raises:
        DamagedTileError: it is a JPEG and visibly damaged, or of another size.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    found = jpeg_size(data)[:2]
    if found != (width_px, height_px):
        raise DamagedTileError(_other_size(*found, width_px, height_px))
    return encoded_jpeg(data, _jpeg_form(data), width_px=width_px, height_px=height_px, icc_profile=None)


def _decode_jpeg(data: bytes, width_px: int, height_px: int) -> NDArray[np.uint8]:
    return decode_tile(data, _jpeg_form(data), width_px=width_px, height_px=height_px)


def _jpeg_form(data: bytes) -> TileFormat:
    """How a JPEG file says that it is stored."""
    stored = own_colours(data)
    return TileFormat(
        compression=JPEG, photometric=_PHOTOMETRIC[stored], samples=1 if stored is Colours.GREY else 3
    )


def _decode_png(data: bytes, width_px: int, height_px: int) -> NDArray[np.uint8]:
    if len(data) < 25 or data[12:16] != b"IHDR":
        raise DamagedTileError("PNG data without a header")
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    # Looked at before anything is decoded: the header may claim gigapixels.
    if (width, height) != (width_px, height_px):
        raise DamagedTileError(_other_size(width, height, width_px, height_px))
    if bits > 8:
        raise DamagedTileError(f"expected 8-bit samples, the PNG has {bits} bits")
    try:
        pixels: NDArray[np.uint8] = imagecodecs.png_decode(data)
    except RuntimeError as error:  # imagecodecs' own errors have no other common base
        raise DamagedTileError(f"PNG data do not decode ({error})") from error
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _other_size(width: int, height: int, width_px: int, height_px: int) -> str:
    return f"it is {width} x {height} px, its place asks for {width_px} x {height_px} (overlap included)"

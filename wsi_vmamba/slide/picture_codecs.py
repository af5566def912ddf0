"""Tiles that are whole pictures of newer formats, and say their own size: WebP, JPEG XL, JPEG XR and LERC.

None of them gives anything but a picture of the tile's size: the decoders are given a target of that size, and refuse
data of any other before they make room for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.slide.jpeg import DamagedTileError
from wsi_vmamba.slide.jpegxr import decode_jpegxr

LERC, JPEG_XR, WEBP, JPEG_XL = 34887, 34934, 50001, 50002
#: What LERC data may be packed in once more, by the second number of the tag LercParameters.
LERC_PLAIN, LERC_DEFLATE, LERC_ZSTD = 0, 1, 2
#: LERC data are smaller than the picture, but for a header.
_LERC_HEADER_BYTES = 1 << 12

Pixels = NDArray[np.uint8]


def decode_picture(
    data: bytes, compression: int, *, height_px: int, width_px: int, samples: int, packed: int = LERC_PLAIN
) -> Pixels:
    """Decode one tile to (height_px, width_px, samples).

    Args:
        data: one picture.
        compression: TIFF number, of the four above.
        height_px: rows of the tile.
        width_px: columns of the tile.
        samples: 1, 3, or 4 with an opacity.
        packed: what LERC data are packed in.

    Raises:
        DamagedTileError: cut short, damaged, or of another size.
        RuntimeError: of imagecodecs, where the data do not decode.
    """
    shape = (height_px, width_px, samples)
    try:
        if compression == LERC:
            return _decode_lerc(data, shape, packed)
        return _DECODERS[compression](data, shape)
    except DamagedTileError:
        raise
    except ValueError as error:  # a target of another size than the picture
        raise DamagedTileError(
            f"expected a picture of {width_px} x {height_px} px of {samples} samples ({error})"
        ) from error


def _target(shape: tuple[int, int, int]) -> Pixels:
    return np.empty(shape if shape[2] > 1 else shape[:2], dtype=np.uint8)


def _decode_webp(data: bytes, shape: tuple[int, int, int]) -> Pixels:
    pixels: Pixels = imagecodecs.webp_decode(data, hasalpha=shape[2] == 4, out=_target(shape))
    return pixels.reshape(shape)


def _decode_jpegxl(data: bytes, shape: tuple[int, int, int]) -> Pixels:
    # One thread: tiles are decoded side by side already.
    pixels: Pixels = imagecodecs.jpegxl_decode(data, index=0, numthreads=1, out=_target(shape))
    return pixels.reshape(shape)


def _decode_jpegxr(data: bytes, shape: tuple[int, int, int]) -> Pixels:
    height, width, samples = shape
    return decode_jpegxr(data, height_px=height, width_px=width, samples=samples)


def _decode_lerc(data: bytes, shape: tuple[int, int, int], packed: int) -> Pixels:
    if packed != LERC_PLAIN:
        unpack: Callable[..., Any] = {
            LERC_DEFLATE: imagecodecs.deflate_decode,
            LERC_ZSTD: imagecodecs.zstd_decode,
        }[packed]
        room = 2 * shape[0] * shape[1] * shape[2] + _LERC_HEADER_BYTES
        data = bytes(unpack(data, out=np.empty(room, dtype=np.uint8)))
    pixels, valid = imagecodecs.lerc_decode(data, masks=True, out=_target(shape))
    if valid is not None and not np.all(valid):
        raise DamagedTileError("LERC data with pixels that are marked as having no value")
    decoded: Pixels = pixels.reshape(shape)
    return decoded


_DECODERS: dict[int, Callable[[bytes, tuple[int, int, int]], Pixels]] = {
    WEBP: _decode_webp,
    JPEG_XL: _decode_jpegxl,
    JPEG_XR: _decode_jpegxr,
}

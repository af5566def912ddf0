"""Reading mask pictures: TIFF by tifffile, everything else by Pillow, with all that the file says of its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from wsi_vmamba.errors import PictureError
from wsi_vmamba.masks.picture import MaskPicture, Samples, as_mask

TIFF_SUFFIXES = (".tif", ".tiff")
#: How TIFF and BigTIFF begin: a name is only a name.
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Compressions that can change values, by what tifffile and Pillow call them; whether they did, few files say.
_LOSSY = frozenset(
    {"OJPEG", "JPEG", "ALT_JPEG", "JPEG_LOSSY", "JPEG2000", "JPEG_2000_LOSSY", "APERIO_JP2000_YCBC",
     "APERIO_JP2000_RGB", "WEBP", "JPEGXL", "JPEGXL_DNG", "JPEGXR", "JPEGXR_NDPI", "LERC", "MPO", "AVIF"}
)  # fmt: skip
#: Values of the largest picture that is read.
_MAX_VALUES = 1 << 28
#: EXIF and TIFF tag that tells how to turn a picture before it is shown, and its value for "not at all".
_ORIENTATION, _UPRIGHT = 274, 1
_ALPHA_MODES = ("RGBA", "LA", "PA")
_MODES = ("1", "L", "P", "RGB", "I", "F", "I;16", "I;16B", "I;16L", "I;16N", *_ALPHA_MODES)
#: Bytes of a PNG that hold the bits of a value and the kind of its colours; kinds that Pillow cuts from 16 bits to 8.
_PNG_DEPTH, _PNG_KIND, _PNG_CUT = 24, 25, (2, 4, 6)

#: Place in a BMP of the bits of a value.
_BMP_BITS = 28

#: (width, height) of each picture of a file, finest first, to the number of the one to read, with notes.
Choose = Callable[[Sequence[tuple[int, int]]], tuple[int, tuple[str, ...]]]


def read_picture(path: Path, *, choose: Choose, content: bytes | None = None) -> MaskPicture:
    """Read a picture as a mask.

    Args:
        path: PNG, TIFF, BMP or whatever Pillow reads.
        choose: tells which picture of a file that holds several; raises PictureError where none will do.
        content: the bytes of the file, where they have been read; the file is not looked at again.

    Raises:
        PictureError: it cannot be read, is too large, or does not say clearly what is marked.
    """
    try:
        if _is_tiff(path, content) or path.suffix.lower() in TIFF_SUFFIXES:
            return _read_tiff(path if content is None else BytesIO(content), choose)
        return _read_other(path.read_bytes() if content is None else content)
    except PictureError:
        raise
    # tifffile and Pillow raise these on damaged files; Pillow's bomb error is an Exception of its own.
    except (OSError, ValueError, LookupError, RuntimeError, SyntaxError, tifffile.TiffFileError) as error:
        raise PictureError(f"cannot be read as a picture ({error})") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{error}; save it at about 8 um per pixel") from error


def _read_tiff(file: Path | BytesIO, choose: Choose) -> MaskPicture:
    with tifffile.TiffFile(file) as tif:
        # Not every writer marks its levels as such, so all pictures of the file are looked at.
        pictures = [level for series in tif.series for level in series.levels]
        if not pictures:
            raise PictureError("cannot be read as a picture (the file holds none)")
        index, notes = choose([_size_of(picture) for picture in pictures])
        _refuse_other_kinds(pictures, index)
        _check_size(pictures[index].shape)
        return as_mask(_samples_of(pictures[index]), notes=notes)


def _is_tiff(path: Path, content: bytes | None) -> bool:
    """By its first bytes: a name is only a name."""
    if content is not None:
        return content[:4] in _TIFF_HEADS
    with path.open("rb") as file:
        return file.read(4) in _TIFF_HEADS


def _refuse_other_kinds(pictures: Sequence[Any], index: int) -> None:
    """Refuse a file in which pictures of the mask's shape are stored otherwise: levels of one picture never are."""
    width, height = _size_of(pictures[index])
    alike = [
        picture
        for picture in pictures
        for w, h in [_size_of(picture)]
        if abs(w * height - h * width) <= 1.5 * max(width, height, w, h)
    ]
    kinds = dict.fromkeys(_kind(picture.keyframe) for picture in alike)
    if len(kinds) > 1:
        raise PictureError(
            f"it holds pictures of one shape and of several kinds ({'; '.join(kinds)}), so it is not clear which is "
            "the mask; keep that one"
        )


def _kind(page: Any) -> str:
    photometric = getattr(page.photometric, "name", page.photometric)
    return f"{page.samplesperpixel} x {page.bitspersample} bits, {photometric}"


def _size_of(picture: Any) -> tuple[int, int]:
    axes = picture.axes
    if "X" not in axes or "Y" not in axes:
        raise PictureError(f"expected a picture with height and width, got axes {axes}")
    return int(picture.shape[axes.index("X")]), int(picture.shape[axes.index("Y")])


def _samples_of(picture: Any) -> Samples:
    """The values of a TIFF picture with what its tags say of them."""
    page, axes = picture.keyframe, picture.axes
    _check_upright(page.tags.valueof(_ORIENTATION))
    others = {
        axis: size for axis, size in zip(axes, picture.shape, strict=True) if axis not in "YXS" and size != 1
    }
    if others:
        number = int(np.prod(list(others.values())))
        raise PictureError(f"expected one picture, got {number} of one size; keep the one that is the mask")
    values = picture.asarray()[tuple(slice(None) if axis in "YXS" else 0 for axis in axes)]
    if "S" in axes:
        values = np.moveaxis(values, [axis for axis in axes if axis in "YXS"].index("S"), -1)
    kind, compression = page.photometric, page.compression
    photometric = tifffile.PHOTOMETRIC
    jpeg = compression in (tifffile.COMPRESSION.OJPEG, tifffile.COMPRESSION.JPEG, 33007, 34892)
    if kind in (photometric.RGB, photometric.YCBCR if jpeg else photometric.RGB):
        channels = 3
    elif kind in (photometric.MINISBLACK, photometric.MINISWHITE, photometric.PALETTE, photometric.MASK):
        channels = 1
    else:
        raise PictureError(f"its colours are {getattr(kind, 'name', kind)}; expected grey, a palette or RGB")
    colours, opacity = _without_opacity(values, channels, page.extrasamples)
    if kind == photometric.MINISWHITE and page.bitspersample == 1 and "tifffile" in str(page.software):
        # tifffile gives arrays of bool this tag and leaves True a 1, so that viewers show True as black.
        raise PictureError(
            "it has one bit, 0 is white, and tifffile wrote it, which does so with arrays of bool: whether True or "
            "white means marked is not clear; write the array as uint8, 255 where marked"
        )
    return Samples(
        colours=colours,
        opacity=opacity,
        palette=page.colormap.T if kind == photometric.PALETTE else None,
        white_is_zero=kind == photometric.MINISWHITE,
        bits=int(page.bitspersample),
        lossy=_lossy(getattr(compression, "name", "")),
    )


def _lossy(compression: str) -> str:
    return compression if compression in _LOSSY else ""


def _without_opacity(
    values: NDArray[Any], channels: int, extra: Sequence[int]
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Colours and opacity of (H, W) or (H, W, samples) values; what else a picture may hold is refused."""
    samples = values.shape[-1] if values.ndim == 3 else 1
    if samples == channels:
        return values if channels > 1 else values.reshape(values.shape[:2]), None
    if samples != channels + 1 or not extra or extra[0] == tifffile.EXTRASAMPLE.UNSPECIFIED:
        raise PictureError(
            f"it holds {samples} channels and does not say what they are; expected grey, a palette or RGB, alone or "
            "with opacity"
        )
    colours = values[..., :channels]
    return colours if channels > 1 else colours[..., 0], values[..., -1]


def _read_other(content: bytes) -> MaskPicture:
    with Image.open(BytesIO(content)) as picture:
        _check_size(picture.size)
        if (frames := getattr(picture, "n_frames", 1)) > 1:
            raise PictureError(f"expected one picture, got {frames}; keep the one that is the mask")
        if picture.mode not in _MODES:
            raise PictureError(f"its colours are {picture.mode}; expected grey, a palette or RGB")
        _check_upright(picture.getexif().get(_ORIENTATION))
        if picture.format == "PNG" and _is_cut_by_pillow(content):
            return as_mask(_samples_of_png(content))
        if picture.format == "BMP" and picture.mode == "1" and _bits_of_bmp(content) != 1:
            # Pillow takes 8 bits with a palette of black and white for 1 bit, and reads other pixels.
            return as_mask(Samples(colours=_decoded(content)))
        return as_mask(_samples_of_picture(picture))


def _samples_of_picture(picture: Image.Image) -> Samples:
    values = np.asarray(picture)
    opacity = values[..., -1] if picture.mode in _ALPHA_MODES else None
    colours = values if opacity is None else values[..., :-1]
    if colours.ndim == 3 and colours.shape[-1] == 1:
        colours = colours[..., 0]
    palette = None
    if picture.mode in ("P", "PA"):
        palette = np.asarray(picture.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    if opacity is None and "transparency" in picture.info:
        opacity = np.asarray(picture.convert("RGBA"))[..., -1]
    return Samples(
        colours=colours,
        opacity=opacity,
        palette=palette,
        lossy=_lossy(picture.format or ""),
    )


def _is_cut_by_pillow(content: bytes) -> bool:
    """Whether a PNG has 16 bits in several channels, which Pillow cuts to 8: a label of 1 becomes 0."""
    return len(content) > _PNG_KIND and content[_PNG_DEPTH] == 16 and content[_PNG_KIND] in _PNG_CUT


def _bits_of_bmp(content: bytes) -> int:
    return int.from_bytes(content[_BMP_BITS : _BMP_BITS + 2], "little")


def _decoded(content: bytes) -> NDArray[Any]:
    """Grey values, or colours in any order, by OpenCV."""
    values = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise PictureError("cannot be read as a picture (OpenCV does not decode it)")
    found: NDArray[Any] = values
    return found


def _samples_of_png(content: bytes) -> Samples:
    values = imagecodecs.png_decode(content)
    channels = 3 if values.shape[-1] > 2 else 1
    colours, opacity = _without_opacity(values, channels, (tifffile.EXTRASAMPLE.UNASSALPHA,))
    return Samples(colours=colours, opacity=opacity)


def _check_upright(orientation: Any) -> None:
    if orientation not in (None, 0, _UPRIGHT):
        raise PictureError(
            f"it is to be turned or mirrored before it is shown (orientation {orientation}); save it upright"
        )


def _check_size(shape: tuple[int, ...]) -> None:
    if np.prod(shape, dtype=np.float64) > _MAX_VALUES:
        raise PictureError(f"{shape} values are too many; save it at about 8 um per pixel")

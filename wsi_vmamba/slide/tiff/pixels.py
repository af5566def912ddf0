"""What the numbers in a TIFF mean: samples, colours, opacity and compression, and which of it is read at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tifffile

from wsi_vmamba.errors import UnreadableSlideError, UnsupportedSlideError
from wsi_vmamba.slide.base import NeedsOtherReaderError
from wsi_vmamba.slide.compose import Opacity
from wsi_vmamba.slide.picture_codecs import LERC, LERC_PLAIN, LERC_ZSTD, WEBP
from wsi_vmamba.slide.tile_codecs import (
    CODEC_NAMES,
    JPEG,
    JPEG2000,
    JPEG2000_YCBCR,
    MIN_IS_BLACK,
    MIN_IS_WHITE,
    PICTURES,
    RGB,
    YCBCR,
    TileFormat,
)

_PALETTE, _CMYK, _CIELAB = 3, 5, 8
_SAMPLE_KINDS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex floating-point"}
#: 4 means that the writer did not know; it is taken for plain numbers, as the TIFF specification has it.
_UNSIGNED = (1, 4)
_UPRIGHT, _TURNED = 1, range(2, 9)
_ORIENTATION, _COLOUR_MAP, _LERC_PARAMETERS = 274, 320, 50674
#: What OpenSlide turns to RGB by itself: photometric interpretation -> samples per pixel.
_LEFT_TO_OPENSLIDE = {
    MIN_IS_WHITE: (1,), MIN_IS_BLACK: (1,), RGB: (3, 4), _PALETTE: (1,), _CMYK: (4,), YCBCR: (3,), _CIELAB: (3,)
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PixelForm:
    """How the pixels of one level are stored.

    Attributes:
        tiles: how one tile is stored.
        planes: 1, or the number of samples where each is stored apart.
        colours: samples at the front that are colours: 1 (grey) or 3.
        opacity: what the sample after the colours says of them; None where it says nothing, or is not there.
        note: what was decided about samples that the file says too little of; empty where nothing was.
    """

    tiles: TileFormat
    planes: int
    colours: int
    opacity: Opacity | None
    note: str


def read_pixel_form(path: str, page: tifffile.TiffPage) -> PixelForm:
    """Say how the pixels of a page are read.

    Raises:
        NeedsOtherReaderError: not decoded natively; OpenSlide may read it.
        UnsupportedSlideError: no reader gives the right pixels.
        UnreadableSlideError: the directory is damaged.
    """
    _refuse_for_all(path, page)
    samples, compression, photometric = page.samplesperpixel, int(page.compression), int(page.photometric)
    planes = samples if page.planarconfig == 2 else 1
    colours, opacity = _roles(page)
    own_colours = compression == JPEG or compression in JPEG2000
    tagged_grey = samples >= 3 and photometric == MIN_IS_BLACK
    as_read = RGB if tagged_grey else photometric
    known = {1: (MIN_IS_WHITE, MIN_IS_BLACK), 3: (RGB, YCBCR) if own_colours else (RGB,)}
    problems = {
        f"{page.bitspersample} bits per sample, expected 8": page.bitspersample != 8,
        f"compression {codec_words(compression)}": compression not in CODEC_NAMES,
        f"photometric interpretation {photometric} of {samples} samples": as_read not in known[colours],
        f"predictor {page.predictor}": page.predictor not in (1, 2),
        "reversed bit order": page.fillorder != 1,
        "a volume": page.imagedepth != 1,
        "JPEG of 4 samples": samples == 4 and planes == 1 and compression in (JPEG, JPEG2000_YCBCR),
        # The file says neither that the components are YCbCr nor that they are RGB.
        "JPEG tagged as grey with 3 samples": tagged_grey and planes == 1 and compression == JPEG,
        "YCbCr in planes": planes > 1 and photometric == YCBCR,
        "WebP of grey": compression == WEBP and (planes > 1 or samples < 3),
    }
    if page.jpegtables is not None and not isinstance(page.jpegtables, bytes):
        raise UnreadableSlideError(path, "the TIFF directory is damaged (its JPEG tables are no bytes)")
    for problem, found in problems.items():
        if found:
            refuse_openslide(path, page, why=f"{problem} is not decoded natively")
            raise NeedsOtherReaderError(path, f"{problem} is not decoded natively")
    tiles = TileFormat(
        compression=compression,
        photometric=MIN_IS_BLACK if planes > 1 else as_read,
        samples=1 if planes > 1 else samples,
        predictor=1 if own_colours or compression in PICTURES else int(page.predictor),
        jpeg_tables=page.jpegtables,
        lerc_packed=_lerc_packed(path, page) if compression == LERC else LERC_PLAIN,
    )
    return PixelForm(
        tiles=tiles,
        planes=planes,
        colours=colours,
        opacity=opacity,
        note="; ".join(_notes(tagged_grey=tagged_grey, ignored=samples > colours and opacity is None)),
    )


def refuse_openslide(path: str, page: tifffile.TiffPage, *, why: str = "") -> None:
    """Refuse what OpenSlide opens but gives wrong pixels of.

    It takes any fourth sample for an opacity that the colours are multiplied with, and shows one of several samples
    that are tagged as grey.

    Raises:
        UnsupportedSlideError: naming it; ``why`` is put before.
    """
    _refuse_for_all(path, page)
    reason = f"{why}; OpenSlide: " if why else ""
    samples, photometric = page.samplesperpixel, int(page.photometric)
    if samples not in _LEFT_TO_OPENSLIDE.get(photometric, ()):
        raise UnsupportedSlideError(
            path,
            f"{reason}it does not read photometric interpretation {photometric} of {samples} samples as what it is; "
            "save it again as 8-bit RGB",
        )
    if samples == 4 and photometric == RGB and _roles(page)[1] is None:
        raise UnsupportedSlideError(
            path,
            f"{reason}it would take the fourth sample for opacity, which the file does not say it is (ExtraSamples "
            f"{_extra_samples(page) or 'absent'}); save it again without that sample",
        )


def codec_words(compression: int) -> str:
    """Name of a compression, known or not."""
    if compression in CODEC_NAMES:
        return CODEC_NAMES[compression]
    try:
        return f"{tifffile.COMPRESSION(compression).name} (TIFF number {compression})"
    except ValueError:
        return f"with the TIFF number {compression}"


def _refuse_for_all(path: str, page: tifffile.TiffPage) -> None:
    """Refuse what neither reader reads as what it is.

    Raises:
        UnsupportedSlideError: naming it and what to do.
    """
    samples, bits, photometric = page.samplesperpixel, page.bitspersample, int(page.photometric)
    kind, orientation = page.sampleformat, _tag(page, _ORIENTATION, _UPRIGHT)
    colours, opacity = _roles(page)
    opaque_or_known = samples in (1, 3, 4) or (samples == 2 and opacity is not None)
    grey_with_map = samples >= 3 and photometric == MIN_IS_BLACK and _COLOUR_MAP in page.tags
    problems = (
        (
            kind not in _UNSIGNED,
            f"expected unsigned 8-bit samples, found {_SAMPLE_KINDS.get(kind, f'format {kind}')} ones of {bits} bits; "
            "scale them to 0 to 255",
        ),
        (
            bits > 8,
            f"expected 8-bit samples, found {bits} bits, and the file does not say how many of them are used; scale "
            "them to 0 to 255",
        ),
        (
            orientation in _TURNED,
            f"the picture is stored turned or mirrored (Orientation {orientation}), and programs differ in whether "
            "they turn it back, so outlines could be of another place; save it upright",
        ),
        (
            not opaque_or_known,
            f"expected grey or RGB, with or without opacity, found {samples} samples per pixel; save it as 8-bit RGB",
        ),
        (
            grey_with_map,
            f"expected RGB, found {samples} samples tagged grey and a colour map; save it as 8-bit RGB",
        ),
        (
            photometric == MIN_IS_WHITE and samples > colours,
            "expected RGB with opacity, found samples tagged white-is-zero with one; save it as 8-bit RGB",
        ),
    )
    for found, words in problems:
        if found:
            raise UnsupportedSlideError(path, words)


def _roles(page: tifffile.TiffPage) -> tuple[int, Opacity | None]:
    """How many samples are colours, and what the one after them says."""
    samples = page.samplesperpixel
    colours = 1 if samples < 3 else 3
    if samples != colours + 1 or int(page.photometric) == _CMYK:
        return colours, None
    extra = _extra_samples(page)
    # ExtraSamples counts from the end, and of samples tagged grey all but one are extra.
    role = extra[-1] if extra else 0
    if int(page.compression) == WEBP and role == 0:  # the format knows no other fourth sample
        role = Opacity.STRAIGHT.value
    return colours, Opacity(role) if role in (Opacity.PREMULTIPLIED.value, Opacity.STRAIGHT.value) else None


def _extra_samples(page: tifffile.TiffPage) -> tuple[int, ...]:
    return tuple(int(each) for each in page.extrasamples or ())


def _notes(*, tagged_grey: bool, ignored: bool) -> list[str]:
    notes = {
        "tagged grey, read as red, green and blue": tagged_grey,
        "the fourth sample is left out, since the file does not say that it is opacity": ignored,
    }
    return [note for note, holds in notes.items() if holds]


def _lerc_packed(path: str, page: tifffile.TiffPage) -> int:
    """The second number of LercParameters: a version, and what the data are packed in."""
    parameters = _tag(page, _LERC_PARAMETERS, (0, LERC_PLAIN))
    if not isinstance(parameters, tuple) or len(parameters) < 2 or parameters[1] not in range(LERC_ZSTD + 1):
        raise UnreadableSlideError(path, f"the TIFF directory is damaged (LercParameters is {parameters})")
    return int(parameters[1])


def _tag(page: tifffile.TiffPage, code: int, default: Any) -> Any:
    tag = page.tags.get(code)
    return default if tag is None else tag.value


def describe(form: PixelForm) -> Mapping[str, str]:
    """What people should know of it, as a slide's properties."""
    return {"codec": form.tiles.codec, **({"samples": form.note} if form.note else {})}

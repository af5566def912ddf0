"""Which pixels of a picture are marked: the one rule for tissue masks and lesion masks.

Black is what is not marked, whatever numbers a file stores for it. Where a palette or opacity make it doubtful what
that is, the picture is refused: a mask that is read the wrong way round looks like a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import PictureError

#: Colours of a palette count as black up to this share of the brightest: converters rarely hit 0 itself.
_BLACK = 1 / 8
_REMEDY = "save it as an 8-bit grey PNG or TIFF, 0 (black) where nothing is marked"


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskPicture:
    """A picture that was read as a mask.

    Attributes:
        marked: bool, shape (height, width): what is not black, or of a palette not its first colour.
        grey: unsigned whole numbers or floats, shape (height, width), 0 being black; None where there are colours.
        notes: what else the file holds, for the user to see.
    """

    marked: NDArray[np.bool_]
    grey: NDArray[Any] | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """The numbers of one picture as its file stores them.

    Attributes:
        colours: shape (height, width) or (height, width, channels), without opacity.
        opacity: shape (height, width), 0 where nothing is to be seen; None where the file has none.
        palette: colours of the numbers, shape (entries, 3); None where the numbers are the colours.
        white_is_zero: whether 0 is white.
        bits: of each number, where white is zero.
        lossy: name of the compression, where it can change values.
    """

    colours: NDArray[Any]
    opacity: NDArray[Any] | None = None
    palette: NDArray[Any] | None = None
    white_is_zero: bool = False
    bits: int = 8
    lossy: str = ""


def as_mask(samples: Samples, *, notes: tuple[str, ...] = ()) -> MaskPicture:
    """Tell which pixels are marked.

    Raises:
        PictureError: that is doubtful, or a value is no number or below 0.
    """
    colours = _checked(samples.colours)
    if samples.white_is_zero:
        colours = _black_is_zero(colours, samples.bits)
    if samples.lossy:
        _refuse_blurred(colours, samples.lossy)
    if samples.palette is not None:
        marked, grey = _by_palette(colours, samples.palette)
    elif colours.ndim == 3:
        marked, grey = np.asarray((colours != 0).any(axis=-1)), None
    else:
        marked, grey = colours != 0, colours
    if samples.opacity is not None:
        _refuse_hidden(marked, samples.opacity)
    return MaskPicture(marked=np.ascontiguousarray(marked), grey=grey, notes=notes)


def _checked(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind not in "buif":
        raise PictureError(f"its values are {values.dtype}, which say nothing of marks; {_REMEDY}")
    if values.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(values)))):
        raise PictureError(
            f"{bad} of its values are no numbers (NaN) or infinite; write 0 where nothing is marked"
        )
    if values.dtype.kind in "if" and values.size and values.min() < 0:
        raise PictureError(f"it has values below 0 ({values.min():g}); write 0 where nothing is marked")
    return values


def _black_is_zero(values: NDArray[Any], bits: int) -> NDArray[Any]:
    if values.dtype.kind == "b":
        return ~values
    if values.dtype.kind != "u":
        raise PictureError(
            f"white is 0 in it, and its values are {values.dtype}, which have no black; {_REMEDY}"
        )
    black = values.dtype.type(2**bits - 1)
    turned: NDArray[Any] = black - np.minimum(values, black)
    return turned


def _by_palette(
    indices: NDArray[Any], palette: NDArray[Any]
) -> tuple[NDArray[np.bool_], NDArray[Any] | None]:
    """By number, where the colours agree: the first is black, or no colour that occurs is."""
    used = np.unique(indices)
    if int(used.max()) >= len(palette):
        raise PictureError(f"it uses colour {int(used.max())} of a palette of {len(palette)}; {_REMEDY}")
    black = np.less_equal(palette, np.iinfo(palette.dtype).max * _BLACK).all(axis=1)
    others = [int(index) for index in used if index != 0 and black[index]]
    if others:
        first = "black too" if black[0] else "not black"
        raise PictureError(
            f"colour {others[0]} of its palette is black and colour 0 is {first}, so it is not clear which one means "
            f"nothing marked; {_REMEDY}"
        )
    shades = (
        palette[indices] if not palette[0].any() and (palette[used] == palette[used][:, :1]).all() else None
    )
    return indices != 0, None if shades is None else shades[..., 0]


def _refuse_blurred(values: NDArray[Any], lossy: str) -> None:
    """Accept a compression that can change values only where each is still black or as bright as can be."""
    full = True if values.dtype.kind == "b" else np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1
    between = float(((values != 0) & (values != full)).mean())
    if between:
        raise PictureError(
            f"its compression, {lossy}, may change values, and {between:.1%} of them are neither black nor white, so "
            f"the edges of the marks may be lost; {_REMEDY}, with a lossless compression"
        )


def _refuse_hidden(marked: NDArray[np.bool_], opacity: NDArray[Any]) -> None:
    """Opacity says nothing of marks, unless it contradicts the colours or is all that differs."""
    if opacity.min() == opacity.max():
        return
    hidden = int(np.count_nonzero(marked & (opacity == 0)))
    if hidden:
        raise PictureError(
            f"{hidden} pixels have a colour and are transparent, so it is not clear whether they are marked; {_REMEDY}"
        )
    if not marked.any():
        raise PictureError(f"all of it is black and only opacity differs; {_REMEDY}")

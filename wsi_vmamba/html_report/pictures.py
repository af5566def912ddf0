"""Pictures inside the page: the slide small, what a model says of its patches over it, and single patches."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_vmamba.errors import SlideError
from wsi_vmamba.html_report.markup import (
    Html,
    element,
    empty_element,
    figure,
    join,
    paragraph,
    without_folders,
)
from wsi_vmamba.report.heatmap import PatchValues, blend, colour_of, paint_patches
from wsi_vmamba.slide import Slide, find_slides, open_slide
from wsi_vmamba.slide.canvas import slide_id_of
from wsi_vmamba.slide.location import Location, is_url, may_exist

#: Long side of a slide, and side of a patch, in the page.
SLIDE_PX, PATCH_PX = 480, 112
_QUALITY = 78
#: Patches that are shown of a slide.
TOP_PATCHES = 4
#: Ground of a slide that is not there.
_BLANK = 244

Pixels = NDArray[np.uint8]


class SlidePlaces:
    """Where slides lie now: in a folder for those that were moved, else where they lay."""

    def __init__(self, moved: Path | None) -> None:
        """List the folder once; None for none."""
        self._moved: Mapping[str, Path | None] = {} if moved is None else _by_name(moved)

    def find(self, slide_id: str, *places: Location | None) -> Location | None:
        """The slide; None where it is nowhere, or somewhere on a network, which a report does not go to."""
        found = self._moved.get(slide_id)
        if found is not None:
            return found
        known = (place for place in places if place is not None and not is_url(place))
        return next((place for place in known if may_exist(place)), None)


def _by_name(folder: Path) -> dict[str, Path | None]:
    """Slides by name; of two of one name, which may be either, neither."""
    found: dict[str, Path | None] = {}
    for path in find_slides(folder, problems=[]):
        name = slide_id_of(path)
        found[name] = None if name in found else path
    return found


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What there is to show of a slide.

    Attributes:
        slide_id: its name.
        place: its file; None where it is not there.
        scene: which picture of the file.
        mpp: micrometres per level-0 pixel.
        size_l0: width and height in level-0 pixels; None where that is not known.
        patches: a value of each patch; None where the model gives none.
    """

    slide_id: str
    place: Location | None
    scene: int | None
    mpp: float
    size_l0: tuple[int, int] | None
    patches: PatchValues | None


def draw_slide(seen: Seen) -> Html:
    """The slide, the slide under its values, and the patches with the highest; what cannot be shown is said."""
    if seen.place is None:
        return join([_blank(seen), paragraph(_GONE, mark="soft")])
    try:
        with open_slide(seen.place, scene=seen.scene) as slide:
            _check_size(slide, seen)
            return _with_slide(slide, seen)
    except (SlideError, _OtherSlideError) as error:
        said = paragraph(f"The slide cannot be shown: {without_folders(str(error))}", mark="soft")
        return join([_blank(seen), said])


_GONE = (
    "The slide's file is not where it was, so only the places of its patches are shown; "
    "--slides DIR says where slides are now."
)


class _OtherSlideError(Exception):
    """The file is not the slide that was looked at."""


def _check_size(slide: Slide, seen: Seen) -> None:
    got = (slide.levels[0].width_px, slide.levels[0].height_px)
    if seen.size_l0 is not None and seen.size_l0 != got:
        wanted = f"{seen.size_l0[0]} x {seen.size_l0[1]}"
        raise _OtherSlideError(f"expected {wanted} px, the file has {got[0]} x {got[1]}")


def _with_slide(slide: Slide, seen: Seen) -> Html:
    pixels = slide.thumbnail(SLIDE_PX)
    width_l0, height_l0 = slide.levels[0].width_px, slide.levels[0].height_px
    wide_mm, tall_mm = (side * seen.mpp / 1000 for side in (width_l0, height_l0))
    size = f"{wide_mm:.1f} × {tall_mm:.1f} mm"
    pictures = [_picture(pixels, alt=f"{seen.slide_id}, {size}", caption=f"The slide, {size}")]
    if seen.patches is None:
        return element("div", *pictures, class_="pictures")
    heat = _heat(pixels, seen.patches, downsample=width_l0 / pixels.shape[1])
    pictures.append(_heat_picture(heat, seen))
    return join([element("div", *pictures, class_="pictures"), _top_patches(slide, seen.patches)])


def _blank(seen: Seen) -> Html:
    """The values of the patches where they lie, over nothing."""
    if seen.patches is None:
        return Html()
    width, height = seen.size_l0 or _extent(seen.patches)
    downsample = max(width, height) / SLIDE_PX
    shape = (max(1, math.ceil(height / downsample)), max(1, math.ceil(width / downsample)), 3)
    ground = np.full(shape, _BLANK, dtype=np.uint8)
    heat = _heat(ground, seen.patches, downsample=downsample)
    return element("div", _heat_picture(heat, seen), class_="pictures")


def _extent(patches: PatchValues) -> tuple[int, int]:
    right, bottom = (patches.coords_l0.max(axis=0) + patches.patch_l0).tolist()
    return math.ceil(right), math.ceil(bottom)


def _heat(pixels: Pixels, patches: PatchValues, *, downsample: float) -> Pixels:
    heat = paint_patches(patches, shape_px=(pixels.shape[0], pixels.shape[1]), downsample=downsample)
    return blend(pixels, heat, low=patches.low, high=patches.high)


def _heat_picture(pixels: Pixels, seen: Seen) -> Html:
    patches = seen.patches
    if patches is None:  # asked for only where there are some
        return Html()
    top = int(patches.values.argmax())
    x, y = patches.coords_l0[top].tolist()
    span = f"{patches.quantity}, {patches.low:g} to {patches.high:.3g}"
    alt = (
        f"{seen.slide_id}: {span} of {len(patches.values)} patches; highest {patches.values[top]:.3g} at level-0 "
        f"({x}, {y})"
    )
    bar = element("div", class_="scale", style=f"background:linear-gradient(90deg,{_colours()})")
    return figure(image(pixels, alt=alt), join([span, bar]), kind="heat")


def _colours() -> str:
    shades = colour_of(np.linspace(0, 1, 9), low=0.0, high=1.0)
    # As pale as they lie on white tissue.
    mixed = np.rint((shades + 255) / 2).astype(int)
    return ",".join(f"rgb({r},{g},{b})" for r, g, b in mixed.tolist())


def _top_patches(slide: Slide, patches: PatchValues) -> Html:
    """The patches with the highest values, the highest first."""
    order = np.argsort(-patches.values, kind="stable")[:TOP_PATCHES]
    found = []
    for index in order.tolist():
        x, y = (round(float(corner)) for corner in patches.coords_l0[index])
        value = f"{patches.values[index]:.3g}"
        pixels = read_patch(slide, x_l0=x, y_l0=y, side_l0=patches.patch_l0)
        alt = f"Patch at level-0 ({x}, {y}), {patches.quantity} {value}"
        found.append(_picture(pixels, alt=alt, caption=f"{value} at ({x}, {y})"))
    return element(
        "div", *found, class_="patches", role="group", aria_label="Patches with the highest values"
    )


def read_patch(slide: Slide, *, x_l0: int, y_l0: int, side_l0: float) -> Pixels:
    """A square of a slide, `PATCH_PX` a side, from the level that is just fine enough.

    Raises:
        SlideError: it cannot be read.
    """
    fine = [n for n, level in enumerate(slide.levels) if level.downsample <= max(1.0, side_l0 / PATCH_PX)]
    level = fine[-1] if fine else 0
    side_px = max(1, round(side_l0 / slide.levels[level].downsample))
    pixels = slide.read_region(x_l0=x_l0, y_l0=y_l0, level=level, width_px=side_px, height_px=side_px)
    return shrink(pixels, PATCH_PX)


def shrink(pixels: Pixels, most_px: int) -> Pixels:
    """A picture no larger than ``most_px`` a side; a smaller one as it is."""
    height, width = pixels.shape[:2]
    share = most_px / max(height, width)
    if share >= 1:
        return pixels
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def picture_file(path: Path, *, most_px: int) -> Pixels | None:
    """A picture file, small; None where it is not there or is damaged."""
    try:
        with Image.open(path) as image:
            return shrink(np.asarray(image.convert("RGB")), most_px)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _picture(pixels: Pixels, *, alt: str, caption: str) -> Html:
    return figure(image(pixels, alt=alt), caption, kind="picture")


def image(pixels: Pixels, *, alt: str) -> Html:
    """A picture as part of the page; ``alt`` says in words what it shows."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    height, width = pixels.shape[:2]
    return empty_element("img", src=source, alt=alt, width=width, height=height)

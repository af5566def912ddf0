"""A mask file to a `TissueMask`: polygons are drawn on the grid that the segmenters use, pictures taken as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import shapely

from wsi_vmamba.annotation import Annotation, Role, read_annotation
from wsi_vmamba.errors import AnnotationError, MaskError
from wsi_vmamba.masks.find import IMAGE_SUFFIXES, POLYGON_SUFFIXES
from wsi_vmamba.masks.image import read_image_mask
from wsi_vmamba.slide.base import Slide
from wsi_vmamba.tissue.mask import TissueMask
from wsi_vmamba.tissue.overview import overview_grid

#: Classes and groups, in lower case, whose area is cut out of the tissue; everything else is tissue, whatever its
#: name. The first are what QuPath offers, some with the asterisk that makes it ignore them itself.
NOT_TISSUE: Mapping[str, Role] = dict.fromkeys(
    ("ignore*", "ignore", "background", "artifact", "artefact", "exclude", "exclusion", "hole", "pen", "fold", "_2"),
    Role.EXCLUDED,
)  # fmt: skip

#: Pixels by which polygons may extend beyond the slide without a note.
_RIM_L0 = 2


def read_mask(path: Path, slide: Slide, *, mpp: float, content: bytes | None = None) -> TissueMask:
    """Read the mask of a slide.

    Args:
        path: GeoJSON (QuPath), ASAP XML, or a picture in which every pixel that is not black is tissue.
        slide: the open slide, for its size; no pixel is read.
        mpp: micrometres per level-0 pixel, as resolved.
        content: the bytes of the file, where they have been read; the file is not looked at again.

    Raises:
        MaskError: the file cannot be read, is no mask, or does not fit the slide.
    """
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return read_image_mask(path, slide, mpp=mpp, content=content)
    if suffix not in POLYGON_SUFFIXES:
        raise MaskError(
            slide.path,
            f"mask {path}: expected {', '.join(POLYGON_SUFFIXES + IMAGE_SUFFIXES)}, got {suffix!r}",
        )
    try:
        annotation = read_annotation(path, groups=NOT_TISSUE, others=Role.INCLUDED, content=content)
    except AnnotationError as error:
        raise MaskError(slide.path, f"mask {error}") from error
    beyond = _check_on_slide(path, slide, annotation)
    grid = overview_grid(slide, mpp=mpp)
    mask = annotation.rasterize(width_px=grid.width_px, height_px=grid.height_px, downsample=grid.downsample)
    return TissueMask(
        mask=mask, downsample=grid.downsample, mpp=mpp * grid.downsample, notes=(*annotation.notes, *beyond)
    )


def _check_on_slide(path: Path, slide: Slide, annotation: Annotation) -> tuple[str, ...]:
    """Refuse polygons that lie beside the slide; say if they reach out of it: of another one, or other pixels?"""
    if not annotation.included:
        raise MaskError(
            slide.path, f"mask {path}: it has no area that is tissue; draw one, or leave out --mask"
        )
    base = slide.levels[0]
    left, top, right, bottom = shapely.total_bounds(shapely.union_all(annotation.included))
    if right <= 0 or bottom <= 0 or left >= base.width_px or top >= base.height_px:
        raise MaskError(
            slide.path,
            f"mask {path}: its polygons lie at ({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f}), outside the "
            f"slide of {base.width_px} x {base.height_px} px; they must be in pixels of level 0 of this slide",
        )
    # A pixel or two are how polygons are drawn along an edge.
    outside = max(-left, -top, right - base.width_px, bottom - base.height_px)
    if outside <= _RIM_L0:
        return ()
    return (
        f"polygons reach {outside:.0f} px beyond the slide of {base.width_px} x {base.height_px} px; are they of this "
        "slide, in pixels of level 0?",
    )

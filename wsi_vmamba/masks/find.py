"""Which mask file belongs to which slide."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.errors import MaskError, UsageError

POLYGON_SUFFIXES = (".geojson", ".json", ".xml")
IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
#: A JPEG is no mask: compression turns background into faint tissue. It may lie beside one, as a preview.
MASK_SUFFIXES = POLYGON_SUFFIXES + IMAGE_SUFFIXES


def check_masks(masks: Path, *, n_slides: int) -> None:
    """Refuse a mask option that cannot serve the slides, before any is opened.

    Raises:
        UsageError: there is nothing at ``masks``, or it is one file for several slides.
    """
    if not masks.exists():
        raise UsageError(
            f"no mask at {masks.absolute()}; give a file, or a folder with <slide_id>{MASK_SUFFIXES[0]} for each slide"
        )
    if masks.is_file() and n_slides > 1:
        raise UsageError(
            f"{masks} is one mask for {n_slides} slides; give a folder with <slide_id>{MASK_SUFFIXES[0]} for each"
        )


def find_mask(masks: Path, slide_id: str) -> Path:
    """Return the mask of a slide: ``masks`` itself if it is a file, else ``masks/<slide_id>.<ending>``.

    Raises:
        MaskError: the folder has none or several for this slide.
    """
    if masks.is_file():
        return masks
    found = [path for suffix in MASK_SUFFIXES if (path := masks / f"{slide_id}{suffix}").is_file()]
    if len(found) == 1:
        return found[0]
    if not found:
        raise MaskError(
            slide_id, f"no mask in {masks}: expected {slide_id} with one of {', '.join(MASK_SUFFIXES)}"
        )
    raise MaskError(slide_id, f"{len(found)} masks ({', '.join(p.name for p in found)}) in {masks}; keep one")

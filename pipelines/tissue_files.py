"""Where the tissue of a slide comes from, and the files that show it: ``tissue/<slide_id>.geojson`` and ``.jpg``."""

from __future__ import annotations

import hashlib
from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.errors import MaskError, SlideError
from wsi_vmamba.masks import check_masks, draw_preview, find_mask, read_mask, tissue_geojson
from wsi_vmamba.regions import RegionPlan
from wsi_vmamba.slide import Slide
from wsi_vmamba.store import remove_stale_partials, write_bytes_atomic
from wsi_vmamba.tissue import TissueMask, segment_tissue

#: Folder beside the feature files.
FOLDER = "tissue"


def find_tissue(config: ExtractConfig, slide: Slide, *, mpp: float, slide_id: str) -> TissueMask:
    """Return the user's mask of a slide where masks are given, else what the segmenter finds.

    Raises:
        MaskError: the mask is missing, cannot be read or does not fit the slide.
        UnreadableSlideError: the segmenter cannot read the slide.
    """
    if config.mask is None:
        return segment_tissue(slide, mpp=mpp, segmenter=config.segmenter)
    return read_mask(find_mask(Path(config.mask), slide_id), slide, mpp=mpp)


def prepare_tissue(config: ExtractConfig, *, n_slides: int) -> None:
    """Refuse masks that cannot serve the slides, and clear what dead runs left among the tissue files.

    Raises:
        UsageError: there is nothing at ``config.mask``, or it is one file for several slides.
    """
    if config.mask is not None:
        check_masks(Path(config.mask), n_slides=n_slides)
    remove_stale_partials(Path(config.out) / FOLDER)


def tissue_source(config: ExtractConfig, *, slide_id: str) -> str:
    """Name to record for where the tissue came from: the segmenter, or the mask and the start of its SHA-256.

    Raises:
        MaskError: the mask is missing or cannot be read.
    """
    if config.mask is None:
        return config.segmenter
    path = find_mask(Path(config.mask), slide_id)
    try:
        return f"mask {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    except OSError as error:
        raise MaskError(slide_id, f"mask {path} cannot be read ({error.strerror})") from error


def save_tissue(
    config: ExtractConfig, slide: Slide, tissue: TissueMask, plan: RegionPlan, *, slide_id: str
) -> None:
    """Write the preview of a slide, and its polygons unless a mask was given or a person may have edited them.

    Polygons that are there are replaced with ``overwrite`` only.

    A preview that cannot be drawn, because the slide cannot be read in small, is no reason to fail a slide whose cells
    may be sound; it is left out with a warning.

    Raises:
        StoreError: a file cannot be written.
    """
    folder = Path(config.out) / FOLDER
    try:
        write_bytes_atomic(folder / f"{slide_id}.jpg", draw_preview(slide, tissue, plan))
    except SlideError as error:
        console.warn(f"{slide_id}: no preview ({error.message})")
    polygons = folder / f"{slide_id}.geojson"
    if config.mask is None and (config.overwrite or not polygons.exists()):
        write_bytes_atomic(polygons, tissue_geojson(tissue, slide_id=slide_id).encode())

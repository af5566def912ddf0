"""Where the tissue of a slide comes from, and the files that show it: ``tissue/<slide_id>.geojson`` and ``.jpg``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config import ExtractConfig, OtsuSettings
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import MaskError, SlideError
from wsi_vmamba.extraction.damage import count_damage_as_tissue
from wsi_vmamba.masks import draw_preview, find_mask, read_mask, tissue_geojson
from wsi_vmamba.regions import RegionPlan
from wsi_vmamba.slide import Slide
from wsi_vmamba.tissue import TissueMask, segment_tissue

#: Folder beside the feature files.
FOLDER = "tissue"


@dataclass(frozen=True, kw_only=True)
class FoundTissue:
    """Where the tissue of a slide is, and who says so.

    Attributes:
        mask: where it is.
        source: the segmenter, or "mask" and the start of the SHA-256 of the file that was read; recorded beside
            features.
    """

    mask: TissueMask
    source: str


def find_tissue(config: ExtractConfig, slide: Slide, *, mpp: float, slide_id: str) -> FoundTissue:
    """Return the user's mask of a slide where masks are given, else what the segmenter finds.

    What a segmenter could not see for damage counts as tissue; a mask says where tissue is, whatever can be seen. A
    mask is read once: what is recorded of it is the hash of the bytes that the tissue was taken from.

    Raises:
        MaskError: the mask is missing, cannot be read or does not fit the slide.
        UnreadableSlideError: the segmenter cannot read the slide.
    """
    if config.mask is not None:
        path, content = _read_mask_file(config.mask, slide_id)
        mask = read_mask(path, slide, mpp=mpp, content=content)
        return FoundTissue(mask=mask, source=_name_of_mask(content))
    mask = segment_tissue(slide, mpp=mpp, segmenter=config.segmenter, settings=config.segmenter_settings)
    return FoundTissue(mask=count_damage_as_tissue(mask, slide), source=config.segmenter)


def segmenter_numbers(config: ExtractConfig) -> dict[str, float]:
    """The numbers that the segmenter went by, to record; none where a mask was given or the segmenter has none."""
    used = config.mask is None and config.segmenter == OtsuSettings.segmenter
    return config.segmenter_settings.model_dump() if used else {}


def read_source(
    config: ExtractConfig, slide: Slide, *, mpp: float, slide_id: str
) -> tuple[str, tuple[str, ...]]:
    """`FoundTissue.source` of a slide and the notes on its mask, without looking for its tissue.

    Raises:
        MaskError: the mask is missing, cannot be read or does not fit the slide.
    """
    if config.mask is None:
        return config.segmenter, ()
    found = find_tissue(config, slide, mpp=mpp, slide_id=slide_id)
    return found.source, found.mask.notes


def _read_mask_file(masks: str, slide_id: str) -> tuple[Path, bytes]:
    path = find_mask(Path(masks), slide_id)
    try:
        return path, path.read_bytes()
    except OSError as error:
        raise MaskError(slide_id, f"mask {path} cannot be read ({error.strerror})") from error


def _name_of_mask(content: bytes) -> str:
    return f"mask {hashlib.sha256(content).hexdigest()[:16]}"


def save_tissue(
    config: ExtractConfig, slide: Slide, tissue: TissueMask, plan: RegionPlan, *, slide_id: str
) -> None:
    """Write the preview of a slide, and its polygons unless a mask was given or a person may have edited them.

    Polygons that are there are replaced with ``overwrite`` only. The preview is drawn anew by every run that makes
    the features: looking at the slide for it may find damaged tiles, which the feature file then names.

    A preview that cannot be drawn, because the slide cannot be read at low resolution, is no reason to fail a slide
    whose patches may be sound; it is left out with a warning.

    Raises:
        StoreError: a file cannot be written.
    """
    folder = Path(config.out) / FOLDER
    try:
        write_atomic(folder / f"{slide_id}.jpg", draw_preview(slide, tissue, plan))
    except SlideError as error:
        console.warn(f"{slide_id}: no preview ({error.message})")
    polygons = folder / f"{slide_id}.geojson"
    if config.mask is None and (config.overwrite or not polygons.exists()):
        write_atomic(polygons, tissue_geojson(tissue, slide_id=slide_id))

"""What a viewer has to know of one slide: its levels and tiles, its resolution, what the file says of itself."""

from __future__ import annotations

from typing import Any

from wsi_vmamba.slide import Slide
from wsi_vmamba.view.catalogue import Item, summary
from wsi_vmamba.view.picture import SlidePicture
from wsi_vmamba.view.pyramid import ViewLevel

#: Pictures that often name the patient.
LABELS = ("label", "macro")
#: The properties that say nothing of a patient; texts that a scanner or a person wrote freely are none of them.
_HARMLESS = (
    "format", "vendor", "objective_power", "codec", "tile", "mpp_x", "mpp_y", "mpp_source", "openslide.objective-power",
    "openslide.quickhash-1",
)  # fmt: skip


def describe_slide(item: Item, picture: SlidePicture, *, show_labels: bool) -> dict[str, Any]:
    """The page of a slide, as JSON."""
    slide, row = picture.slide, item.row
    if picture.coarse is not None:
        picture.coarse.try_damage_again()
    level0 = slide.levels[0]
    return {
        **summary(row),
        "version": item.stamp,
        "reader": slide.reader,
        "size": {"width": level0.width_px, "height": level0.height_px},
        "mpp": row.mpp if row.mpp is not None else slide.mpp,
        "objective_power": _objective_power(slide),
        "overlap": picture.overlap_px,
        "bounds_l0": _bounds(slide),
        "levels": [_level(number, level, picture) for number, level in enumerate(picture.levels)],
        "coarse": None if picture.coarse is None else f"/slides/{row.id}/coarse",
        "tile_url": f"/slides/{row.id}/tiles/{{level}}/{{column}}_{{row}}.jpg?v={item.stamp}",
        "thumbnail": f"/slides/{row.id}/thumbnail.jpg?v={item.stamp}",
        "properties": {name: slide.properties[name] for name in _HARMLESS if name in slide.properties},
        "pictures": {name: f"/slides/{row.id}/{name}.jpg?v={item.stamp}" for name in LABELS}
        if show_labels
        else {},
        "icc_profile": {"bytes": picture.icc_bytes, "carried": picture.carries_icc}
        if picture.icc_bytes
        else None,
    }


def coarse_facts(picture: SlidePicture) -> dict[str, Any]:
    """How much of the coarse picture has been read, as JSON; all of it where there is none."""
    coarse = picture.coarse
    if coarse is None:
        return {"read": 1.0, "complete": True}
    return {"read": round(coarse.read_share, 4), "complete": coarse.is_complete}


def _level(number: int, level: ViewLevel, picture: SlidePicture) -> dict[str, Any]:
    return {
        "level": number,
        "width": level.width_px,
        "height": level.height_px,
        "downsample": level.downsample,
        "tile_width": level.tile_width_px,
        "tile_height": level.tile_height_px,
        "columns": level.columns,
        "rows": level.rows,
        "passthrough": picture.passes(number),
        "made": level.source is None,
        "coarse": picture.is_coarse(number),
    }


def _objective_power(slide: Slide) -> float | None:
    for name in ("objective_power", "openslide.objective-power"):
        try:
            power = float(slide.properties.get(name, ""))
        except ValueError:
            continue
        if 0 < power < 1000:
            return power
    return None


def _bounds(slide: Slide) -> dict[str, int]:
    """Where the scanned part lies; the whole where the file does not say, or says what cannot be."""
    level0 = slide.levels[0]
    whole = {"x": 0, "y": 0, "width": level0.width_px, "height": level0.height_px}
    texts = {side: slide.properties.get(f"openslide.bounds-{side}", "") for side in whole}
    if not all(text.isascii() and text.isdigit() and len(text) < 10 for text in texts.values()):
        return whole
    found = {side: int(text) for side, text in texts.items()}
    is_inside = (
        min(found["width"], found["height"]) > 0
        and found["x"] + found["width"] <= level0.width_px
        and found["y"] + found["height"] <= level0.height_px
    )
    return found if is_inside else whole

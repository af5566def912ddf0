"""From feature files to rows: what a file says of its slide, and where that slide lies now."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_vmamba.errors import StoreError
from wsi_vmamba.folder_kinds import FEATURE_SUFFIX
from wsi_vmamba.slide import find_slides
from wsi_vmamba.slide.canvas import slide_id_of
from wsi_vmamba.slide.location import Location, is_url, may_exist, place_of
from wsi_vmamba.store import FeatureMeta, open_features
from wsi_vmamba.text import printable
from wsi_vmamba.view.row import SlideRow

_MOVED = "the slide is not where its features were made from; give --slides DIR to say where it is now"


class FeatureRows:
    """Rows of feature files; what a file says is read once, while it stays the same. May be used from any thread."""

    def __init__(self, slides: Path | None) -> None:
        """Keep where slides are looked for that were moved; None for nowhere."""
        self._slides = slides
        self._known: dict[Path, tuple[int, FeatureMeta | str]] = {}
        self._lock = threading.Lock()

    def row(self, path: Path, moved: Mapping[str, Path], *, place: Location | None = None) -> SlideRow:
        """The row of a feature file.

        Args:
            path: the file.
            moved: slides by name, as `moved_slides` finds them.
            place: where the slide lies, where something else than the file says it.
        """
        name = printable(path.name.removesuffix(FEATURE_SUFFIX))
        meta = self._meta(path)
        if isinstance(meta, str):
            return SlideRow(name=name, place=None, problem=meta)
        found = find_slide(name, moved, place, place_of(meta.slide_path))
        tissue = path.parent / "tissue" / f"{path.name.removesuffix(FEATURE_SUFFIX)}.geojson"
        size = (meta.plan.get("width_l0"), meta.plan.get("height_l0"))
        return SlideRow(
            name=name,
            place=found,
            warning="" if found is not None else _MOVED,
            # A slide that was found elsewhere may be another copy, in another format.
            reader=meta.reader if found is not None and str(found) == meta.slide_path else None,
            scene=meta.scene if found is not None else None,
            mpp=meta.mpp,
            features=path,
            tissue=tissue if tissue.is_file() else None,
            blank_l0=None if found is not None else _size(size),
        )

    def moved_slides(self) -> Mapping[str, Path]:
        """Slides in the folder for those that were moved, by name; of two of one name, which may be any, neither."""
        if self._slides is None:
            return {}
        found: dict[str, Path | None] = {}
        for path in find_slides(self._slides, problems=[]):
            name = slide_id_of(path)
            found[name] = None if name in found else path
        return {name: path for name, path in found.items() if path is not None}

    def _meta(self, path: Path) -> FeatureMeta | str:
        """What a feature file says of itself, or why it cannot be read."""
        try:
            changed = path.stat().st_mtime_ns
        except OSError as error:
            return f"its features cannot be read ({error.strerror})"
        with self._lock:
            known = self._known.get(path)
        if known is not None and known[0] == changed:
            return known[1]
        try:
            meta: FeatureMeta | str = open_features(path).meta
        except StoreError as error:
            meta = str(error).replace(f"{path.parent}/", "")
        with self._lock:
            self._known[path] = (changed, meta)
        return meta


def find_slide(name: str, moved: Mapping[str, Path], *places: Location | None) -> Location | None:
    """Where a slide lies: in the folder for those that were moved, else the first of some places that is there."""
    if name in moved:
        return moved[name]
    return next(
        (place for place in places if place is not None and (is_url(place) or may_exist(place))), None
    )


def _size(found: tuple[Any, Any]) -> tuple[int, int] | None:
    """A size, if it is one."""
    width, height = found
    if isinstance(width, int) and isinstance(height, int) and 0 < width * height < 1 << 38:
        return width, height
    return None

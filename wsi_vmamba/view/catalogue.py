"""The list of slides, as it is now, and the only table in which an id from outside is looked up."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wsi_vmamba.errors import SlideError, WsiVmambaError
from wsi_vmamba.view.open_slides import OpenSlides
from wsi_vmamba.view.row import SlideRow
from wsi_vmamba.view.sources import Source

#: The folders at the head of an absolute path.
_FOLDERS = re.compile(r"""(?<![\w.:/])/(?:[^\s/:;,'"()]+/)+""")
#: A list that was made so short a time ago is not made again.
_FRESH_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Item:
    """A slide of the list with the stamp of its file."""

    row: SlideRow
    stamp: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What opening a slide has told, or why it could not be opened."""

    width_px: int | None = None
    height_px: int | None = None
    mpp: float | None = None
    error: str | None = None


class Catalogue:
    """What is shown; may be used from any thread."""

    def __init__(self, source: Source, slides: OpenSlides) -> None:
        """List the slides once.

        Raises:
            WsiVmambaError: what was opened cannot be listed.
        """
        self.source = source
        self.slides = slides
        self.revision = 0
        self._lock = threading.Lock()
        self._items: Mapping[str, Item] = {}
        self._facts: dict[tuple[str, str], Facts] = {}
        self._listed_at = float("-inf")
        self._listing_error: str | None = None
        self._stopped = threading.Event()
        self._work = threading.Event()
        self._looker: threading.Thread | None = None
        self.refresh()

    def refresh(self) -> None:
        """List the slides anew, unless that was done just now."""
        with self._lock:
            if time.monotonic() - self._listed_at < _FRESH_S:
                return
            self._listed_at = time.monotonic()
        rows = self.source.rows()
        items = {row.id: Item(row=row, stamp=row.stamp()) for row in rows}
        with self._lock:
            if items != self._items:
                self._items = items
                self.revision += 1
                known = {(key, item.stamp) for key, item in items.items()}
                self._facts = {key: facts for key, facts in self._facts.items() if key in known}
        self._work.set()

    def find(self, slide_id: str) -> Item | None:
        """The slide of an id; None where there is none."""
        return self._items.get(slide_id)

    def items(self) -> list[Item]:
        """All slides, in the order of the list."""
        return list(self._items.values())

    def facts(self, item: Item) -> Facts | None:
        """What is known of a slide from opening it; None where nobody has yet."""
        return self._facts.get((item.row.id, item.stamp))

    def look_in_background(self, *, then: Callable[[], None]) -> None:
        """Begin to open slides one after the other, so that the list can say how large they are.

        Args:
            then: done once, in the same thread, when all have been looked at.
        """
        self._looker = threading.Thread(
            target=self._look_at_all, args=(then,), name="view-looker", daemon=True
        )
        self._looker.start()

    def stop(self) -> None:
        """End what runs in the background."""
        self._stopped.set()
        self._work.set()
        if self._looker is not None:
            self._looker.join(timeout=2.0)

    def _look_at_all(self, then: Callable[[], None]) -> None:
        is_first = True
        while not self._stopped.is_set():
            todo = [item for item in self.items() if self.facts(item) is None]
            for item in todo:
                if self._stopped.is_set():
                    return
                self.look(item)
            if not todo:
                if is_first:
                    is_first = False
                    then()
                self._work.wait()
                self._work.clear()

    def look(self, item: Item) -> Facts:
        """Open a slide and keep what it tells, or why it cannot be opened."""
        try:
            with self.slides.borrow(item.row, stamp=item.stamp) as picture:
                level = picture.slide.levels[0]
                mpp = item.row.mpp if item.row.mpp is not None else picture.slide.mpp
                facts = Facts(width_px=level.width_px, height_px=level.height_px, mpp=mpp)
        except WsiVmambaError as error:
            facts = Facts(error=words_of(error))
        with self._lock:
            if self._facts.get((item.row.id, item.stamp)) != facts:
                self._facts[item.row.id, item.stamp] = facts
                self.revision += 1
        return facts

    def listed(self) -> dict[str, Any]:
        """The list as JSON."""
        items = self.items()
        shown = [self._listed(item) for item in items]
        columns = [
            name for name in ("label", "split", "score", "decision", "patient")
            if any(row[name] is not None for row in shown)
        ]  # fmt: skip
        return {
            "revision": self.revision,
            "complete": all(self.facts(item) is not None for item in items),
            "columns": columns + sorted({name for item in items for name in item.row.extra}),
            "slides": shown,
        }

    def _listed(self, item: Item) -> dict[str, Any]:
        row, facts = item.row, self.facts(item) or Facts()
        return {
            **summary(row),
            "error": row.problem or facts.error,
            "size": None if facts.width_px is None else {"width": facts.width_px, "height": facts.height_px},
            "mpp": facts.mpp,
            "thumbnail": f"/slides/{row.id}/thumbnail.jpg?v={item.stamp}",
        }


def summary(row: SlideRow) -> dict[str, Any]:
    """What the list and the page of a slide both say of it."""
    return {
        "id": row.id,
        "name": row.name,
        "label": row.label,
        "split": row.split,
        "score": row.score,
        "decision": row.decision,
        "wrong": None not in (row.label, row.decision) and row.label != row.decision,
        "patient": row.patient,
        "warning": row.warning or None,
        "has_features": row.features is not None,
        "extra": dict(row.extra),
    }


def words_of(error: WsiVmambaError) -> str:
    """An error without the folders that lead to the files in it, which are nobody's business in a browser."""
    text = error.message if isinstance(error, SlideError) else str(error)
    if isinstance(error, SlideError) and "/" in error.slide:
        text = text.replace(error.slide, error.slide.rpartition("/")[2])
    return _FOLDERS.sub("", text)

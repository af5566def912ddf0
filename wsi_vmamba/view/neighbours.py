"""Which patches of the cohort look alike: nearest neighbours among the features of all slides.

Features are reduced to a few principal components, fitted on a sample of the cohort, and compared by the angle
between them. A million patches are 128 MB then, and a question is a pass over them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.bags import FeatureSource
from wsi_vmamba.errors import StoreError, UsageError, WsiVmambaError
from wsi_vmamba.store import open_features
from wsi_vmamba.view.catalogue import Item

_COMPONENTS = 32
#: Patches from which the components are found; those of each slide in proportion.
_SAMPLE = 20_000
#: More would not fit: a million takes 128 MB.
MOST_PATCHES = 4_000_000


@dataclass(frozen=True)
class Neighbour:
    """A patch that looks like another."""

    item: Item
    index: int
    distance: float


@dataclass
class Progress:
    """How far the index is."""

    done: int = 0
    of: int = 0
    is_ready: bool = False
    problem: str = ""
    #: Slides whose features were left out, being of another model or damaged.
    left_out: list[str] = field(default_factory=list)


class NeighbourIndex:
    """Nearest neighbours over a cohort; built in a thread of its own at the first question."""

    def __init__(self) -> None:
        self.progress = Progress()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._items: Sequence[Item] = ()
        self._starts: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self._points: NDArray[np.float32] = np.empty((0, 0), dtype=np.float32)

    def start(self, items: Sequence[Item]) -> None:
        """Begin to build the index of the slides that have features, unless that is done or begun."""
        with self._lock:
            wanted = [item for item in items if item.row.features is not None]
            same = [(each.row.id, each.stamp) for each in wanted] == [
                (each.row.id, each.stamp) for each in self._items
            ]
            if self._thread is not None and (same or self._thread.is_alive()):
                return
            self._items = wanted
            self.progress = Progress(of=len(wanted))
            self._thread = threading.Thread(target=self._build, name="view-neighbours", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Until the index is there; for tests and measurements."""
        if self._thread is not None:
            self._thread.join()

    def find(self, item: Item, index: int, *, count: int) -> list[Neighbour]:
        """The patches most like one of a slide, itself left out.

        Raises:
            StoreError: the slide is not in the index.
            UsageError: the slide has no such patch.
        """
        number = next((n for n, each in enumerate(self._items) if each == item), None)
        if number is None:
            raise StoreError(f"{item.row.name} is not among the slides that are compared")
        start, end = int(self._starts[number]), int(self._starts[number + 1])
        if start == end:
            raise StoreError(
                f"{item.row.name}: its features cannot be compared with those of the other slides"
            )
        if not 0 <= index < end - start:
            raise UsageError(f"the slide has patches 0 to {end - start - 1}, asked for {index}")
        asked = start + index
        # All lengths are 1, so this is the cosine. One pass beats scikit-learn's search by three times at a million.
        alike = self._points @ self._points[asked]
        alike[asked] = -np.inf
        wanted = min(count, len(alike) - 1)
        nearest = np.argpartition(-alike, wanted - 1)[:wanted]
        nearest = nearest[np.lexsort((nearest, -alike[nearest]))]
        found = []
        for place in nearest.tolist():
            slide = int(np.searchsorted(self._starts, place, side="right")) - 1
            distance = max(0.0, 1.0 - float(alike[place]))
            found.append(Neighbour(self._items[slide], place - int(self._starts[slide]), distance))
        return found

    def about(self) -> str:
        """What is compared, for people."""
        kept = self._points.shape
        return f"cosine distance in {kept[1]} principal components of {kept[0]:,} patches"

    def _build(self) -> None:
        progress = self.progress
        try:
            self._fill(progress)
            progress.is_ready = True
        except WsiVmambaError as error:
            progress.problem = str(error)
        except MemoryError:
            progress.problem = "there is not enough memory for the patches of all slides"
        finally:
            if (
                not progress.is_ready and not progress.problem
            ):  # a mistake of ours; nobody is to wait for ever
                progress.problem = "the patches cannot be compared; the terminal says why"

    def _fill(self, progress: Progress) -> None:
        from sklearn.decomposition import PCA

        counts = self._count(progress)
        total = sum(counts)
        if not total:
            raise StoreError("no slide has features that can be compared")
        if total > MOST_PATCHES:
            raise UsageError(f"the slides have {total:,} patches, at most {MOST_PATCHES:,} are compared")
        if total == 1:
            raise StoreError("there is one patch only, and nothing to compare it with")
        sample = self._sample(counts, total)
        dims = min(_COMPONENTS, *sample.shape)
        fitted = PCA(
            dims, svd_solver="randomized" if dims < min(sample.shape) else "full", random_state=0
        ).fit(sample)
        mean, axes = fitted.mean_.astype(np.float32), fitted.components_.T.astype(np.float32)
        points = np.empty((total, dims), dtype=np.float32)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        for number, item in enumerate(self._items):
            if counts[number]:
                features = open_features(_features_of(item)).features.astype(np.float32)
                projected = (features - mean) @ axes
                lengths = np.linalg.norm(projected, axis=1, keepdims=True)
                points[starts[number] : starts[number + 1]] = projected / np.maximum(lengths, 1e-12)
            progress.done = number + 1
        self._points, self._starts = points, starts

    def _count(self, progress: Progress) -> list[int]:
        """Patches of each slide; 0 of those whose features are damaged, or made by something else than most."""
        found: list[tuple[FeatureSource, int] | None] = []
        for item in self._items:
            try:
                file = open_features(_features_of(item))
                found.append((FeatureSource.of(file.meta), file.n_patches))
            except StoreError:
                found.append(None)
        sources = Counter(each[0] for each in found if each is not None)
        if not sources:
            return [0] * len(found)
        most = sources.most_common(1)[0][0]
        counts = [each[1] if each is not None and each[0] == most else 0 for each in found]
        progress.left_out += [
            item.row.name for item, count in zip(self._items, counts, strict=True) if not count
        ]
        return counts

    def _sample(self, counts: Sequence[int], total: int) -> NDArray[np.float32]:
        generator = np.random.default_rng(0)
        parts = []
        for item, count in zip(self._items, counts, strict=True):
            wanted = min(count, -(-_SAMPLE * count // total))
            if wanted:
                features = open_features(_features_of(item)).features
                chosen = np.sort(generator.choice(count, wanted, replace=False))
                parts.append(features[chosen].astype(np.float32))
        return np.concatenate(parts)


def _features_of(item: Item) -> Any:
    assert item.row.features is not None  # only those are kept
    return item.row.features

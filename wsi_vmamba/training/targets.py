"""Which patches of a slide are tumour, which are not, and which are unknown, from its outlines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.annotation import Annotation, read_annotation
from wsi_vmamba.annotation.raster import draw
from wsi_vmamba.bags import Bag
from wsi_vmamba.errors import AnnotationError, MissingDataError
from wsi_vmamba.records import SlideRecord

#: Share of a patch inside the outlines from which on it is tumour. Patches with less than that, but some, teach
#: nothing: half a patch is much of a micro-metastasis, and little of what the backbone saw.
TUMOR_SHARE = 0.25
#: Points looked at along each side of a patch.
_POINTS = 8
#: Endings of outline files, in the order they are looked for.
_SUFFIXES = (".xml", ".geojson", ".json")
#: Raised when equal outlines come to mean other targets, so that no training is resumed across that.
_RULES = b"2"


class PatchTargets:
    """Targets of a slide's patches, worked out once per slide; the object `train` is given.

    A normal slide has zeros. A tumour slide has ones inside its outlines and zeros outside, but for slides
    flagged as partly annotated, where outside is unknown, and for patches that an outline touches which was left
    out, of a class that is not known; without an outline that meets a patch all of it is unknown.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Keep where outlines ``<slide_id>.xml`` or ``.geojson`` are; None: where the records say."""
        self.folder = folder
        self._kept: dict[str, NDArray[np.float32]] = {}
        self._notes: dict[str, tuple[str, ...]] = {}

    def __call__(self, record: SlideRecord, bag: Bag) -> NDArray[np.float32]:
        """Return (N,) float32: 1 tumour, 0 none, NaN unknown.

        Raises:
            AnnotationError: the outlines cannot be read.
        """
        if record.slide_id not in self._kept:
            self._kept[record.slide_id] = self._make(record, bag)
        return self._kept[record.slide_id]

    def notes(self, record: SlideRecord, bag: Bag) -> tuple[str, ...]:
        """Return what was repaired or left out of the outlines of a slide, one sentence each, for the user to see.

        Raises:
            AnnotationError: the outlines cannot be read.
        """
        self(record, bag)
        return self._notes.get(record.slide_id, ())

    def find(self, record: SlideRecord) -> Path | None:
        """Return the outline file of a slide, None where there is none.

        Raises:
            AnnotationError: the folder has several for this slide.
        """
        if self.folder is None:
            return record.annotation if record.annotation and record.annotation.is_file() else None
        candidates = (self.folder / f"{record.slide_id}{suffix}" for suffix in _SUFFIXES)
        found = [path for path in candidates if path.is_file()]
        if len(found) > 1:
            named = ", ".join(path.name for path in found)
            raise AnnotationError(
                f"{record.slide_id} has {len(found)} files of outlines ({named}) in {self.folder}; keep one"
            )
        return found[0] if found else None

    def describe(self, record: SlideRecord) -> str:
        """Say what the targets of a slide are made from, so that it shows when that changes: a hash of its outlines.

        Raises:
            AnnotationError: the outlines cannot be read.
        """
        path = None if record.label == 0 else self.find(record)
        if path is None:
            return "no outlines"
        try:
            digest = hashlib.sha256(_RULES + path.read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise AnnotationError(f"{path}: the outlines cannot be read ({error.strerror})") from error
        return digest if record.outlines_complete else f"{digest}, no negatives"

    def require(self, records: Iterable[SlideRecord], *, every: bool) -> None:
        """Refuse to start where outlines are missing.

        Args:
            records: the slides to train on.
            every: whether each tumour slide needs outlines, or one of them is enough.

        Raises:
            MissingDataError: naming slides, where they were looked for and what to do.
        """
        tumors = [record for record in records if record.label == 1]
        self._refuse_lost(tumors)
        missing = [record.slide_id for record in tumors if self.find(record) is None]
        if missing and (every or len(missing) == len(tumors)):
            where = self.folder.absolute() if self.folder else "the paths of the manifest's annotation column"
            raise MissingDataError(
                f"{len(missing)} of {len(tumors)} tumour slides have no outlines at {where}, for example "
                f"{', '.join(missing[:5])}; give their folder with --annotations, or use --supervision slide"
            )

    def _refuse_lost(self, tumors: Iterable[SlideRecord]) -> None:
        """Refuse records that name outlines which are not there: a slide without any would teach nothing instead."""
        named = [] if self.folder else [(one.annotation, one.listed_at) for one in tumors if one.annotation]
        lost = [
            f"{path.absolute()}" + (f" ({line})" if line else "")
            for path, line in named
            if not path.is_file()
        ]
        if lost:
            raise MissingDataError(
                f"{len(lost)} of {len(named)} files of outlines are not there: {', '.join(lost[:5])}; correct the "
                "column annotation, or leave its cell empty"
            )

    def _make(self, record: SlideRecord, bag: Bag) -> NDArray[np.float32]:
        if record.label == 0:
            return np.zeros(len(bag.features), dtype=np.float32)
        path = self.find(record)
        if path is None:
            return np.full(len(bag.features), np.nan, dtype=np.float32)
        annotation = read_annotation(path)
        share = tumor_share(annotation, bag)
        targets = np.where(share >= TUMOR_SHARE, 1.0, np.nan).astype(np.float32)
        # Outlines that meet no patch are of elsewhere, or of tissue that was not read: of the rest nothing is known.
        if share.any():
            targets[(share == 0) & (_share(annotation.left_out_region(), bag) == 0)] = 0.0
        if not record.outlines_complete:
            targets[targets == 0] = np.nan
        self._notes[record.slide_id] = (*annotation.notes, *_notes_on(annotation, share))
        return targets


def _notes_on(annotation: Annotation, share: NDArray[np.float64]) -> tuple[str, ...]:
    """Targets from the outlines of a tumour slide and the shares (N,) of its patches that lie in them."""
    if not annotation.included:
        return ("no tumour is outlined although the label is tumour; its patches teach nothing",)
    if not share.any():
        return (
            "no patch lies in its tumour outlines, so its patches teach nothing; are the outlines of this slide and in "
            "level-0 pixels, and was that tissue found?",
        )
    return ()


def tumor_share(annotation: Annotation, bag: Bag) -> NDArray[np.float64]:
    """Share of each patch that lies in the tumour region, (N,), in steps of 1/64."""
    return _share(annotation.region(), bag)


def _share(region: Any, bag: Bag) -> NDArray[np.float64]:
    """Share of each patch that lies in a region of level-0 pixels, (N,), in steps of 1/64."""
    places = bag.coords_grid
    columns, rows = (places.max(axis=0) + 1).tolist()
    mask = draw(
        region,
        width_px=columns * _POINTS,
        height_px=rows * _POINTS,
        downsample=bag.patch_l0 / _POINTS,
    )
    shares = mask.reshape(rows, _POINTS, columns, _POINTS).mean(axis=(1, 3))
    found: NDArray[np.float64] = shares[places[:, 1], places[:, 0]]
    return found


def of_nothing(record: SlideRecord) -> str:
    """Without outlines there is nothing that targets are made from."""
    del record
    return ""


def no_targets(record: SlideRecord, bag: Bag) -> NDArray[np.float32]:
    """Every patch is unknown."""
    del record
    return np.full(len(bag.features), np.nan, dtype=np.float32)

"""Slides as bags of patch features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import DatasetError, IncompatibleStoreError, MissingDataError, UsageError
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.slide.same_name import near_names
from wsi_vmamba.store import FeatureMeta, open_features

#: Empty places of the grid between two slides of a patient: wider than any convolution of an aggregator reaches.
_SLIDE_GAP = 8
#: How far a stored corner may lie from the patch grid, in level-0 pixels: it is rounded, nothing more.
GRID_TOLERANCE_L0 = 1.0


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """What made the features of a bag; a model works only on features of the source it was trained on."""

    model: str
    weights_hash: str
    target_mpp: float
    patch_px: int
    focal_planes: str = "one"

    @classmethod
    def of(cls, meta: FeatureMeta) -> FeatureSource:
        """Take it from the attributes of a feature file."""
        return cls(
            model=meta.model,
            weights_hash=meta.weights_hash,
            target_mpp=meta.target_mpp,
            patch_px=meta.patch_px,
            focal_planes=meta.encoder.get("focal_planes", "one"),
        )

    def to_dict(self) -> dict[str, Any]:
        """The values as plain JSON, for `FeatureSource(**values)`; what older files lack only where it is set."""
        values = asdict(self)
        if self.focal_planes == "one":
            del values["focal_planes"]
        return values

    def check_same(self, other: FeatureSource, *, where: str) -> None:
        """Refuse features of another source.

        Raises:
            IncompatibleStoreError: naming what differs, with both values.
        """
        differing = [
            f"{name}: {mine!r} and {getattr(other, name)!r}"
            for name, mine in vars(self).items()
            if mine != getattr(other, name)
        ]
        if differing:
            raise IncompatibleStoreError(
                f"{where}: its features were made with other settings ({'; '.join(differing)}); "
                "extract all slides with the same settings into one folder"
            )


@dataclass(frozen=True, kw_only=True)
class Bag:
    """The features of one slide.

    Attributes:
        slide_id: name of the slide.
        features: (N, D) float32, N at least 1.
        coords_l0: (N, 2) int64, top-left corner (x, y) of each patch in level-0 pixels.
        patch_l0: side of a patch in level-0 pixels.
        label: number of its class; None where unknown.
        patient_id: whose slide it is.
        split: "train", "validation", "test" or None.
        source: what made the features; None for features that were not extracted by this package.
        scene: which picture of the slide's file they are of; None where that is not known.
    """

    slide_id: str
    features: NDArray[np.float32]
    coords_l0: NDArray[np.int64]
    patch_l0: float
    label: int | None = None
    patient_id: str = ""
    split: str | None = None
    source: FeatureSource | None = None
    scene: int | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.features.dtype != np.float32:
            raise UsageError(
                f"{self.slide_id}: expected features (N, D) float32, "
                f"got {self.features.shape} {self.features.dtype}"
            )
        if not len(self.features):
            raise DatasetError(
                f"{self.slide_id}: the bag is empty; a slide without patches cannot be classified"
            )
        if self.coords_l0.shape != (len(self.features), 2) or self.coords_l0.dtype != np.int64:
            raise UsageError(
                f"{self.slide_id}: expected coords_l0 ({len(self.features)}, 2) int64, "
                f"got {self.coords_l0.shape} {self.coords_l0.dtype}"
            )

    @property
    def coords_grid(self) -> NDArray[np.int64]:
        """Place of each patch on the slide's patch grid, (N, 2) int64, (col, row)."""
        return grid_coords(self.coords_l0, patch_l0=self.patch_l0, slide_id=self.slide_id)


def merge_bags(record: SlideRecord, bags: Sequence[Bag]) -> Bag:
    """One bag of all slides of a patient, patches in the order of the slides.

    The slides lie one after the other along the diagonal of one grid, with empty places between: row by row and column
    by column, a scan of the whole sees one slide after the other, and no slide has a neighbour in another. A place of
    that grid is a pixel of the bag's level 0, which is that of no slide.

    Args:
        record: of the patient, see `records.of_patients`.
        bags: of its slides, in their order, all of one source.
    """
    places, start = [], np.zeros(2, dtype=np.int64)
    for bag in bags:
        own = bag.coords_grid
        places.append(own - own.min(axis=0) + start)
        start = places[-1].max(axis=0) + 1 + _SLIDE_GAP
    return Bag(
        slide_id=record.slide_id,
        features=np.concatenate([bag.features for bag in bags]),
        coords_l0=np.concatenate(places),
        patch_l0=1.0,
        label=record.label,
        patient_id=record.patient_id,
        split=record.split,
        source=bags[0].source,
    )


def require_finite(bag: Bag) -> None:
    """Refuse a bag that no model can say anything of: one such number makes the whole answer no number.

    Raises:
        DatasetError: some of its features are not finite.
    """
    odd = int((~np.isfinite(bag.features).all(axis=1)).sum())
    if odd:
        raise DatasetError(
            f"{bag.slide_id}: features of {odd} of its {len(bag.features)} patches are not finite; extract the slide "
            "again with --overwrite"
        )


def grid_coords(coords_l0: NDArray[np.int64], *, patch_l0: float, slide_id: str) -> NDArray[np.int64]:
    """Turn level-0 corners (x, y) into grid places (col, row), both (N, 2) int64; the grid starts at (0, 0).

    Raises:
        DatasetError: a corner lies off the grid by more than rounding.
    """
    if not patch_l0 > 0:
        raise DatasetError(f"{slide_id}: patch_l0 must be positive, got {patch_l0!r}")
    places: NDArray[np.int64] = np.rint(coords_l0 / patch_l0).astype(np.int64)
    off = np.abs(places * patch_l0 - coords_l0).max(axis=1, initial=0.0)
    if (off > GRID_TOLERANCE_L0).any():
        worst = int(off.argmax())
        x_l0, y_l0 = coords_l0[worst]
        raise DatasetError(
            f"{slide_id}: the patch at level-0 ({x_l0}, {y_l0}) lies {off[worst]:.1f} px off the grid "
            f"of {patch_l0} px patches; coordinates and patch_l0 do not belong together"
        )
    return places


def load_bag(record: SlideRecord, features_dir: Path) -> Bag:
    """Read the features of a slide, as float32.

    Raises:
        MissingDataError: the slide has no feature file; says where it was looked for and what to run.
        StoreError: the file is damaged.
    """
    path = features_dir / f"{record.slide_id}.zarr"
    if not path.is_dir():
        raise MissingDataError(
            f"{record.slide_id}: no features at {path}; {other_names([record.slide_id], features_dir)}"
            f"make them with `wsi-vmamba extract SLIDES --out {features_dir}`"
        )
    file = open_features(path)
    return Bag(
        slide_id=record.slide_id,
        features=file.features.astype(np.float32),
        coords_l0=file.coords_l0,
        patch_l0=file.meta.patch_l0,
        label=record.label,
        patient_id=record.patient_id,
        split=record.split,
        source=FeatureSource.of(file.meta),
        scene=file.meta.scene,
    )


def other_names(missing: Iterable[str], features_dir: Path) -> str:
    """Say which slides without features have some under another spelling, ending in ``; ``; empty where none has."""
    if not features_dir.is_dir():
        return ""
    near = near_names(missing, (path.stem for path in features_dir.glob("*.zarr")))
    return f"but {near}: write the names of the files there; " if near else ""


class BagLoader:
    """Loads bags on demand and keeps recent ones in memory, up to a limit; the object `train` is given.

    Safe to call from several threads. All bags must be of one feature source.
    """

    def __init__(self, features_dir: Path, *, cache_bytes: int = 4 << 30) -> None:
        """Keep where the features lie and how many bytes of them may stay in memory."""
        self.features_dir = features_dir
        self.cache_bytes = cache_bytes
        self._kept: dict[str, Bag] = {}
        self._kept_bytes = 0
        self._source: FeatureSource | None = None
        self._lock = Lock()

    def missing(self, records: Iterable[SlideRecord]) -> list[str]:
        """Slide ids without a feature file."""
        slides = [slide.slide_id for record in records for slide in record.slides]
        return [name for name in slides if not (self.features_dir / f"{name}.zarr").is_dir()]

    def __call__(self, record: SlideRecord) -> Bag:
        """Return the bag of a slide, or of all slides of a patient.

        Raises:
            MissingDataError: the slide has no feature file.
            StoreError: the file is damaged.
            IncompatibleStoreError: made by another model, weights, mpp or patch size than the ones before.
        """
        if record.members:
            return merge_bags(record, [self(slide) for slide in record.members])
        with self._lock:
            kept = self._kept.get(record.slide_id)
            if kept is None:
                kept = self._load(record)
            return replace(kept, label=record.label, patient_id=record.patient_id, split=record.split)

    def _load(self, record: SlideRecord) -> Bag:
        bag = load_bag(record, self.features_dir)
        if self._source is None:
            self._source = bag.source
        elif bag.source is not None:
            self._source.check_same(bag.source, where=record.slide_id)
        # No eviction: each epoch visits all bags, where dropping the oldest would miss every time.
        if self._kept_bytes + bag.features.nbytes <= self.cache_bytes:
            self._kept[record.slide_id] = bag
            self._kept_bytes += bag.features.nbytes
        return bag

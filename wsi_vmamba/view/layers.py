"""Which layers a slide has, and each of them made when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsi_vmamba.probing.saved import SavedProbe
from wsi_vmamba.store import open_features
from wsi_vmamba.view import outlines
from wsi_vmamba.view.answers import UnknownLayerError
from wsi_vmamba.view.byte_cache import ByteCache
from wsi_vmamba.view.catalogue import Item
from wsi_vmamba.view.patches import (
    PatchColumn,
    PatchModel,
    PatchTable,
    has_patches,
    load_columns,
    load_table,
    numeric_column,
)
from wsi_vmamba.view.rasters import Raster, class_raster, colour_raster, scalar_raster

COMPONENTS, PREDICTED, CLASSES = "components", "predicted", "classes"
#: Layers of single features are "feature:17".
FEATURE = "feature:"
_FEWEST_FOR_COMPONENTS = 3
#: Tables and columns of the slides looked at last.
_KEPT_BYTES = 64 << 20
#: What is to be said where a run says nothing of its threshold.
_EVEN = 0.5

Vector = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SlidePatches:
    """The patches of a slide with what a model says of them."""

    table: PatchTable
    columns: Mapping[str, PatchColumn]


class Layers:
    """Makes layers; may be used from any thread."""

    def __init__(
        self, *, model: PatchModel | None, threshold: float | None, probe: SavedProbe | None = None
    ) -> None:
        """Keep who is asked about patches.

        Args:
            model: what a run says of the patches of a slide; None where there is no run.
            threshold: from which probability on a slide or a patch is called positive; None where nothing says it.
            probe: what calls patches by names of classes; None where there is none.
        """
        self._model = model
        self._threshold = threshold
        self._probe = probe
        self._kept: ByteCache[SlidePatches] = ByteCache(_KEPT_BYTES)

    def patches(self, item: Item) -> SlidePatches:
        """The patches of a slide.

        Raises:
            StoreError: it has none, or their file is damaged.
            WsiVmambaError: the model cannot be asked.
        """
        key = (item.row.id, item.stamp)
        found = self._kept.get(key)
        if found is None:
            table = load_table(item.row)
            columns = load_columns(item.row, table, model=self._model, threshold=self._threshold)
            found = SlidePatches(table=table, columns=columns)
            size = sum(each.values.nbytes for each in columns.values()) + 2 * table.coords_l0.nbytes
            self._kept.put(key, found, size)
        return found

    def places(self, item: Item) -> SlidePatches:
        """The patches of a slide without asking a model about them.

        Raises:
            StoreError: as `patches`.
        """
        kept = self._kept.get((item.row.id, item.stamp))
        return kept or SlidePatches(table=load_table(item.row), columns={})

    def column(self, item: Item, name: str) -> PatchColumn:
        """One value per patch: what a model says, or a single feature.

        Raises:
            UnknownLayerError: there is no such layer with one value per patch.
        """
        patches = self.patches(item)
        if name in patches.columns:
            return patches.columns[name]
        file, number = patches.table.features, _feature_number(name)
        if file is not None and number is not None and number < file.dim:
            values = open_features(file.path).features[:, number].astype(np.float64)
            return numeric_column(name, values, title=f"Feature {number}", group="features")
        raise UnknownLayerError(f"there is no layer {name[:60]!r} of this slide")

    def raster(self, item: Item, name: str) -> Raster:
        """A layer of pixels.

        Raises:
            UnknownLayerError: there is none of that name.
            UsageError: it is of a probe for features of another encoder.
        """
        patches = self.patches(item)
        if name == CLASSES and self._probe is not None:
            return _classes(patches.table, self._probe)
        if name != COMPONENTS:
            return scalar_raster(patches.table, self.column(item, name))
        file = patches.table.features
        if file is None or min(file.n_patches, file.dim) < _FEWEST_FOR_COMPONENTS:
            raise UnknownLayerError("there are no principal components of this slide")
        from wsi_vmamba.report.components import principal_colours

        rgb, explained = principal_colours(open_features(file.path).features)
        return colour_raster(
            patches.table, name=COMPONENTS, title="Principal components", rgb=rgb,
            more={"explained": [float(share) for share in explained]},
        )  # fmt: skip

    def vector(self, item: Item, name: str) -> Vector | None:
        """A layer of areas; None where the name is that of no such layer.

        Raises:
            AnnotationError: the outlines cannot be read.
            StoreError: the features are damaged.
        """
        row = item.row
        areas = {"tissue": row.tissue, "truth": row.annotation}.get(name)
        if areas is not None:
            return outlines.drawn(areas)
        if name == "regions" and row.features is not None:
            return outlines.regions(open_features(row.features).meta)
        return self._predicted(item) if name == PREDICTED and has_patches(row) else None

    def _predicted(self, item: Item) -> Vector:
        patches = self.patches(item)
        column = patches.columns.get("probability")
        if column is None:
            raise UnknownLayerError("there are no predicted outlines of this slide")
        return outlines.predicted(
            patches.table, column, threshold=_EVEN if self._threshold is None else self._threshold
        )

    def listed(self, item: Item) -> dict[str, Any]:
        """All layers of a slide, as JSON."""
        row = item.row

        def line(name: str, title: str, kind: str, group: str) -> dict[str, Any]:
            url = f"/slides/{row.id}/layers/{name}?v={item.stamp}"
            return {"id": name, "title": title, "kind": kind, "group": group, "url": url}

        found: list[dict[str, Any]] = []
        columns = None
        if has_patches(row):
            patches = self.patches(item)
            found += [line(each.id, each.title, "scalar", each.group) for each in patches.columns.values()]
            file = patches.table.features
            if file is not None:
                if min(file.n_patches, file.dim) >= _FEWEST_FOR_COMPONENTS:
                    found.append(line(COMPONENTS, "Principal components", "rgb", "features"))
                columns = {
                    "count": file.dim, "title": "Feature {column}",
                    "url": f"/slides/{row.id}/layers/{FEATURE}{{column}}?v={item.stamp}",
                }  # fmt: skip
                if self._probe is not None:
                    found.append(line(CLASSES, "Probe classes", "classes", "probe"))
            if "probability" in patches.columns:
                found.append(line(PREDICTED, "Predicted outlines", "vector", "outlines"))
        for name, title, there in (
            ("tissue", "Tissue mask", row.tissue), ("truth", "Truth outlines", row.annotation),
            ("regions", "Region plan", row.features),
        ):  # fmt: skip
            if there is not None:
                found.append(line(name, title, "vector", "outlines"))
        return {"layers": found, "columns": columns}


def _classes(table: PatchTable, probe: SavedProbe) -> Raster:
    """What a probe calls each patch."""
    if table.features is None:
        raise UnknownLayerError("there are no features of this slide that a probe could be asked about")
    notes = probe.check(table.features.meta)
    shares = probe.predict(open_features(table.features.path).features)
    return class_raster(
        table, shares.argmax(axis=1), names=probe.classes, name=CLASSES, title="Probe classes", notes=notes
    )


def _feature_number(name: str) -> int | None:
    """The number of the feature that a layer's name names."""
    number = name.removeprefix(FEATURE)
    is_one = name.startswith(FEATURE) and number.isascii() and number.isdigit() and len(number) < 7
    return int(number) if is_one else None

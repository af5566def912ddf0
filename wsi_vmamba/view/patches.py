"""The patches of a slide, where they lie, and what is known of each: the table that all layers are made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from wsi_vmamba.bags import grid_coords
from wsi_vmamba.errors import StoreError
from wsi_vmamba.store import FeatureFile, open_features
from wsi_vmamba.view.row import SlideRow

Floats = NDArray[np.float64]
#: Attention is very uneven; above this percentile of the patches the colour no longer changes.
_TOP_PERCENTILE = 99.0
#: How the attention of one of several classes is called.
_ATTENTION_OF = "Attention for "
_METADATA_KEY = "wsi_vmamba"
_PREDICTION_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class PatchColumn:
    """One value per patch.

    Attributes:
        id: names the layer.
        title: for people.
        quantity: what the value is, with its unit.
        group: "model", "features" or "scores".
        values: shape (N,); NaN where a patch has none.
        low: value of the first colour.
        high: value of the last colour.
        threshold: a value worth a mark.
    """

    id: str
    title: str
    quantity: str
    group: str
    values: Floats
    low: float
    high: float
    threshold: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchTable:
    """The patches of one slide.

    Attributes:
        coords_l0: top-left corners (x, y) in level-0 pixels, shape (N, 2), int64.
        patch_l0: side of a patch in level-0 pixels.
        patch_um: side of a patch in micrometres; None where that is not known.
        grid: (column, row) of each on the slide's patch grid, shape (N, 2), int64.
        features: the feature file; None where there is none.
    """

    coords_l0: NDArray[np.int64]
    patch_l0: float
    patch_um: float | None
    grid: NDArray[np.int64]
    features: FeatureFile | None

    def corner_l0(self, index: int) -> tuple[float, float]:
        """The exact corner of a patch, from its place on the grid."""
        column, row = self.grid[index]
        return float(column * self.patch_l0), float(row * self.patch_l0)

    def index_at(self, *, x_l0: float, y_l0: float) -> int | None:
        """The patch under a point of level 0; None where there is none."""
        column, row = np.floor(np.array((x_l0, y_l0)) / self.patch_l0)
        found = np.flatnonzero((self.grid[:, 0] == column) & (self.grid[:, 1] == row))
        return int(found[0]) if len(found) else None


#: What a model says of the patches of a slide: layer id -> values (N,).
PatchModel = Callable[[SlideRow], Mapping[str, NDArray[Any]]]


def has_patches(row: SlideRow) -> bool:
    """Whether patches of a slide are known."""
    return row.features is not None or row.prediction is not None


def load_table(row: SlideRow) -> PatchTable:
    """Read where the patches of a slide lie.

    Raises:
        StoreError: a file is missing or damaged, or the slide has no patches.
        DatasetError: the patches do not lie on a grid.
    """
    if row.features is not None:
        file = open_features(row.features)
        # Not `file.features`: they are read when they are needed, and let go.
        coords, side, meta = file.coords_l0, file.meta.patch_l0, file.meta
        return _table(row, coords, side, meta.patch_px * meta.target_mpp, features=file)
    if row.prediction is None:
        raise StoreError(
            f"{row.name}: there are no features of this slide; make them with `wsi-vmamba extract`"
        )
    tensors, facts = read_prediction(row.prediction)
    try:
        side, um = float(facts["patch_l0"]), float(facts["patch_px"]) * float(facts["target_mpp"])
        coords = tensors["coords_l0"].astype(np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{row.prediction.name} is no prediction of patches ({error!r}); predict again"
        ) from error
    return _table(row, coords, side, um, features=None)


def _table(
    row: SlideRow,
    coords_l0: NDArray[np.int64],
    patch_l0: float,
    patch_um: float,
    *,
    features: FeatureFile | None,
) -> PatchTable:
    return PatchTable(
        coords_l0=coords_l0, patch_l0=patch_l0, patch_um=patch_um, features=features,
        grid=grid_coords(coords_l0, patch_l0=patch_l0, slide_id=row.name),
    )  # fmt: skip


def load_columns(
    row: SlideRow, table: PatchTable, *, model: PatchModel | None, threshold: float | None
) -> dict[str, PatchColumn]:
    """What models say of the patches: from the slide's prediction file, else asked of the run's model now.

    Raises:
        StoreError: a prediction file is missing, damaged or of other patches.
        WsiVmambaError: the model cannot be asked.
    """
    said: Mapping[str, NDArray[Any]] = {}
    if row.prediction is not None:
        tensors, facts = read_prediction(row.prediction)
        if not np.array_equal(tensors.get("coords_l0", np.empty(0)), table.coords_l0):
            raise StoreError(
                f"{row.prediction.name} is of other patches than the features of this slide; predict again"
            )
        of_classes = tensors.pop("class_attention", None)
        said = {name: values for name, values in tensors.items() if name != "coords_l0"}
        if of_classes is not None:
            said |= attention_of_classes(facts.get("classes", ()), of_classes.T)
    elif model is not None:
        said = model(row)
    found = {}
    for place, (name, values) in enumerate(said.items()):
        column = _column(name, np.asarray(values, dtype=np.float64), threshold=threshold)
        if column is not None and name.startswith(_ATTENTION_OF):
            # Names of classes may hold anything, the id of a layer stands in an address.
            column = replace(column, id=f"attention-{place}", title=name)
        if column is not None:
            found[column.id] = column
    return found


def attention_of_classes(classes: Iterable[str], attention: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Attention (K, N) of each class by what it is called here."""
    return {f"{_ATTENTION_OF}{name}": row for name, row in zip(classes, attention, strict=True)}


def _column(name: str, values: Floats, *, threshold: float | None) -> PatchColumn | None:
    if name == "probability":
        return PatchColumn(
            id=name, title="Tumour probability of patches", quantity="tumour probability", group="model",
            values=values, low=0.0, high=1.0, threshold=threshold,
        )  # fmt: skip
    if name == "attention" or name.startswith(_ATTENTION_OF):
        total = float(values.sum())
        if not total > 0:
            return None
        relative = values * (len(values) / total)
        return PatchColumn(
            id=name, title="Attention", quantity="attention / mean of the slide", group="model", values=relative,
            low=0.0, high=max(2.0, float(np.percentile(relative, _TOP_PERCENTILE))), threshold=1.0,
        )  # fmt: skip
    return numeric_column(name, values, title=name, group="scores")


def numeric_column(name: str, values: Floats, *, title: str, group: str) -> PatchColumn:
    """Any values, with colours from the first to the last percentile."""
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, (1.0, 99.0)) if len(known) else (0.0, 1.0)
    return PatchColumn(
        id=name, title=title, quantity=title, group=group, values=values, low=float(low),
        high=float(high) if high > low else float(low) + 1.0,
    )  # fmt: skip


def read_prediction(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The tensors of a prediction file, (N, ...) each, and what it says of itself.

    Raises:
        StoreError: it is missing, damaged or of another version.
    """
    try:
        with safe_open(path, framework="np") as file:
            facts = json.loads((file.metadata() or {})[_METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise StoreError(
            f"{path.name} is no prediction of patches, or damaged ({error}); predict again"
        ) from error
    if not isinstance(facts, dict) or facts.get("version") != _PREDICTION_VERSION:
        raise StoreError(
            f"{path.name}: expected version {_PREDICTION_VERSION} of a prediction; predict again"
        )
    lengths = {len(values) for values in tensors.values()}
    if len(lengths) != 1 or "coords_l0" not in tensors:
        raise StoreError(f"{path.name}: its values are of different numbers of patches; predict again")
    return tensors, facts

"""A line a patch."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.export.patches import whole
from wsi_vmamba.prediction.heatmaps.formats import Format
from wsi_vmamba.prediction.heatmaps.heatmap import Heatmap

COLUMNS = ("x_l0", "y_l0", "width_l0", "height_l0", "value")


def write_csv(heatmap: Heatmap, path: Path, _bands: int) -> None:
    """Write the rectangle of each patch in level-0 pixels, cut at the slide's edge, and its value."""
    rows = (
        [*map(whole, (left, top, right - left, bottom - top)), value]
        for (left, top, right, bottom), value in zip(
            heatmap.prediction.boxes_l0.tolist(), heatmap.patches.values.tolist(), strict=True
        )
    )
    write_atomic(path, csv_text(COLUMNS, rows))


CSV = Format(".csv", write_csv)

"""A figure of the slide and of the slide under the colours of its patches."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.prediction.heatmaps.formats import Format
from wsi_vmamba.prediction.heatmaps.heatmap import Heatmap


def write_png(heatmap: Heatmap, path: Path, _bands: int) -> None:
    """Write ``path`` and, beside it, a JSON of what it shows."""
    heatmap.draw(path.parent, name=path.stem)


PNG = Format(".png", write_png)

"""A saved probe on the features of a slide: probabilities of its patches as a table and as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.probing.saved import SavedProbe
from wsi_vmamba.report.heatmap import PatchValues, draw_patches
from wsi_vmamba.slide import Slide
from wsi_vmamba.store import FeatureFile


def write_table(stored: FeatureFile, shares: NDArray[np.float64], probe: SavedProbe, path: Path) -> None:
    """Write the corner of each patch (level-0 pixels) and the probability (n, classes) of each class."""
    rows = (
        (x, y, *(f"{share:.6g}" for share in row))
        for (x, y), row in zip(stored.coords_l0.tolist(), shares.tolist(), strict=True)
    )
    write_atomic(path, csv_text(("x_l0", "y_l0", *(f"p_{name}" for name in probe.classes)), rows))


def draw_classes(
    slide: Slide,
    stored: FeatureFile,
    shares: NDArray[np.float64],
    probe: SavedProbe,
    folder: Path,
    *,
    stem: str,
) -> list[Path]:
    """Draw the probability of each class over the slide: ``<stem>.probe.<class>.png``."""
    return [
        draw_patches(
            slide,
            PatchValues(
                values=shares[:, place],
                coords_l0=stored.coords_l0,
                patch_l0=stored.meta.patch_l0,
                low=0.0,
                high=1.0,
                quantity=f"probability of {name}",
            ),
            folder,
            mpp=stored.meta.mpp,
            name=f"{stem}.probe.{name}",
            title=f"{stored.meta.slide_id}: probability of {name}",
        ).png
        for place, name in enumerate(probe.classes)
    ]

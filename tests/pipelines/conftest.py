"""Features of a cohort that are quick to make."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wsi_vmamba.store import FeatureMeta, FeatureWriter

PATCH_L0 = 256


@pytest.fixture(scope="session")
def write_cohort() -> Callable[..., None]:
    """Write features of slides s00, s01 ..., every second one of a tumour, and cohort.csv with the last as test slides.

    ``draw(index, tumour)`` gives a slide's patches, float32 (rows, columns, dim); other columns of the CSV go by name.
    """

    def write(
        folder: Path,
        draw: Callable[[int, bool], np.ndarray],
        *,
        slides: int,
        train: int,
        **columns: list[str],
    ) -> None:
        with (folder / "cohort.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["slide_id", "path", "label", "split", *columns])
            for index in range(slides):
                slide_id, tumour = f"s{index:02d}", index % 2 == 1
                _write_patches(folder / "features", slide_id, draw(index, tumour))
                split = "train" if index < train else "test"
                more = [values[index] for values in columns.values()]
                writer.writerow([slide_id, f"{slide_id}.tif", int(tumour), split, *more])

    return write


def _write_patches(folder: Path, slide_id: str, patches: np.ndarray) -> None:
    rows, columns, dim = patches.shape
    corners = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2) * PATCH_L0
    meta = FeatureMeta(
        slide_id=slide_id, slide_path=f"{slide_id}.tif", reader="tiff", mpp=0.5, mpp_source="override",
        target_mpp=0.5, patch_px=PATCH_L0, patch_l0=float(PATCH_L0), segmenter="otsu", model="null", weights_hash="0",
        plan={"width_l0": columns * PATCH_L0, "height_l0": rows * PATCH_L0}, precision="fp32", versions={},
    )  # fmt: skip
    with FeatureWriter(folder / f"{slide_id}.zarr", meta, dim) as writer:
        writer.append(patches.reshape(-1, dim), corners.astype(np.int64))
        writer.commit()

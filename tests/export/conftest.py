"""A feature file whose every value is known: patches on a grid that does not fall on whole pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsi_vmamba.regions import RegionSpec, plan_regions
from wsi_vmamba.slide import Level
from wsi_vmamba.store import FeatureMeta, FeatureWriter
from wsi_vmamba.tissue import TissueMask

DIM = 12
MPP = 0.2431  # 0.5 / 0.2431 is no whole number, so neither is a patch in level-0 pixels
SIDE_L0 = (5000, 3100)


def write_features(folder: Path, slide_id: str = "case 1", *, mpp: float = MPP, seed: int = 0) -> Path:
    """A slide of SIDE_L0 with an elliptic piece of tissue, features drawn from ``seed``."""
    y, x = np.mgrid[:31, :50]
    mask = (x - 24) ** 2 / 24**2 + (y - 16) ** 2 / 15**2 < 1
    plan = plan_regions(
        width_l0=SIDE_L0[0],
        height_l0=SIDE_L0[1],
        mpp=mpp,
        levels=[Level(width_px=SIDE_L0[0], height_px=SIDE_L0[1], downsample=1.0)],
        spec=RegionSpec(target_mpp=0.5, patch_px=64, region_px=640),
        tissue=TissueMask(mask=mask, downsample=100.0, mpp=mpp * 100),
    )
    meta = FeatureMeta(
        slide_id=slide_id, slide_path="/slides/x.tif", reader="tiff", mpp=mpp, mpp_source="override",
        target_mpp=0.5, patch_px=64, patch_l0=plan.patch_l0, plan=plan.to_dict(), segmenter="otsu",
        model="vmamba_pico", weights_hash="ab" * 32, precision="fp32", versions={},
    )  # fmt: skip
    coords_l0 = np.concatenate([plan.coords_l0(region) for region in plan.regions])
    features = np.random.default_rng(seed).normal(size=(len(coords_l0), DIM)).astype(np.float32)
    with FeatureWriter(folder / f"{slide_id}.zarr", meta, DIM) as writer:
        writer.append(features, coords_l0)
        writer.commit()
    return folder / f"{slide_id}.zarr"


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    write_features(folder)
    write_features(folder, "case-2", seed=1)
    return folder


@pytest.fixture(scope="module")
def make_features():
    return write_features

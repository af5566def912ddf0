"""A mask that is changed while its slide is processed: tissue and recorded hash are of the same bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsi_vmamba.annotation import write_asap
from wsi_vmamba.extraction import tissue_files
from wsi_vmamba.pipelines import extract
from wsi_vmamba.store import open_features


def write_mask(path: Path, *, left: int, right: int) -> bytes:
    """Mark columns of level 0 of a slide of 640 x 512 px; gives the bytes."""
    ring = [[left, 0], [right, 0], [right, 512], [left, 512], [left, 0]]
    grey = np.zeros((64, 80), np.uint8)
    grey[:, left // 8 : right // 8] = 255
    if path.suffix == ".geojson":
        path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    elif path.suffix == ".xml":
        write_asap(path, [ring[:-1]])
    elif path.suffix == ".tif":
        tifffile.imwrite(path, grey)
    else:
        Image.fromarray(grey).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("when", ["before it is parsed", "after it is parsed"])
@pytest.mark.parametrize("suffix", [".geojson", ".xml", ".png", ".tif", ".bmp"])
def test_tissue_and_hash_are_of_the_same_bytes(
    suffix, when, write_tiny_slide, tmp_path, extract_config, monkeypatch
):
    slide = write_tiny_slide(tmp_path / "slides" / "s.tif")
    mask = tmp_path / f"s{suffix}"
    other = write_mask(mask, left=0, right=640)
    first = write_mask(mask, left=0, right=256)
    real = tissue_files.read_mask

    def read_while_somebody_saves(path: Path, *values: object, **options: object) -> object:
        if when == "before it is parsed":
            path.write_bytes(other)
        found = real(path, *values, **options)
        path.write_bytes(other)
        return found

    monkeypatch.setattr(tissue_files, "read_mask", read_while_somebody_saves)
    assert extract.run(extract_config(slide, tmp_path / "out", mask=str(mask))) is True
    stored = open_features(tmp_path / "out" / "s.zarr")
    assert stored.meta.segmenter == f"mask {hashlib.sha256(first).hexdigest()[:16]}"
    assert set(stored.coords_l0[:, 0].tolist()) == {0, 64, 128, 192}
    assert stored.n_patches == 4 * 8

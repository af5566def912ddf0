"""Pictures with a painted lesion, and what writes them for each reader."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import tifffile
import zarr
from PIL import Image

MPP = 0.5
PATCH_PX = 32
WIDTH, HEIGHT = 640, 512


def tissue(
    width: int = WIDTH, height: int = HEIGHT, *, seed: int = 0, lesion: tuple[int, ...] | None = None
) -> np.ndarray:
    """Pink noise, and dark blue where the lesion is."""
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    picture = np.clip(np.array((205, 130, 175)) + noise, 0, 255)
    if lesion is not None:
        left, top, right, bottom = lesion
        part = (slice(top, bottom), slice(left, right))
        picture[part] = np.clip(np.array((80, 40, 130)) + noise[part], 0, 255)
    return picture.astype(np.uint8)


def write_tiff(path: Path, picture: np.ndarray, *, mpp: float | None = MPP) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tif:
        for factor in (1, 2):
            resolution = {} if mpp is None else {
                "resolution": (1e4 / mpp / factor, 1e4 / mpp / factor), "resolutionunit": "CENTIMETER"
            }  # fmt: skip
            tif.write(
                picture[::factor, ::factor], tile=(64, 64), photometric="rgb", compression="zlib", metadata=None,
                subfiletype=int(factor > 1), **resolution,
            )  # fmt: skip
    return path


def write_zarr(path: Path, picture: np.ndarray) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", data=np.ascontiguousarray(picture.transpose(2, 0, 1)), chunks=(3, 64, 64))
    scale = [{"type": "scale", "scale": [1.0, MPP, MPP]}]
    axes = [
        {"name": "c", "type": "channel"},
        *({"name": name, "type": "space", "unit": "micrometer"} for name in "yx"),
    ]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {
        "version": "0.5", "multiscales": [{"version": "0.5", "axes": axes, "datasets": datasets}]
    }  # fmt: skip
    return path


def write_deepzoom(path: Path, picture: np.ndarray, *, tile: int = 100, overlap: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = picture.shape[:2]
    path.write_text(
        f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" TileSize="{tile}" Overlap="{overlap}" Format="png">'
        f'<Size Width="{width}" Height="{height}"/></Image>'
    )
    level = picture
    for number in range(math.ceil(math.log2(max(width, height))), -1, -1):
        folder = path.parent / f"{path.stem}_files" / str(number)
        folder.mkdir(parents=True)
        height, width = level.shape[:2]
        for row in range(math.ceil(height / tile)):
            for column in range(math.ceil(width / tile)):
                x, y = column * tile, row * tile
                part = level[
                    max(0, y - overlap) : y + tile + overlap, max(0, x - overlap) : x + tile + overlap
                ]
                Image.fromarray(np.ascontiguousarray(part)).save(folder / f"{column}_{row}.png")
        level = np.ascontiguousarray(cv2.resize(level, (-(-width // 2), -(-height // 2))))
    return path


def write_outline(path: Path, box: tuple[int, ...]) -> None:
    left, top, right, bottom = map(int, box)
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    feature = {
        "type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))

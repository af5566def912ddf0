"""Large tiled JPEG TIFFs in seconds: 64 pictures of painted tissue are encoded once and repeated over the slide."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

_PICTURES = 64
_TILE_PX = 512
_QUALITY = 80
#: Micrometres per level-0 pixel.
MPP = 0.5
#: Of what reading and viewing are measured on: 6.0 gigapixels, 60 regions of 9,984 px.
LARGE_PX = (10 * 9_984, 6 * 9_984)


def made_slide(
    folder: Path, name: str, size_px: tuple[int, int], *, factors: Sequence[int] = (1, 4, 16)
) -> Path:
    """The slide of that name and (width, height) in a folder, made where it is not there yet."""
    width_px, height_px = size_px
    path = folder / f"{name}-{width_px}x{height_px}.tif"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_slide(path, width_px=width_px, height_px=height_px, factors=factors)
    return path


def write_slide(path: Path, *, width_px: int, height_px: int, factors: Sequence[int] = (1, 4, 16)) -> None:
    """Write a slide with a level for each factor, tiles of 512 px, YCbCr 4:2:0 as scanners do.

    The levels are not reductions of each other, which no reader can tell and no figure here depends on.
    """
    generator = np.random.default_rng(0)
    pictures = [_jpeg(_tissue(generator)) for _ in range(_PICTURES)]
    partial = path.with_suffix(".partial")
    with tifffile.TiffWriter(partial, bigtiff=True) as tif:
        for factor in factors:
            width, height = width_px // factor, height_px // factor
            per_cm = 10_000 / MPP / factor
            tif.write(
                _repeat(pictures, -(-width // _TILE_PX) * -(-height // _TILE_PX)),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(_TILE_PX, _TILE_PX),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=int(factor > 1),
                metadata=None,
            )
    partial.replace(path)


def _repeat(pictures: list[bytes], count: int) -> Iterator[bytes]:
    generator = np.random.default_rng(1)
    for index in generator.integers(0, len(pictures), count):
        yield pictures[index]


def _tissue(generator: np.random.Generator) -> NDArray[np.uint8]:
    """Pink with soft structure, dark nuclei and the noise of a sensor."""
    shape = (_TILE_PX, _TILE_PX)
    soft = cv2.GaussianBlur(generator.normal(0, 1, shape), (0, 0), 12)
    fine = cv2.GaussianBlur(generator.normal(0, 1, shape), (0, 0), 2)
    picture = np.array((225.0, 165.0, 205.0)) + (400 * soft + 40 * fine)[..., None] * np.array(
        (0.5, 1.0, 0.6)
    )
    for x, y, radius in zip(
        *generator.integers(0, _TILE_PX, (2, 250)), generator.integers(4, 9, 250), strict=True
    ):
        cv2.circle(picture, (int(x), int(y)), int(radius), (105.0, 70.0, 150.0), -1)
    picture = cv2.GaussianBlur(picture, (0, 0), 0.8) + generator.normal(0, 2, (*shape, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY, subsampling="4:2:0")
    return file.getvalue()

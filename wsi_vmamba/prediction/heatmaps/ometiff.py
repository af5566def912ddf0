"""A pyramid as large as the slide: every pixel has the colour of the patch that lies there, white where there is none.

A tile that lies within one patch is one colour and is compressed once, so that a slide of gigapixels takes seconds.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import MissingDataError
from wsi_vmamba.prediction.heatmaps.formats import Format
from wsi_vmamba.prediction.heatmaps.heatmap import Heatmap
from wsi_vmamba.report.heatmap import colour_of, places_of, value_grid

#: Side of a tile where it cannot be that of a patch, the sides between which it can, and the size below which no
#: further level is made.
_TILE_PX = 512
_SMALLEST_TILE_PX, _LARGEST_TILE_PX = 64, 1024
_SMALLEST_PX = 1024
_WHITE = 255
#: What viewers open is at most so many levels deep.
_MOST_LEVELS = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Painter:
    """Paints tiles of the slide from the colours of a grid, whose last row and column stand for beyond.

    Attributes:
        colours: uint8 (rows, columns, samples) of the grid.
        patch_l0: side of a square of the grid in level-0 pixels.
    """

    colours: NDArray[np.uint8]
    patch_l0: float

    def tile_px(self, downsample: int) -> int:
        """Side of the tiles of a level: that of a patch where TIFF allows it, so that every tile is of one colour."""
        patch_px = self.patch_l0 / downsample
        fits = patch_px == int(patch_px) and int(patch_px) % 16 == 0 and patch_px >= _SMALLEST_TILE_PX
        return int(patch_px) if fits and patch_px <= _LARGEST_TILE_PX else _TILE_PX

    def tiles(self, *, width_px: int, height_px: int, downsample: int) -> Iterator[bytes]:
        """Compressed tiles of a level, row by row, each of the full size."""
        side = self.tile_px(downsample)
        columns = [self._places(left, side, downsample, axis=1) for left in range(0, width_px, side)]
        uniform: dict[bytes, bytes] = {}
        for top in range(0, height_px, side):
            rows = self._places(top, side, downsample, axis=0)
            # Each row of patches once, as often as it has pixels.
            of_patches, heights_px = np.unique(rows, return_counts=True)
            for column in columns:
                inside = self.colours[of_patches[0] : of_patches[-1] + 1, column[0] : column[-1] + 1]
                first = inside[0, 0]
                if (inside == first).all():
                    key = first.tobytes()
                    if key not in uniform:
                        uniform[key] = _compress(key * side**2)
                    yield uniform[key]
                else:
                    lines = self.colours[of_patches[:, None], column[None, :]]
                    yield _compress(np.repeat(lines, heights_px, axis=0).tobytes())

    def _places(self, first_px: int, size_px: int, downsample: int, *, axis: int) -> NDArray[np.int64]:
        return places_of(
            first_px,
            size_px,
            downsample=downsample,
            patch_l0=self.patch_l0,
            n_places=self.colours.shape[axis],
        )


def _compress(pixels: bytes) -> bytes:
    """As zlib does it, several times as fast."""
    return bytes(imagecodecs.deflate_encode(pixels, level=1))


def write_ometiff(heatmap: Heatmap, path: Path, _bands: int) -> None:
    """Write an OME-TIFF with the width, height and resolution of the slide's level 0, its levels halved each.

    Raises:
        MissingDataError: the size of the slide is not known.
        StoreError: the file cannot be written.
    """
    found = heatmap.prediction
    width_l0, height_l0 = found.width_l0, found.height_l0
    if width_l0 is None or height_l0 is None:
        raise MissingDataError(
            f"{heatmap.slide_id}: its features do not say how large the slide is; extract it again with --overwrite"
        )
    metadata = _metadata(heatmap)
    write_pyramid(
        _painter(heatmap), path, width_l0=width_l0, height_l0=height_l0, mpp=found.mpp, metadata=metadata
    )


def write_pyramid(
    painter: Painter, path: Path, *, width_l0: int, height_l0: int, mpp: float, metadata: Mapping[str, Any]
) -> None:
    """Write an OME-TIFF with the size and resolution of a slide, its levels halved each.

    Args:
        painter: paints it; three samples are RGB, one is grey.
        path: of the file.
        width_l0: width of the slide.
        height_l0: height of the slide.
        mpp: micrometres per level-0 pixel.
        metadata: name and description for its OME-XML.

    Raises:
        StoreError: the file cannot be written.
    """
    samples = painter.colours.shape[2]
    halvings = max(0, math.ceil(math.log2(max(width_l0, height_l0) / _SMALLEST_PX)))
    factors = [2**power for power in range(min(halvings, _MOST_LEVELS) + 1)]
    out = io.BytesIO()
    with tifffile.TiffWriter(out, bigtiff=True, ome=True) as tif:
        for factor in factors:
            width_px, height_px = -(-width_l0 // factor), -(-height_l0 // factor)
            per_cm = 1e4 / (mpp * factor)
            first: dict[str, Any] = (
                {"subifds": len(factors) - 1, "metadata": _with_pixel_size(metadata, mpp, samples)}
                if factor == 1
                else {"subfiletype": 1, "metadata": None}
            )
            tif.write(
                painter.tiles(width_px=width_px, height_px=height_px, downsample=factor),
                shape=(height_px, width_px, 3) if samples == 3 else (height_px, width_px),
                dtype=np.uint8,
                tile=(painter.tile_px(factor),) * 2,
                photometric="rgb" if samples == 3 else "minisblack",
                compression="adobe_deflate",
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                **first,
            )
    write_atomic(path, out.getvalue())


def _with_pixel_size(metadata: Mapping[str, Any], mpp: float, samples: int) -> dict[str, Any]:
    return {
        "axes": "YXS" if samples == 3 else "YX",
        **metadata,
        "PhysicalSizeX": mpp,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp,
        "PhysicalSizeYUnit": "µm",
    }


def _painter(heatmap: Heatmap) -> Painter:
    grid = value_grid(heatmap.patches)
    colours = np.rint(colour_of(grid, low=heatmap.patches.low, high=heatmap.patches.high)).astype(np.uint8)
    colours[np.isnan(grid)] = _WHITE
    return Painter(colours=colours, patch_l0=heatmap.patches.patch_l0)


def _metadata(heatmap: Heatmap) -> dict[str, Any]:
    patches = heatmap.patches
    return {
        "Name": f"{heatmap.slide_id} {heatmap.layer}",
        "Description": f"{patches.quantity}, colours from {patches.low:g} to {patches.high:g}; white: no patch",
    }


OME_TIFF = Format(".ome.tif", write_ometiff)

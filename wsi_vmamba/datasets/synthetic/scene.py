"""A scene: layers of tissue described by coarse fields, painted block by block with textures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.datasets.synthetic.noise import FloatArray
from wsi_vmamba.datasets.synthetic.stain import StainLut
from wsi_vmamba.datasets.synthetic.textures import TISSUES

_Sample = TypeVar("_Sample", np.uint8, np.float32)

#: Pixels per sample of the coarse fields.
STEP_PX = 8
#: Side of the blocks a scene is painted in; a multiple of STEP_PX.
BLOCK_PX = 512
#: Half width, in pixels, of the soft edge between two tissues.
_SOFT_PX = 2.0
#: Greatest wander of an edge from its coarse field, in pixels.
_WANDER_PX = 9.0


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One tissue of a scene: present where ``field`` is positive, covering the layers before it.

    ``field`` is the signed distance to the edge in pixels, one sample per STEP_PX, sample (i, j) standing for
    the middle of its square. ``texture`` names a variant of the tissue's texture.
    """

    tissue: str
    field: FloatArray
    texture: str = ""

    @property
    def texture_name(self) -> str:
        """Key of the texture to paint it with: its own, or the one named after the tissue."""
        return self.texture or self.tissue


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What lies where: the layers from the bottom up and the thickness of the section (gain of stain)."""

    width_px: int
    height_px: int
    layers: tuple[Layer, ...]
    thickness: FloatArray

    def tissue_map(self) -> NDArray[np.uint8]:
        """Index in TISSUES of what is on top, one sample per STEP_PX."""
        top = np.zeros(self.thickness.shape, dtype=np.uint8)
        for layer in self.layers:
            top[layer.field > 0] = TISSUES.index(layer.tissue)
        return top

    def under_tumour(self) -> Mapping[str, float]:
        """What the tumour took the place of: share of each tissue; empty for a scene without tumour."""
        lost = np.zeros(self.thickness.shape, dtype=bool)
        for layer in self.layers:
            if layer.tissue == "tumour":
                lost |= layer.field > 0
        healthy = replace(self, layers=tuple(layer for layer in self.layers if layer.tissue != "tumour"))
        found, counts = np.unique(healthy.tissue_map()[lost], return_counts=True)
        return {TISSUES[i]: int(n) / int(lost.sum()) for i, n in zip(found, counts, strict=True)}


def field_shape(*, width_px: int, height_px: int) -> tuple[int, int]:
    """Rows and columns of the coarse fields of a scene, partial squares included."""
    return -(-height_px // STEP_PX), -(-width_px // STEP_PX)


def paint(
    scene: Scene, textures: Mapping[str, NDArray[np.uint8]], lut: StainLut, *, wander: FloatArray
) -> NDArray[np.uint8]:
    """Paint a scene; returns RGB (height_px, width_px, 3).

    Textures are periodic stain tiles of one side; ``wander`` is periodic noise of deviation 1 that roughens
    edges at the scale of cells. Memory beside the result is one block.
    """
    canvas = np.empty((scene.height_px, scene.width_px, 3), dtype=np.uint8)
    for y0 in range(0, scene.height_px, BLOCK_PX):
        for x0 in range(0, scene.width_px, BLOCK_PX):
            block = canvas[y0 : y0 + BLOCK_PX, x0 : x0 + BLOCK_PX]
            stains = _paint_block(scene, textures, wander, x0=x0, y0=y0)
            block[...] = lut.to_rgb(stains)[: block.shape[0], : block.shape[1]]
    return canvas


def _paint_block(
    scene: Scene, textures: Mapping[str, NDArray[np.uint8]], wander: FloatArray, *, x0: int, y0: int
) -> NDArray[np.uint8]:
    """Stains of one block, (BLOCK_PX, BLOCK_PX, 2)."""
    stains: NDArray[np.uint8] | None = None
    edge = np.clip(_window(wander, x0=x0, y0=y0) * (_WANDER_PX / 2.5), -_WANDER_PX, _WANDER_PX)
    for layer in _visible(scene.layers, x0=x0, y0=y0):
        texture = _window(textures[layer.texture_name], x0=x0, y0=y0)
        if stains is None:
            stains = np.ascontiguousarray(texture)
            continue
        field = _fine(layer.field, x0=x0, y0=y0)
        alpha = np.clip((field + edge) * (0.5 / _SOFT_PX) + 0.5, 0, 1)
        stains = cv2.blendLinear(stains, np.ascontiguousarray(texture), 1 - alpha, alpha)
    assert stains is not None, "the bottom layer of a scene covers everything"
    gain = _fine(scene.thickness, x0=x0, y0=y0)
    return np.asarray(cv2.multiply(stains, cv2.merge([gain, gain]), dtype=cv2.CV_8U))


def _visible(layers: tuple[Layer, ...], *, x0: int, y0: int) -> list[Layer]:
    """Layers that show in a block, bottom first; those under a layer that covers all of it are left out."""
    rows = slice(max(y0 // STEP_PX - 1, 0), (y0 + BLOCK_PX) // STEP_PX + 1)
    columns = slice(max(x0 // STEP_PX - 1, 0), (x0 + BLOCK_PX) // STEP_PX + 1)
    reach = _WANDER_PX + _SOFT_PX
    shown: list[Layer] = []
    for layer in layers:
        part = layer.field[rows, columns]
        if part.min() >= reach:
            shown = [layer]
        elif part.max() > -reach:
            shown.append(layer)
    return shown


def _fine(field: FloatArray, *, x0: int, y0: int) -> FloatArray:
    """A coarse field at every pixel of a block."""
    samples = BLOCK_PX // STEP_PX + 2
    rows = np.clip(np.arange(samples) + y0 // STEP_PX - 1, 0, field.shape[0] - 1)
    columns = np.clip(np.arange(samples) + x0 // STEP_PX - 1, 0, field.shape[1] - 1)
    side = samples * STEP_PX
    fine = cv2.resize(field[np.ix_(rows, columns)], (side, side), interpolation=cv2.INTER_LINEAR)
    return np.asarray(fine[STEP_PX:-STEP_PX, STEP_PX:-STEP_PX], dtype=np.float32)


def _window(tile: NDArray[_Sample], *, x0: int, y0: int) -> NDArray[_Sample]:
    """The block of a plane that is covered with copies of a periodic tile."""
    side = tile.shape[0]
    if side % BLOCK_PX == 0:
        top, left = y0 % side, x0 % side
        return tile[top : top + BLOCK_PX, left : left + BLOCK_PX]
    rows = np.arange(y0, y0 + BLOCK_PX) % side
    columns = np.arange(x0, x0 + BLOCK_PX) % side
    return tile[np.ix_(rows, columns)]

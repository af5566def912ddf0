"""Labelled tiles by the painter of the slides, from other seeds: training data for small backbones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.datasets.synthetic.anatomy import draw_anatomy
from wsi_vmamba.datasets.synthetic.scene import STEP_PX
from wsi_vmamba.datasets.synthetic.slides import paint_slide
from wsi_vmamba.datasets.synthetic.spec import CENTRES
from wsi_vmamba.datasets.synthetic.stain import make_stain
from wsi_vmamba.datasets.synthetic.textures import TISSUES, TUMOUR_INDEX
from wsi_vmamba.errors import UsageError

#: Side of the scenes tiles are cut from; large enough for structures of full size.
SCENE_PX = 2400
#: How many tiles share a scene, and with it a stain and a set of nuclei.
TILES_PER_SCENE = 48


@dataclass(frozen=True, kw_only=True)
class TileBatch:
    """Tiles and what they show.

    Attributes:
        images: (n, size_px, size_px, 3) RGB.
        tissue: (n, size_px / 8, size_px / 8), index in TISSUES of each 8 px square.
        tumour: (n,), whether a quarter of the tile or more is tumour.
    """

    images: NDArray[np.uint8]
    tissue: NDArray[np.uint8]
    tumour: NDArray[np.bool_]


def sample_tiles(seed: int, n: int, size_px: int, *, difficulty: float = 0.5) -> TileBatch:
    """Cut ``n`` tiles of ``size_px`` (a multiple of 8) at 0.5 um per pixel, about half of them in tumour.

    The stream of seeds is not that of any cohort, so no nucleus and no stain is shared with a slide. A scene
    costs about a CPU second and yields TILES_PER_SCENE tiles.
    """
    if n < 1 or size_px % STEP_PX or not STEP_PX <= size_px <= SCENE_PX:
        raise UsageError(
            f"expected n >= 1 and size_px a multiple of {STEP_PX} up to {SCENE_PX}, got {n} and {size_px}"
        )
    images = np.empty((n, size_px, size_px, 3), dtype=np.uint8)
    tissue = np.empty((n, size_px // STEP_PX, size_px // STEP_PX), dtype=np.uint8)
    for scene, start in enumerate(range(0, n, TILES_PER_SCENE)):
        rng = np.random.default_rng([seed, 0x711E5, scene])
        rgb, labels = _scene(rng, difficulty)
        for i in range(start, min(start + TILES_PER_SCENE, n)):
            row, column = _corner(rng, labels, size_px // STEP_PX, in_tumour=i % 2 == 0)
            y, x = row * STEP_PX, column * STEP_PX
            images[i] = rgb[y : y + size_px, x : x + size_px]
            tissue[i] = labels[row : row + size_px // STEP_PX, column : column + size_px // STEP_PX]
    share = (tissue == TUMOUR_INDEX).mean(axis=(1, 2))
    return TileBatch(images=images, tissue=tissue, tumour=share >= 0.25)


def _scene(rng: np.random.Generator, difficulty: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One small slide with a large lesion or several of middle size, and its tissue map."""
    scene, _ = draw_anatomy(
        rng, width_px=SCENE_PX, height_px=SCENE_PX, lesion_size="macro" if rng.random() < 0.6 else "micro"
    )
    centre = CENTRES[int(rng.integers(len(CENTRES)))]
    lut = make_stain(rng, centre)
    return paint_slide(rng, scene, lut, difficulty=difficulty), scene.tissue_map()


def _corner(
    rng: np.random.Generator, labels: NDArray[np.uint8], size: int, *, in_tumour: bool
) -> tuple[int, int]:
    """Top left of a window whose middle lies in tumour, or in any other tissue, each as likely, but glass."""
    half = size // 2
    middle = labels[half : labels.shape[0] - size + half + 1, half : labels.shape[1] - size + half + 1]
    present = np.unique(middle)
    others = present[(present != TISSUES.index("glass")) & (present != TUMOUR_INDEX)]
    tissue = TUMOUR_INDEX if in_tumour and TUMOUR_INDEX in present else int(rng.choice(others))
    wanted = np.flatnonzero(middle == tissue)
    row, column = divmod(int(rng.choice(wanted)), middle.shape[1])
    return row, column


__all__ = ["TISSUES", "TUMOUR_INDEX", "TileBatch", "sample_tiles"]

"""A cohort of `arrangement` on disk: blocks painted once for a pair of slides, laid out twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.datasets.synthetic.arrangement import TUMOUR_BLOCKS, ArrangementSpec, lay_out
from wsi_vmamba.datasets.synthetic.cohort import MANIFEST_NAME, claim_folder
from wsi_vmamba.datasets.synthetic.files import write_slide
from wsi_vmamba.datasets.synthetic.slides import disguise_tumour
from wsi_vmamba.datasets.synthetic.spec import CENTRES, MPP
from wsi_vmamba.datasets.synthetic.stain import as_bytes, make_stain
from wsi_vmamba.datasets.synthetic.textures import make_textures
from wsi_vmamba.durable import csv_text, write_atomic

#: Side of a block; a JPEG tile of the slide, so that a block has the same bytes wherever it lies.
BLOCK_PX = 128
#: Resolution of the slides: half of what is painted.
BLOCK_MPP = 2 * MPP
COLUMNS = ("slide_id", "path", "mpp", "label", "patient_id", "split", "arrangement")
#: Tissues of the blocks that are no tumour.
_NORMAL = ("cortex", "paracortex", "mantle", "germinal")
#: Side of the textures that blocks are cut from, at MPP.
_TEXTURE_PX = 512


def generate_arranged(
    spec: ArrangementSpec, out_dir: Path | str, *, progress: Callable[[str], None] = lambda slide_id: None
) -> Path:
    """Paint every pair of a cohort and write its manifest; returns the path of ``manifest.csv``.

    Slides already there are kept. ``progress`` is called with the id of each slide as it is there.

    Raises:
        DatasetError: the folder holds a cohort of other settings.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    claim_folder(folder, asdict(spec))
    rows = []
    for pair in range(spec.pairs):
        blocks: NDArray[np.uint8] | None = None
        for label in (1, 0):
            slide_id = f"pair_{pair:03d}_{'ab'[1 - label]}"
            path = folder / f"{slide_id}.tif"
            if not path.is_file():
                blocks = paint_blocks(spec, pair) if blocks is None else blocks
                rgb = compose(blocks, lay_out(spec, pair, label))
                write_slide(
                    path, rgb, level_factor=2, jpeg_quality=spec.jpeg_quality, tile_px=BLOCK_PX, mpp=BLOCK_MPP
                )
            rows.append(
                (slide_id, path.name, str(BLOCK_MPP), str(label), f"patient_{pair:03d}", spec.split_of(pair),
                 spec.arrangement)
            )  # fmt: skip
            progress(slide_id)
    manifest = folder / MANIFEST_NAME
    write_atomic(manifest, csv_text(COLUMNS, rows))
    return manifest


def paint_blocks(spec: ArrangementSpec, pair: int) -> NDArray[np.uint8]:
    """The blocks of a pair of slides, uint8 RGB (blocks², BLOCK_PX, BLOCK_PX, 3), those of tumour first."""
    draw = np.random.default_rng([spec.seed, 0xB10C, pair])
    textures = dict(make_textures(draw, side_px=_TEXTURE_PX, difficulty=spec.difficulty))
    lut = make_stain(draw, CENTRES[pair % len(CENTRES)])
    disguise_tumour(draw, textures, lut, replaced={name: 1 / len(_NORMAL) for name in _NORMAL})
    painted = {name: lut.to_rgb(as_bytes(textures[name])) for name in (*_NORMAL, "tumour")}
    count = spec.blocks**2
    blocks = np.empty((count, BLOCK_PX, BLOCK_PX, 3), dtype=np.uint8)
    for i in range(count):
        name = "tumour" if i < TUMOUR_BLOCKS else _NORMAL[int(draw.integers(len(_NORMAL)))]
        blocks[i] = _cut(draw, painted[name])
    return blocks


def _cut(draw: np.random.Generator, texture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A block from anywhere in a periodic texture, turned and mirrored at random, at BLOCK_MPP."""
    side = round(BLOCK_PX * BLOCK_MPP / MPP)
    top, left = draw.integers(0, _TEXTURE_PX, size=2).tolist()
    rows, columns = ((np.arange(start, start + side)) % _TEXTURE_PX for start in (top, left))
    cut = np.rot90(texture[np.ix_(rows, columns)], k=int(draw.integers(4)))
    if draw.random() < 0.5:
        cut = cut[::-1]
    small = cv2.resize(np.ascontiguousarray(cut), (BLOCK_PX, BLOCK_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)


def compose(blocks: NDArray[np.uint8], grid: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Lay blocks out: RGB (rows x BLOCK_PX, columns x BLOCK_PX, 3)."""
    rows, columns = grid.shape
    laid = blocks[grid].transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(laid).reshape(rows * BLOCK_PX, columns * BLOCK_PX, 3)

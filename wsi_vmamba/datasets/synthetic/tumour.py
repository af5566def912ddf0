"""The tumour texture: cohesive nests and glands of large, uneven nuclei in a thin stroma."""

from __future__ import annotations

import cv2
import numpy as np

from wsi_vmamba.datasets.synthetic.noise import FloatArray, periodic_noise
from wsi_vmamba.datasets.synthetic.nuclei import CellKind, hex_sites, keep_where, make_stamps, scatter

#: Mean diameter of tumour nuclei in um at difficulty 0 and 1; germinal centres have 9.2, lymphocytes 6.9.
EASY_UM, HARD_UM = 14.5, 10.5


def tumour(rng: np.random.Generator, side_px: int, *, difficulty: float, glands: float) -> FloatArray:
    """Draw a tumour texture, shape (side_px, side_px, 2); ``glands`` is the share of nests with a lumen."""
    kind = _cell_kind(rng, difficulty)
    spacing_px = 1.28 * kind.diameter_um * 2
    nest = periodic_noise(rng, side_px=side_px, grain_px=2.2 * spacing_px)
    nest += 0.25 * periodic_noise(rng, side_px=side_px, grain_px=26) + np.float32(0.55)
    lumen = _lumens(rng, nest, glands)
    tile = _ground(rng, nest, lumen)
    stroma = hex_sites(rng, side_px=side_px, spacing_px=20, jitter=0.45)
    stroma = keep_where(stroma, nest < -0.15)
    spindle = rng.random(len(stroma)) < 0.25
    fibroblast = CellKind(
        diameter_um=15, spread=0.2, aspect=5.0, least_aspect=3.0, chromatin=130, contrast=0.2
    )
    lymphocyte = CellKind(diameter_um=6.9, chromatin=190, contrast=0.14, cytoplasm_um=0.7, cytoplasm=(48, 62))
    scatter(tile, stroma[spindle], make_stamps(rng, fibroblast, count=24), rng)
    scatter(tile, stroma[~spindle][::2], make_stamps(rng, lymphocyte, count=24), rng)
    sites = hex_sites(rng, side_px=side_px, spacing_px=spacing_px, jitter=0.26)
    sites = keep_where(sites[rng.random(len(sites)) > 0.04], (nest > 0.05) & (lumen < -0.1))
    scatter(tile, sites, make_stamps(rng, kind, count=96), rng)
    return tile


def _cell_kind(rng: np.random.Generator, difficulty: float) -> CellKind:
    """Malignant nuclei of one slide: large, of uneven size, dented, coarse, with nucleoli."""
    return CellKind(
        diameter_um=EASY_UM + (HARD_UM - EASY_UM) * difficulty + float(rng.uniform(-0.5, 0.5)),
        spread=0.24 - 0.06 * difficulty,
        aspect=1.6,
        ragged=0.06,
        chromatin=float(rng.uniform(105, 150)),
        contrast=0.25,
        mottle=0.3,
        rim=0.45,
        nucleoli=3,
        cytoplasm_um=1.5,
        cytoplasm=(58, 74),
    )


def _lumens(rng: np.random.Generator, nest: FloatArray, share: float) -> FloatArray:
    """Positive inside the lumens: the hearts of a ``share`` of the nests."""
    side_px = nest.shape[0]
    chosen = periodic_noise(rng, side_px=side_px, grain_px=170)
    threshold = float(np.quantile(chosen, 1 - share)) if share > 0 else float(chosen.max()) + 1
    heart = nest - 1.45 + 0.2 * periodic_noise(rng, side_px=side_px, grain_px=18)
    return np.asarray(np.where(chosen > threshold, heart, -1.0), dtype=np.float32)


def _ground(rng: np.random.Generator, nest: FloatArray, lumen: FloatArray) -> FloatArray:
    """What lies under the nuclei: cytoplasm in the nests, pale stroma between, mucin in the lumens."""
    side_px = nest.shape[0]
    rough = periodic_noise(rng, side_px=side_px, grain_px=6)
    inside = np.clip(nest * 6 + 0.5, 0, 1)
    hollow = np.clip(lumen * 8 + 0.5, 0, 1)
    cleft = np.clip(1 - np.abs(nest + 0.12) / 0.07, 0, 1) * np.clip(rough + 0.3, 0, 1)
    tile = np.empty((side_px, side_px, 2), dtype=np.float32)
    tile[..., 0] = inside * (54 + 10 * rough) + (1 - inside) * (22 + 5 * rough)
    tile[..., 1] = inside * (76 + 12 * rough) + (1 - inside) * (56 + 16 * rough)
    keep = (1 - 0.9 * hollow) * (1 - 0.8 * cleft)
    tile *= keep[..., None]
    return np.asarray(cv2.GaussianBlur(np.maximum(tile, 0), (0, 0), 0.8), dtype=np.float32)

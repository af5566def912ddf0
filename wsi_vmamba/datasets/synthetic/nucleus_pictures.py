"""Pictures of single nuclei whose outlines and kinds are known, each nucleus by itself: data for detectors."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.datasets.synthetic.noise import FloatArray, periodic_noise
from wsi_vmamba.datasets.synthetic.nuclei import CellKind, Stamp, hex_sites, make_stamps
from wsi_vmamba.datasets.synthetic.spec import CENTRES
from wsi_vmamba.datasets.synthetic.stain import as_bytes, make_stain
from wsi_vmamba.datasets.synthetic.textures import FIBROBLAST, LYMPHOCYTE
from wsi_vmamba.errors import UsageError

#: Large, pale, uneven nuclei with nucleoli.
_EPITHELIAL = CellKind(
    diameter_um=12.5, spread=0.18, aspect=1.5, ragged=0.05, chromatin=120, contrast=0.2, mottle=0.25, rim=0.45,
    nucleoli=2, cytoplasm_um=1.5, cytoplasm=(52, 68),
)  # fmt: skip
_KINDS = {"lymphocyte": LYMPHOCYTE, "epithelial": _EPITHELIAL, "spindle": FIBROBLAST}
#: Names of the kinds of nuclei, in the order of their numbers.
NUCLEI = tuple(_KINDS)
#: Mean distance of neighbours in pixels at density 1; cells that would cover others are left out.
_SPACING_PX = 21.0
#: Share of a nucleus that may lie under another, and the fewest pixels of one that the picture's edge cuts.
_COVERED, _LEAST_PX = 0.05, 12
#: Different shapes of each kind in a picture.
_SHAPES = 24


@dataclass(frozen=True, kw_only=True)
class NucleusPicture:
    """A picture and every nucleus in it.

    Attributes:
        image: (side_px, side_px, 3) RGB, 0.5 um per pixel.
        owner: (side_px, side_px), 0 where there is no nucleus, else the number of the nucleus seen there, from 1.
        kinds: (n,), place in NUCLEI of each nucleus.
    """

    image: NDArray[np.uint8]
    owner: NDArray[np.int32]
    kinds: NDArray[np.int64]


def paint_nuclei(seed: int, index: int, *, side_px: int = 256, density: float = 1.0) -> NucleusPicture:
    """Paint one picture: nests of epithelial nuclei, lymphocytes and spindle cells between them.

    Equal arguments give equal bytes.

    Args:
        seed: of a set of pictures.
        index: which picture of the set.
        side_px: width and height; at least 64.
        density: how crowded it is, 0.25 to 1.5.
    """
    if side_px < 64 or not 0.25 <= density <= 1.5:
        raise UsageError(
            f"pictures of nuclei have a side of at least 64 px and a density of 0.25 to 1.5, got {side_px} and "
            f"{density}"
        )
    rng = np.random.default_rng([seed, 0x9C1E1, index])
    nest = periodic_noise(rng, side_px=side_px, grain_px=90)
    tile = _ground(rng, nest)
    owner = np.zeros((side_px, side_px), dtype=np.int32)
    stamps = [make_stamps(rng, kind, count=_SHAPES) for kind in _KINDS.values()]
    sites = hex_sites(rng, side_px=side_px, spacing_px=_SPACING_PX / density**0.5, jitter=0.35)
    kinds: list[int] = []
    for x, y in sites[rng.permutation(len(sites))].astype(np.int64).tolist():
        kind = _kind_at(rng, float(nest[y, x]))
        stamp = stamps[kind][int(rng.integers(_SHAPES))]
        if _place(tile, owner, stamp, x_px=x, y_px=y, number=len(kinds) + 1):
            kinds.append(kind)
    blurred = cv2.GaussianBlur(tile, (0, 0), 0.7)
    lut = make_stain(rng, CENTRES[int(rng.integers(len(CENTRES)))])
    return NucleusPicture(
        image=lut.to_rgb(as_bytes(blurred)), owner=owner, kinds=np.array(kinds, dtype=np.int64)
    )


def _ground(rng: np.random.Generator, nest: FloatArray) -> FloatArray:
    """What lies under the nuclei: cytoplasm in nests, paler fibres between."""
    side_px = nest.shape[0]
    rough = periodic_noise(rng, side_px=side_px, grain_px=7)
    fibres = periodic_noise(rng, side_px=side_px, grain_px=4, stretch=6)
    inside = np.clip(nest * 4 + 0.5, 0, 1)
    tile = np.empty((side_px, side_px, 2), dtype=np.float32)
    tile[..., 0] = inside * (46 + 9 * rough) + (1 - inside) * (24 + 5 * fibres)
    tile[..., 1] = inside * (66 + 10 * rough) + (1 - inside) * (58 + 16 * fibres)
    return np.maximum(tile, 0)


def _kind_at(rng: np.random.Generator, nest: float) -> int:
    """Epithelial nuclei in nests, mostly; outside two lymphocytes for a spindle cell."""
    if rng.random() < (0.92 if nest > 0 else 0.04):
        return NUCLEI.index("epithelial")
    return NUCLEI.index("spindle") if nest <= 0 and rng.random() < 1 / 3 else NUCLEI.index("lymphocyte")


def _place(
    tile: FloatArray, owner: NDArray[np.int32], stamp: Stamp, *, x_px: int, y_px: int, number: int
) -> bool:
    """Paint a cell behind the nuclei that are there; False, and nothing painted, where it would not be seen."""
    side, size = len(owner), len(stamp.nucleus)
    left, top = x_px - size // 2, y_px - size // 2
    rows, columns = (slice(max(at, 0), min(at + size, side)) for at in (top, left))
    part = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    nucleus, free = stamp.nucleus[part], owner[rows, columns] == 0
    seen = nucleus & free
    if seen.sum() < max(_LEAST_PX, (1 - _COVERED) * nucleus.sum()):
        return False
    under = tile[rows, columns]
    under += stamp.cover[part] * free[..., None] * (stamp.value[part] - under)
    owner[rows, columns][seen] = number
    return True

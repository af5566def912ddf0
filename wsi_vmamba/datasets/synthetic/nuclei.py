"""Cells: small stamps of haematoxylin and eosin, and ways to scatter them over a periodic tile."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.datasets.synthetic.noise import FloatArray
from wsi_vmamba.datasets.synthetic.spec import MPP


@dataclass(frozen=True, kw_only=True)
class CellKind:
    """How the cells of one kind look; lengths in um, stains 0–255 as in `stain.StainLut`.

    Attributes:
        diameter_um: mean of the long axis of the nucleus.
        spread: relative standard deviation of that diameter.
        aspect: long over short axis, at most.
        least_aspect: long over short axis, at least.
        ragged: relative depth of the dents in the outline.
        chromatin: haematoxylin inside the nucleus, mean.
        contrast: relative standard deviation of the chromatin from nucleus to nucleus.
        mottle: relative strength of clumps within one nucleus.
        rim: how much darker the membrane is than the inside.
        nucleoli: most nucleoli a nucleus shows.
        cytoplasm_um: width of the cytoplasm around the nucleus; 0 for none.
        cytoplasm: (haematoxylin, eosin) of it.
    """

    diameter_um: float
    spread: float = 0.1
    aspect: float = 1.2
    least_aspect: float = 1.0
    ragged: float = 0.03
    chromatin: float = 180.0
    contrast: float = 0.1
    mottle: float = 0.15
    rim: float = 0.0
    nucleoli: int = 0
    cytoplasm_um: float = 0.0
    cytoplasm: tuple[float, float] = (40.0, 60.0)


@dataclass(frozen=True)
class Stamp:
    """One cell ready to be painted: ``value`` (s, s, 2) stains, ``cover`` (s, s, 1) opacity 0–1, ``nucleus`` (s, s)."""

    value: FloatArray
    cover: FloatArray
    nucleus: NDArray[np.bool_]


def make_stamps(
    rng: np.random.Generator, kind: CellKind, *, count: int, angle_rad: float | None = None
) -> list[Stamp]:
    """Draw ``count`` cells of a kind, at ``angle_rad`` (long axis, give or take 15 degrees) or any angle."""
    return [_stamp(rng, kind, angle_rad) for _ in range(count)]


def _stamp(rng: np.random.Generator, kind: CellKind, angle_rad: float | None) -> Stamp:
    radius = 0.5 * kind.diameter_um / MPP * float(np.exp(kind.spread * rng.standard_normal()))
    aspect = kind.least_aspect + (kind.aspect - kind.least_aspect) * float(rng.random())
    halo = kind.cytoplasm_um / MPP
    half = int(np.ceil(radius * 1.25 + halo)) + 1
    axis = np.arange(-half, half + 1, dtype=np.float32)
    x, y = np.meshgrid(axis - float(rng.random()) + 0.5, axis - float(rng.random()) + 0.5)
    turn = rng.uniform(0, np.pi) if angle_rad is None else angle_rad + rng.normal(0, 0.25)
    u = np.cos(turn) * x + np.sin(turn) * y
    v = (np.cos(turn) * y - np.sin(turn) * x) * aspect
    reach, theta = np.hypot(u, v), np.arctan2(v, u)
    outline = np.full_like(reach, radius)
    for harmonic in (2, 3, 5):
        outline += (
            radius
            * kind.ragged
            * float(rng.standard_normal())
            * np.cos(harmonic * theta + rng.uniform(0, 6.3))
        )
    depth = outline - reach
    inside = np.clip(depth + 0.5, 0, 1)
    clumps = cv2.GaussianBlur(rng.standard_normal(reach.shape, dtype=np.float32), (0, 0), 1.3) * 3.0
    level = kind.chromatin * (1 + kind.contrast * float(rng.standard_normal()))
    chromatin = level * (1 + kind.mottle * clumps + kind.rim * np.exp(-np.square(depth / 1.4)))
    for _ in range(int(rng.integers(0, kind.nucleoli, endpoint=True))):
        at, away = rng.uniform(0, 6.3), 0.5 * radius * float(np.sqrt(rng.random()))
        spot = np.square(u - away * np.cos(at)) + np.square(v - away * np.sin(at))
        chromatin = np.maximum(chromatin, 1.5 * level * np.exp(-spot / (2 * (0.16 * radius) ** 2)))
    value = np.empty((*reach.shape, 2), dtype=np.float32)
    value[..., 0] = inside * np.clip(chromatin, 20, 255) + (1 - inside) * kind.cytoplasm[0]
    value[..., 1] = inside * 45.0 + (1 - inside) * kind.cytoplasm[1]
    cover = np.clip(depth / 1.2 + 0.6, 0, 1)
    if halo > 0:
        cover = np.maximum(cover, 0.9 * np.clip((depth + halo) / 2.5, 0, 1))
    return Stamp(value, np.asarray(cover[..., None], dtype=np.float32), depth > 0)


def hex_sites(
    rng: np.random.Generator, *, side_px: int, spacing_px: float, jitter: float = 0.3
) -> FloatArray:
    """Sites of a jittered hexagonal lattice that tiles without a seam, shape (n, 2) as x, y."""
    columns = max(2, round(side_px / spacing_px))
    rows = max(2, 2 * round(side_px / (spacing_px * 0.866) / 2))
    grid_y, grid_x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    x = (grid_x + 0.5 * (grid_y % 2)) * (side_px / columns)
    y = grid_y * (side_px / rows)
    sites = np.stack([x.ravel(), y.ravel()], axis=1)
    sites += rng.normal(0, jitter * spacing_px * 0.6, sites.shape).astype(np.float32)
    return np.asarray(sites % side_px, dtype=np.float32)


def keep_where(sites: FloatArray, wanted: NDArray[np.bool_]) -> FloatArray:
    """The sites that fall on True of a (side, side) mask."""
    xy = sites.astype(np.int64) % wanted.shape[0]
    return np.asarray(sites[wanted[xy[:, 1], xy[:, 0]]])


def scatter(tile: FloatArray, sites: FloatArray, stamps: list[Stamp], rng: np.random.Generator) -> None:
    """Paint one random stamp at each site, in place, wrapping around the edges; tile is (side, side, 2)."""
    side = tile.shape[0]
    order = rng.permutation(len(sites))
    which = rng.integers(0, len(stamps), len(sites))
    for i in order:
        stamp = stamps[which[i]]
        size = stamp.value.shape[0]
        x0, y0 = int(sites[i, 0]) - size // 2, int(sites[i, 1]) - size // 2
        if x0 >= 0 and y0 >= 0 and x0 + size <= side and y0 + size <= side:
            under = tile[y0 : y0 + size, x0 : x0 + size]
            under += stamp.cover * (stamp.value - under)
            continue
        rows = np.arange(y0, y0 + size)[:, None] % side
        columns = np.arange(x0, x0 + size)[None, :] % side
        under = tile[rows, columns]
        tile[rows, columns] = under + stamp.cover * (stamp.value - under)

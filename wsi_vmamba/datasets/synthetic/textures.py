"""Tissue textures: periodic two-stain tiles of every tissue a lymph-node slide shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from wsi_vmamba.datasets.synthetic.noise import FloatArray, periodic_noise
from wsi_vmamba.datasets.synthetic.nuclei import CellKind, Stamp, hex_sites, keep_where, make_stamps, scatter
from wsi_vmamba.datasets.synthetic.tumour import tumour

LYMPHOCYTE = CellKind(diameter_um=6.9, chromatin=190, contrast=0.14, cytoplasm_um=0.7, cytoplasm=(48, 62))
CENTROBLAST = CellKind(
    diameter_um=9.2, spread=0.15, aspect=1.3, ragged=0.06, chromatin=95, contrast=0.25, mottle=0.2, rim=0.5,
    nucleoli=3, cytoplasm_um=1.5, cytoplasm=(45, 62),
)  # fmt: skip
HISTIOCYTE = CellKind(
    diameter_um=9.0, spread=0.16, aspect=1.7, ragged=0.05, chromatin=85, contrast=0.2, rim=0.5, nucleoli=1,
    cytoplasm_um=3.5, cytoplasm=(22, 58),
)  # fmt: skip
ENDOTHELIUM = CellKind(
    diameter_um=12.0,
    spread=0.15,
    aspect=3.0,
    least_aspect=1.6,
    chromatin=110,
    contrast=0.2,
    rim=0.4,
    nucleoli=1,
)
FIBROBLAST = CellKind(diameter_um=15.0, spread=0.2, aspect=5.0, least_aspect=3.0, chromatin=130, contrast=0.2)
ERYTHROCYTE = CellKind(diameter_um=6.0, spread=0.08, aspect=1.3, chromatin=0)

#: Tissues in the order of their index in tissue maps; "tumour" is the only malignant one.
TISSUES = (
    "glass",
    "fat",
    "capsule",
    "cortex",
    "paracortex",
    "mantle",
    "germinal",
    "sinus",
    "histiocytes",
    "tumour",
)
#: Textures beside those named after a tissue: fibres along y; glands (plain "tumour" is solid nests).
FIBRES_ALONG_Y, GLANDS = "capsule along y", "tumour with glands"
TUMOUR_INDEX = TISSUES.index("tumour")


def make_textures(rng: np.random.Generator, *, side_px: int, difficulty: float) -> Mapping[str, FloatArray]:
    """Draw a texture for each tissue and variant, shape (side_px, side_px, 2), two stains 0–255."""
    painters: dict[str, Callable[[np.random.Generator, int], FloatArray]] = {
        "glass": _glass,
        "fat": _fat,
        "capsule": _capsule,
        "cortex": partial(_lymphoid, spacing_um=7.6, missing=0.12, gaps=1.6),
        "paracortex": _paracortex,
        "mantle": partial(_lymphoid, spacing_um=6.9, missing=0.04, gaps=2.6),
        "germinal": _germinal,
        "sinus": _sinus,
        "histiocytes": _histiocytes,
        "tumour": partial(tumour, difficulty=difficulty, glands=0.12),
        GLANDS: partial(tumour, difficulty=difficulty, glands=0.8),
    }
    seeds = rng.spawn(len(painters))
    textures = {
        name: _focus(painter(seed, side_px))
        for (name, painter), seed in zip(painters.items(), seeds, strict=True)
    }
    textures[FIBRES_ALONG_Y] = np.ascontiguousarray(textures["capsule"].transpose(1, 0, 2))
    return textures


def _focus(tile: FloatArray) -> FloatArray:
    """Slight optical blur, without a seam at the edges of the tile."""
    wrapped = cv2.copyMakeBorder(tile, 4, 4, 4, 4, cv2.BORDER_WRAP)
    return np.asarray(cv2.GaussianBlur(wrapped, (0, 0), 0.7)[4:-4, 4:-4], dtype=np.float32)


def _matrix(
    rng: np.random.Generator, side_px: int, *, haematoxylin: float, eosin: float, grain_px: float = 9.0
) -> FloatArray:
    """Background between the cells: two stains with some unevenness."""
    tile = np.empty((side_px, side_px, 2), dtype=np.float32)
    rough = periodic_noise(rng, side_px=side_px, grain_px=grain_px)
    tile[..., 0] = haematoxylin * (1 + 0.3 * rough)
    tile[..., 1] = eosin * (1 + 0.25 * rough + 0.2 * periodic_noise(rng, side_px=side_px, grain_px=3.0))
    return np.maximum(tile, 0)


def _open_gaps(tile: FloatArray, openness: NDArray[np.floating[Any]]) -> None:
    """Wash the stain out where ``openness`` (about −1…1) is positive, with a soft edge."""
    keep = 1 - 0.97 * np.clip(openness * 4 + 0.5, 0, 1)
    tile *= keep[..., None]


def _glass(rng: np.random.Generator, side_px: int) -> FloatArray:
    tile = np.zeros((side_px, side_px, 2), dtype=np.float32)
    tile[..., 1] = np.maximum(2.0 + 0.7 * periodic_noise(rng, side_px=side_px, grain_px=60), 0)
    return tile


def _lymphoid(
    rng: np.random.Generator, side_px: int, *, spacing_um: float, missing: float, gaps: float
) -> FloatArray:
    """Packed lymphocytes; ``missing`` share left out, gaps open where noise exceeds ``gaps`` deviations."""
    tile = _matrix(rng, side_px, haematoxylin=34, eosin=52)
    openness = periodic_noise(rng, side_px=side_px, grain_px=13) - np.float32(gaps)
    openness += 0.25 * periodic_noise(rng, side_px=side_px, grain_px=120)
    _open_gaps(tile, openness)
    sites = hex_sites(rng, side_px=side_px, spacing_px=spacing_um * 2, jitter=0.28)
    sites = sites[rng.random(len(sites)) > missing]
    sites = keep_where(sites, openness < 0.1)
    large = rng.random(len(sites)) < 0.05
    scatter(tile, sites[large], make_stamps(rng, CENTROBLAST, count=24), rng)
    scatter(tile, sites[~large], make_stamps(rng, LYMPHOCYTE, count=64), rng)
    return tile


def _paracortex(rng: np.random.Generator, side_px: int) -> FloatArray:
    """Looser lymphocytes between pink strands, with larger pale cells and small vessels."""
    tile = _matrix(rng, side_px, haematoxylin=30, eosin=62)
    strands = np.abs(periodic_noise(rng, side_px=side_px, grain_px=45))
    openness = periodic_noise(rng, side_px=side_px, grain_px=16) - np.float32(0.9)
    openness += 0.4 * periodic_noise(rng, side_px=side_px, grain_px=150) - 1.2 * np.clip(0.2 - strands, 0, 1)
    tile[..., 1] += 25 * np.clip(1 - strands / 0.12, 0, 1)
    _open_gaps(tile, openness)
    sites = hex_sites(rng, side_px=side_px, spacing_px=15.5, jitter=0.4)
    sites = keep_where(sites[rng.random(len(sites)) > 0.12], openness < 0.05)
    draw = rng.random(len(sites))
    scatter(tile, sites[draw < 0.06], make_stamps(rng, HISTIOCYTE, count=24), rng)
    scatter(tile, sites[(draw >= 0.06) & (draw < 0.12)], make_stamps(rng, ENDOTHELIUM, count=24), rng)
    scatter(tile, sites[draw >= 0.12], make_stamps(rng, LYMPHOCYTE, count=64), rng)
    _vessels(tile, rng, count=max(1, round(3 * (side_px / 1024) ** 2)), radius_um=(9, 20))
    return tile


def _germinal(rng: np.random.Generator, side_px: int) -> FloatArray:
    """A germinal centre: larger, paler nuclei, some small lymphocytes and a starry sky of macrophages."""
    tile = _matrix(rng, side_px, haematoxylin=36, eosin=58)
    openness = periodic_noise(rng, side_px=side_px, grain_px=14) - np.float32(1.7)
    _open_gaps(tile, openness)
    sites = hex_sites(rng, side_px=side_px, spacing_px=21.0, jitter=0.34)
    sites = keep_where(sites[rng.random(len(sites)) > 0.05], openness < 0.2)
    small = rng.random(len(sites)) < 0.25
    scatter(tile, sites[~small], make_stamps(rng, CENTROBLAST, count=64), rng)
    scatter(tile, sites[small], make_stamps(rng, LYMPHOCYTE, count=32), rng)
    stars = hex_sites(rng, side_px=side_px, spacing_px=150, jitter=0.5)
    pale = CellKind(diameter_um=8, chromatin=80, rim=0.5, cytoplasm_um=5, cytoplasm=(10, 22), nucleoli=1)
    scatter(tile, stars, make_stamps(rng, pale, count=12), rng)
    return tile


def _sinus(rng: np.random.Generator, side_px: int) -> FloatArray:
    """A sinus: mostly empty, crossed by fine strands, with lymphocytes and histiocytes adrift."""
    tile = _matrix(rng, side_px, haematoxylin=10, eosin=26)
    strands = np.abs(periodic_noise(rng, side_px=side_px, grain_px=34))
    openness = (
        periodic_noise(rng, side_px=side_px, grain_px=24) - 0.1 - 1.5 * np.clip(0.15 - strands, 0, 1) / 0.15
    )
    _open_gaps(tile, openness)
    tile[..., 1] += 40 * np.clip(1 - strands / 0.07, 0, 1)
    sites = keep_where(hex_sites(rng, side_px=side_px, spacing_px=20, jitter=0.5), openness < 0)
    draw = rng.random(len(sites))
    scatter(tile, sites[draw < 0.2], make_stamps(rng, HISTIOCYTE, count=24), rng)
    scatter(tile, sites[draw > 0.5], make_stamps(rng, LYMPHOCYTE, count=32), rng)
    return tile


def _histiocytes(rng: np.random.Generator, side_px: int) -> FloatArray:
    """Sinus histiocytosis: sheets of large bland cells with wide cytoplasm; mimics tumour, in both labels."""
    tile = _matrix(rng, side_px, haematoxylin=24, eosin=60)
    openness = periodic_noise(rng, side_px=side_px, grain_px=20) - np.float32(1.3)
    _open_gaps(tile, openness)
    sites = keep_where(hex_sites(rng, side_px=side_px, spacing_px=27, jitter=0.35), openness < 0.2)
    scatter(tile, sites, make_stamps(rng, HISTIOCYTE, count=48), rng)
    sites = hex_sites(rng, side_px=side_px, spacing_px=24, jitter=0.5)
    scatter(tile, sites[rng.random(len(sites)) < 0.4], make_stamps(rng, LYMPHOCYTE, count=32), rng)
    return tile


def _capsule(rng: np.random.Generator, side_px: int) -> FloatArray:
    """Pink fibres along x with spindle nuclei; also trabeculae and scars."""
    tile = np.empty((side_px, side_px, 2), dtype=np.float32)
    bundles = periodic_noise(rng, side_px=side_px, grain_px=22, stretch=9)
    fibres = periodic_noise(rng, side_px=side_px, grain_px=5, stretch=14)
    tile[..., 0] = 16 + 4 * bundles
    tile[..., 1] = np.clip(74 + 20 * bundles + 20 * fibres, 8, 150)
    _open_gaps(tile, fibres * 0.5 + bundles * 0.5 - 1.35)
    wave_px = 7 * np.sin(np.arange(side_px) * (2 * np.pi * round(side_px / 170) / side_px)).astype(np.float32)
    grid_y, grid_x = np.mgrid[0:side_px, 0:side_px].astype(np.float32)
    tile = cv2.remap(tile, grid_x, grid_y + wave_px[None, :], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    sites = hex_sites(rng, side_px=side_px, spacing_px=46, jitter=0.6)
    scatter(tile, sites, make_stamps(rng, FIBROBLAST, count=32, angle_rad=0.0), rng)
    sites = hex_sites(rng, side_px=side_px, spacing_px=90, jitter=0.7)
    scatter(tile, sites, make_stamps(rng, LYMPHOCYTE, count=16), rng)
    _vessels(tile, rng, count=max(1, round(2 * (side_px / 1024) ** 2)), radius_um=(8, 18))
    return np.asarray(tile, dtype=np.float32)


def _fat(rng: np.random.Generator, side_px: int) -> FloatArray:
    """Adipocytes: white polygons of 60–100 um behind thin pink membranes."""
    step = 4
    sites = hex_sites(rng, side_px=side_px, spacing_px=150, jitter=0.32)
    low = (np.indices((side_px // step, side_px // step)).reshape(2, -1).T[:, ::-1] * step).astype(np.float32)
    near, _ = cKDTree(sites, boxsize=float(side_px)).query(low, k=3)
    shape = (side_px // step, side_px // step)
    wall = (near[:, 1] - near[:, 0]).reshape(shape).astype(np.float32)
    corner = (near[:, 2] - near[:, 0]).reshape(shape).astype(np.float32)
    wall, corner = (_upsample_periodic(field, step) for field in (wall, corner))
    width = 5.5 + 1.5 * periodic_noise(rng, side_px=side_px, grain_px=60)
    membrane = np.clip(1.6 - np.abs(wall) / np.maximum(width, 2.0), 0, 1)
    membrane = np.maximum(membrane, np.clip(1.2 - corner / 14, 0, 1))
    tile = np.zeros((side_px, side_px, 2), dtype=np.float32)
    tile[..., 1] = 2 + membrane * np.clip(36 + 14 * periodic_noise(rng, side_px=side_px, grain_px=8), 5, 90)
    tile[..., 0] = membrane * 5
    sites = hex_sites(rng, side_px=side_px, spacing_px=34, jitter=0.6)
    sites = keep_where(sites, np.asarray(corner < 16))
    scatter(tile, sites, make_stamps(rng, FIBROBLAST, count=24), rng)
    _vessels(tile, rng, count=1, radius_um=(7, 16))
    return tile


def _upsample_periodic(field: FloatArray, step: int) -> FloatArray:
    side = field.shape[0] * step
    wrapped = np.pad(field, 2, mode="wrap")
    matrix = np.array([[1 / step, 0, 2.0], [0, 1 / step, 2.0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(wrapped, matrix, (side, side), flags=flags), dtype=np.float32)


def _vessels(
    tile: FloatArray, rng: np.random.Generator, *, count: int, radius_um: tuple[float, float]
) -> None:
    """Paint vessels in place: a pink wall, endothelium, a pale lumen and erythrocytes in it."""
    side = tile.shape[0]
    blood = make_stamps(rng, ERYTHROCYTE, count=12)
    for stamp in blood:
        stamp.value[..., 0] = 0
        stamp.value[..., 1] = 250
    for _ in range(count):
        short = float(rng.uniform(*radius_um)) * 2
        long, turn = short * float(rng.uniform(1.0, 2.6)), float(rng.uniform(0, np.pi))
        margin = int(long + 14)
        if 2 * margin >= side:
            continue
        cx, cy = rng.uniform(margin, side - margin, 2)
        y, x = np.mgrid[0:side, 0:side][
            :, int(cy) - margin : int(cy) + margin, int(cx) - margin : int(cx) + margin
        ]
        u = ((x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)) / long
        v = ((y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)) / short
        depth = (1 - np.hypot(u, v)) * short
        region = tile[int(cy) - margin : int(cy) + margin, int(cx) - margin : int(cx) + margin]
        wall = np.clip((depth + 7) / 3, 0, 1)[..., None]
        region += (wall * (np.array([16.0, 78.0]) - region)).astype(np.float32)
        lumen = np.clip(depth / 2, 0, 1)[..., None]
        region += (lumen * (np.array([1.0, 8.0]) - region)).astype(np.float32)
        _fill_vessel(tile, rng, centre=(cx, cy), radii=(long, short), turn=turn, blood=blood)


def _fill_vessel(
    tile: FloatArray,
    rng: np.random.Generator,
    *,
    centre: tuple[float, float],
    radii: tuple[float, float],
    turn: float,
    blood: list[Stamp],
) -> None:
    """Strew erythrocytes inside an ellipse and endothelial nuclei along it."""
    count = int(np.pi * radii[0] * radii[1] / 190 * rng.uniform(0.3, 1.0))
    r, theta = np.sqrt(rng.random(count)) * 0.85, rng.uniform(0, 2 * np.pi, count)
    scatter(tile, _on_ellipse(centre, radii, turn, r, theta), blood, rng)
    theta = rng.uniform(0, 2 * np.pi, max(3, int(radii[0] / 7)))
    r = 1 + 3 / radii[1] * np.ones_like(theta)
    scatter(
        tile,
        _on_ellipse(centre, radii, turn, r, theta),
        make_stamps(rng, ENDOTHELIUM, count=8, angle_rad=turn),
        rng,
    )


def _on_ellipse(
    centre: tuple[float, float],
    radii: tuple[float, float],
    turn: float,
    r: NDArray[np.float64],
    theta: NDArray[np.float64],
) -> FloatArray:
    u, v = radii[0] * r * np.cos(theta), radii[1] * r * np.sin(theta)
    x = centre[0] + u * np.cos(turn) - v * np.sin(turn)
    y = centre[1] + u * np.sin(turn) + v * np.cos(turn)
    return np.asarray(np.stack([x, y], axis=1), dtype=np.float32)

"""What can be measured of a picture of tissue without any training: textures, nuclei, how much things lie in rows.

The numbers hardly depend on how strongly, and with which dyes, a slide is stained: densities of haematoxylin and eosin
are taken relative to their own spread. Colours are left out on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.stains import stain_amounts

Picture = NDArray[np.uint8]
Plane = NDArray[np.float32]

#: Standard deviations of the Gaussians between which bands of detail lie, in px.
_BAND_SIGMAS_PX = (1.0, 1.5, 2.2, 3.2, 4.6, 6.8, 10.0)
#: Radii of round dark things that are looked for, as standard deviations, in px.
_BLOB_SIGMAS_PX = (1.5, 2.2, 3.2, 4.6, 6.8)
#: How far a dark thing stands out at least, in units of the spread of haematoxylin.
_BLOB_LEAST = 0.12
#: Halvings of the picture at which directions of gradients are compared, and over how much of it, in px.
_HALVINGS, _AROUND_PX = 3, (5, 11)
#: Smallest piece of haematoxylin that counts as a nucleus, in px².
_NUCLEUS_PX2 = 15
#: Levels of density in one byte, for Otsu's threshold.
_LEVELS = 120.0

#: Numbers that are measured.
COUNT = 2 * (3 * len(_BAND_SIGMAS_PX) + 1) + 3 * len(_BLOB_SIGMAS_PX) + 3 * _HALVINGS * len(_AROUND_PX) + 14


def measure(picture: Picture) -> NDArray[np.float32]:
    """Measure an RGB picture (height, width, 3), uint8, of some hundred pixels of tissue: (COUNT,) numbers.

    In this order: strength, skewness and sparsity of bands of detail in haematoxylin and in eosin; number, contrast and
    its spread of round dark things of several sizes; how far gradients agree in direction with those around them;
    share, number, sizes and chromatin of nuclei, as far as a threshold finds them.
    """
    amounts = stain_amounts(picture).astype(np.float32)
    haematoxylin = np.ascontiguousarray(amounts[..., 0])
    relative = _relative(haematoxylin)
    numbers = [
        *_bands(relative),
        *_bands(_relative(np.ascontiguousarray(amounts[..., 1]))),
        *_blobs(relative),
        *_directions(relative),
        *_nuclei(haematoxylin),
    ]
    return np.asarray(numbers, dtype=np.float32)


def _relative(density: Plane) -> Plane:
    """Density as a distance from its median, in units of its spread; a flat picture has none."""
    low, middle, high = np.percentile(density, (5, 50, 95))
    return np.asarray((density - middle) / (high - low + 0.05), dtype=np.float32)


def _bands(plane: Plane) -> list[float]:
    """Of each band: log of the strength, skewness, log of mean over root mean square; last the strength of the rest."""
    numbers: list[float] = []
    for finer, coarser in pairwise([plane, *_blurs(plane, _BAND_SIGMAS_PX)]):
        band = finer - coarser
        strength = float(band.std())
        skewness = float((band * band * band).mean()) / (strength**3 + 1e-6)
        sparsity = float(np.abs(band).mean()) / (strength + 1e-6)
        numbers += [_log(strength), min(max(skewness, -5.0), 5.0), _log(sparsity)]
    return [*numbers, _log(float(coarser.std()))]


def _blobs(plane: Plane) -> list[float]:
    """Of each size: log of the number per area of that size, mean and spread of how far they stand out."""
    numbers: list[float] = []
    for sigma, smooth in zip(_BLOB_SIGMAS_PX, _blurs(plane, _BLOB_SIGMAS_PX), strict=True):
        response = -(sigma**2) * cv2.Laplacian(smooth, cv2.CV_32F)
        side = 2 * round(sigma) + 1
        peaks = (response == cv2.dilate(response, np.ones((side, side), np.uint8))) & (response > _BLOB_LEAST)
        numbers += [_log(float(peaks.mean()) * sigma**2), *_mean_and_spread(response[peaks])]
    return numbers


def _directions(plane: Plane) -> list[float]:
    """Coherence of the structure tensor: mean, spread, and mean weighted by the strength of the gradients."""
    numbers: list[float] = []
    for _ in range(_HALVINGS):
        across, down = cv2.Sobel(plane, cv2.CV_32F, 1, 0), cv2.Sobel(plane, cv2.CV_32F, 0, 1)
        products = across * across, across * down, down * down
        for side in _AROUND_PX:
            xx, xy, yy = (cv2.blur(product, (side, side)) for product in products)
            strength = xx + yy
            coherence = np.sqrt((xx - yy) ** 2 + 4 * xy * xy) / (strength + 1e-3)
            weighted = float((coherence * strength).sum()) / (float(strength.sum()) + 1e-6)
            numbers += [float(coherence.mean()), float(coherence.std()), weighted]
        plane = _halved(plane)
    return numbers


def _halved(plane: Plane) -> Plane:
    height, width = (max(1, side // 2) for side in plane.shape)
    return np.asarray(cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA), dtype=np.float32)


def _nuclei(density: Plane) -> list[float]:
    """Share, log number, sizes and their spread, inner radii with number, spread and 90th percentile, chromatin."""
    levels = np.asarray(np.clip(density * _LEVELS, 0, 255), dtype=np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    mask = (_blurred(density, 1.0) > threshold / _LEVELS).astype(np.uint8)
    mask = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)))
    _, _, pieces, _ = cv2.connectedComponentsWithStats(mask)
    areas = pieces[1:, cv2.CC_STAT_AREA]
    log_areas = np.log(areas[areas >= _NUCLEUS_PX2].astype(np.float64))
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    radii = depth[(depth == cv2.dilate(depth, np.ones((5, 5), np.uint8))) & (depth > 2)]
    inside, outside = density[mask > 0], density[mask == 0]
    detail = density - _blurred(density, 2.0)
    edges = np.abs(cv2.Laplacian(density, cv2.CV_32F))
    if not inside.size or not outside.size:
        return [float(mask.mean()), *(0.0,) * 13]
    return [
        float(mask.mean()), float(np.log1p(len(log_areas))),
        *_mean_and_spread(log_areas),
        _log(len(radii) / mask.size * 1000), *_mean_and_spread(radii),
        float(np.percentile(radii, 90)) if radii.size else 0.0,
        float(inside.mean() - outside.mean()), float(inside.std()),
        float(inside.std() / (abs(inside.mean()) + 0.05)), float(outside.std()),
        float(detail[mask > 0].std()), float(edges[mask > 0].mean()),
    ]  # fmt: skip


def _mean_and_spread(values: NDArray[np.floating]) -> tuple[float, float]:
    return (float(values.mean()), float(values.std())) if values.size else (0.0, 0.0)


def _blurs(plane: Plane, sigmas_px: Sequence[float]) -> Iterator[Plane]:
    """The plane blurred more and more, each time from the last."""
    done = 0.0
    for sigma in sigmas_px:
        plane = _blurred(plane, (sigma**2 - done**2) ** 0.5)
        done = sigma
        yield plane


def _blurred(plane: Plane, sigma_px: float) -> Plane:
    side = 2 * math.ceil(2.5 * sigma_px) + 1
    return np.asarray(cv2.GaussianBlur(plane, (side, side), sigma_px), dtype=np.float32)


def _log(value: float) -> float:
    return float(np.log(value + 1e-3))

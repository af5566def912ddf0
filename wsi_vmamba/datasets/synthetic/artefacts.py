"""Artefacts of slides of both labels: pen marks and patches out of focus, painted over the picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

#: Share of slides with a pen mark, and with a patch out of focus.
PEN_SHARE, BLUR_SHARE = 0.25, 0.3
#: Transmission of pen inks in R, G, B.
_INKS = ((0.15, 0.25, 0.75), (0.10, 0.55, 0.25), (0.12, 0.12, 0.14))


def add_artefacts(rng: np.random.Generator, rgb: NDArray[np.uint8]) -> None:
    """Draw which artefacts a slide has and paint them, in place."""
    if rng.random() < PEN_SHARE:
        _pen(rng, rgb)
    if rng.random() < BLUR_SHARE:
        _blur(rng, rgb)


def _pen(rng: np.random.Generator, rgb: NDArray[np.uint8]) -> None:
    """One stroke of a marker pen near an edge of the slide."""
    height, width = rgb.shape[:2]
    short = min(height, width)
    length, thick = int(short * rng.uniform(0.15, 0.4)), max(6, int(short * rng.uniform(0.008, 0.02)))
    box = np.array([width, height]) - 1
    start = rng.uniform(0.08, 0.92, 2) * box
    side = int(rng.integers(2))
    start[side] = rng.choice([0.06, 0.94]) * box[side]
    angle = rng.uniform(0, 2 * np.pi)
    steps = np.cumsum(np.full(12, length / 12))
    bend = angle + np.cumsum(rng.normal(0, 0.12, 12))
    path = start + np.stack([np.cos(bend) * steps, np.sin(bend) * steps], axis=1)
    low = np.clip(path.min(axis=0) - 2 * thick, 0, box).astype(int)
    high = np.clip(path.max(axis=0) + 2 * thick, 1, box).astype(int)
    part = rgb[low[1] : high[1], low[0] : high[0]]
    if part.size == 0:
        return
    mask = np.zeros(part.shape[:2], dtype=np.uint8)
    cv2.polylines(mask, [np.round(path - low).astype(np.int32)], isClosed=False, color=255, thickness=thick)
    cover = cv2.GaussianBlur(mask, (0, 0), 1.5)[..., None].astype(np.float32) / 255
    ink = np.array(_INKS[int(rng.integers(len(_INKS)))], dtype=np.float32)
    part[...] = np.round(part * (1 - cover + cover * ink))


def _blur(rng: np.random.Generator, rgb: NDArray[np.uint8]) -> None:
    """One round patch out of focus, with a soft edge."""
    height, width = rgb.shape[:2]
    radius = int(min(500, 0.22 * min(height, width)) * rng.uniform(0.5, 1.0))
    x, y = int(rng.uniform(radius, width - radius)), int(rng.uniform(radius, height - radius))
    part = rgb[y - radius : y + radius, x - radius : x + radius]
    soft = cv2.GaussianBlur(part, (0, 0), float(rng.uniform(1.2, 2.8)))
    grid_y, grid_x = np.mgrid[-radius:radius, -radius:radius].astype(np.float32)
    cover = np.clip((radius - np.hypot(grid_x, grid_y)) / (0.3 * radius), 0, 1)
    part[...] = cv2.blendLinear(part, soft, 1 - cover, cover)

"""Windows of generated tiles with the tissue in them: what the shipped weights of vmamba_pico are trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.datasets.synthetic import TISSUES, TileBatch, sample_tiles

#: RGB windows (B, H, W, 3), and the share of each tissue in each of their 32 px squares, (B, H / 32, W / 32, tissues).
Windows = tuple[NDArray[np.uint8], NDArray[np.float32]]
#: Squares of the tissue map (8 px) along one square of the feature map.
_SQUARES = 4
#: Seeds of the held-out tiles start here; training chunks count up from the recipe's seed.
_HELD_OUT_SEED = 9_000_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the recipe; the header of a weights file says which ones made it.

    Attributes:
        seed: of the weights, the tiles and the augmentation.
        steps: optimiser steps.
        batch: windows of 128 px in a step.
        wide_every: each so many steps, a quarter as many windows of 256 px instead, so that the scan sees
            longer rows.
        tile_px: side of the tiles the windows are cut from.
        chunks: chunks of 48 tiles in the pool a batch is drawn from.
        renew_steps: steps after which the oldest chunk of the pool is replaced.
        learning_rate: at the end of the warm-up; a cosine takes it to a hundredth.
        difficulty: least and greatest difficulty of the tumours.
    """

    seed: int = 20
    steps: int = 1400
    batch: int = 32
    wide_every: int = 4
    tile_px: int = 512
    chunks: int = 8
    renew_steps: int = 8
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 40
    difficulty: tuple[float, float] = (0.2, 0.8)
    checkpoint_steps: int = 50


def batches(settings: Settings, *, first: int) -> Iterator[tuple[int, Windows]]:
    """Yield (step, (images, soft targets)) from a pool of chunks that is renewed as training goes on."""
    with ThreadPoolExecutor(1) as painter:
        base = first // settings.renew_steps
        pool = [_chunk(settings, base + i) for i in range(settings.chunks)]
        coming = painter.submit(_chunk, settings, base + settings.chunks)
        for step in range(first, settings.steps):
            if step // settings.renew_steps > base:
                base += 1
                pool = [*pool[1:], coming.result()]
                coming = painter.submit(_chunk, settings, base + settings.chunks)
            rng = np.random.default_rng([settings.seed, step])
            wide = step % settings.wide_every == 0
            count, side_px = (settings.batch // 4, 256) if wide else (settings.batch, 128)
            yield step, _draw(rng, pool, count=count, side_px=side_px)
        coming.cancel()


def held_out_tiles(count: int = 6) -> list[TileBatch]:
    """Chunks no training step has seen: other scenes, stains and nuclei."""
    return [sample_tiles(_HELD_OUT_SEED + i, 48, 512) for i in range(count)]


def view(
    rng: np.random.Generator,
    image: NDArray[np.uint8],
    tissue: NDArray[np.uint8],
    *,
    side_px: int,
    shrink: int,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut a random window of a tile, shrunk by 1 or 2 to ``side_px``; with its tissue, one sample per 8 px."""
    squares = side_px * shrink // 8
    row, column = (int(at) for at in rng.integers(0, tissue.shape[0] - squares, 2, endpoint=True))
    window = image[8 * row : 8 * (row + squares), 8 * column : 8 * (column + squares)]
    labels = tissue[row : row + squares, column : column + squares]
    if shrink > 1:
        window = np.asarray(cv2.resize(window, (side_px, side_px), interpolation=cv2.INTER_AREA))
    return window, labels[shrink // 2 :: shrink, shrink // 2 :: shrink]


def soft_target(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of each tissue in each 32 px square, (H / 32, W / 32, tissues), from one index per 8 px."""
    one_hot = np.eye(len(TISSUES), dtype=np.float32)[squares]
    rows, columns = squares.shape[0] // _SQUARES, squares.shape[1] // _SQUARES
    return np.asarray(one_hot.reshape(rows, _SQUARES, columns, _SQUARES, -1).mean(axis=(1, 3)))


def disturb(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Strong stain and light scanner augmentation: mixed and rescaled optical densities, focus, JPEG."""
    density = -np.log((image.astype(np.float32) + 1) / 256)
    mixing = np.eye(3) * rng.uniform(0.7, 1.4) + rng.normal(0, 0.07, (3, 3))
    density = density @ mixing.astype(np.float32) + rng.normal(0, 0.03, 3).astype(np.float32)
    result = np.asarray(np.clip(256 * np.exp(-density) - 1, 0, 255), dtype=np.uint8)
    if rng.random() < 0.3:
        result = np.asarray(cv2.GaussianBlur(result, (0, 0), float(rng.uniform(0.3, 1.4))))
    if rng.random() < 0.6:
        _, code = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 95))])
        result = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
    return result


def _chunk(settings: Settings, index: int) -> TileBatch:
    """One scene's worth of tiles; the difficulty goes through its range from chunk to chunk."""
    low, high = settings.difficulty
    difficulty = low + (high - low) * ((index * 0.618) % 1.0)
    return sample_tiles(settings.seed * 100_000 + index, 48, settings.tile_px, difficulty=difficulty)


def _draw(rng: np.random.Generator, pool: Sequence[TileBatch], *, count: int, side_px: int) -> Windows:
    """Draw and disturb ``count`` windows, one half at 0.5 and the other at 1 um per pixel."""
    images, targets = [], []
    for i in range(count):
        chunk = pool[int(rng.integers(len(pool)))]
        which = int(rng.integers(len(chunk.images)))
        image, squares = view(
            rng, chunk.images[which], chunk.tissue[which], side_px=side_px, shrink=1 + i % 2
        )
        turns = int(rng.integers(4))
        image, squares = np.rot90(image, turns), np.rot90(squares, turns)
        if rng.integers(2):
            image, squares = image[:, ::-1], squares[:, ::-1]
        images.append(disturb(rng, np.ascontiguousarray(image)))
        targets.append(soft_target(squares))
    return np.stack(images), np.stack(targets)

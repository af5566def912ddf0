"""Windows of generated tiles with the tissue in them, from seeds that no cohort uses."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from wsi_vmamba.config.pretrain import PaintedSettings
from wsi_vmamba.datasets.synthetic import TISSUES, TileBatch, sample_tiles
from wsi_vmamba.pretraining.batch import Painted

#: Squares of the tissue map (8 px) along one square of the feature map.
_SQUARES = 4
#: Seeds of the held-out tiles start here; training chunks count up from the recipe's seed.
_HELD_OUT_SEED = 9_000_000


def windows(
    settings: PaintedSettings, *, seed: int, first: int, last: int, rank: int = 0, world: int = 1
) -> Generator[Painted, None, None]:
    """Yield the windows of the steps from ``first`` to before ``last``, from a pool that is renewed as they go.

    What a step is given is a function of its number: a training that goes on sees what it would have seen. Each rank
    has tiles of its own.
    """
    with ThreadPoolExecutor(1) as painter:

        def chunk(index: int) -> TileBatch:
            return _chunk(settings, index * world + rank, seed=seed)

        base = first // settings.renew_steps
        pool = [chunk(base + i) for i in range(settings.chunks)]
        coming = painter.submit(chunk, base + settings.chunks)
        for step in range(first, last):
            if step // settings.renew_steps > base:
                base += 1
                pool = [*pool[1:], coming.result()]
                coming = painter.submit(chunk, base + settings.chunks)
            rng = np.random.default_rng([seed, step, rank] if rank else [seed, step])
            wide = step % settings.wide_every == 0
            count, side_px = (max(1, settings.batch // 4), 256) if wide else (settings.batch, 128)
            yield _draw(rng, pool, count=count, side_px=side_px)
        coming.cancel()


def held_out_tiles(count: int) -> list[TileBatch]:
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


def _chunk(settings: PaintedSettings, index: int, *, seed: int) -> TileBatch:
    """One scene's worth of tiles; the difficulty goes through its range from chunk to chunk."""
    low, high = settings.least_difficulty, settings.greatest_difficulty
    difficulty = low + (high - low) * ((index * 0.618) % 1.0)
    return sample_tiles(seed * 100_000 + index, 48, settings.tile_px, difficulty=difficulty)


def _draw(rng: np.random.Generator, pool: Sequence[TileBatch], *, count: int, side_px: int) -> Painted:
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
    return Painted(images=torch.from_numpy(np.stack(images)), target=torch.from_numpy(np.stack(targets)))

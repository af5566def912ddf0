"""Tiles used in part are kept, within bounds, and only for as long as their slide is open."""

from __future__ import annotations

import gc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.tiff import slide as tiff
from wsi_vmamba.slide.tile_cache import TILES, TileCache


def tile(value: int, side: int = 10) -> np.ndarray:
    return np.full((side, side, 1), value, dtype=np.uint8)


def test_the_tiles_used_last_stay_within_the_bytes():
    cache, slide = TileCache(400), object()
    for index in range(4):
        cache.put((slide, 0, index), tile(index))
    assert cache.get((slide, 0, 0)) is not None  # used again, so 1 is the oldest
    cache.put((slide, 0, 4), tile(4))
    assert cache.get((slide, 0, 1)) is None
    for index in (0, 2, 3, 4):
        kept = cache.get((slide, 0, index))
        assert kept is not None
        assert (kept == index).all()
    assert cache.held_bytes == 400


def test_the_same_number_on_another_level_or_slide_is_another_tile():
    cache, one, other = TileCache(4000), object(), object()
    cache.put((one, 0, 7), tile(1))
    cache.put((one, 1, 7), tile(2))
    cache.put((other, 0, 7), tile(3))
    cache.forget(one)
    assert cache.get((one, 0, 7)) is None
    assert cache.get((one, 1, 7)) is None
    kept = cache.get((other, 0, 7))
    assert kept is not None
    assert (kept == 3).all()
    assert cache.held_bytes == 100


def test_a_tile_that_would_drop_most_others_is_not_kept_and_one_put_twice_counts_once():
    cache, slide = TileCache(400), object()
    cache.put((slide, 0, 0), tile(0, side=11))
    assert cache.held_bytes == 0
    for _ in range(2):
        cache.put((slide, 0, 1), tile(1))
    assert cache.held_bytes == 100


@pytest.fixture
def slide_path(tmp_path: Path) -> Path:
    rgb = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, rgb, tile=(128, 128), compression="zlib", photometric="rgb", metadata=None)
    return path


def test_small_reads_side_by_side_decode_each_tile_once(slide_path, monkeypatch):
    decoded = []
    decode = tiff.decode_tile
    monkeypatch.setattr(tiff, "decode_tile", lambda *a, **k: decoded.append(1) or decode(*a, **k))
    whole = tifffile.imread(slide_path)
    with open_slide(slide_path, reader="tiff") as slide:
        for y in range(0, 256, 32):
            for x in range(0, 256, 32):
                pixels = slide.read_region(x_l0=x, y_l0=y, level=0, width_px=32, height_px=32)
                assert (pixels == whole[y : y + 32, x : x + 32]).all()
        assert len(decoded) == 4
        pixels[:] = 0  # what a caller does to its pixels is no concern of the next
        again = slide.read_region(x_l0=224, y_l0=224, level=0, width_px=32, height_px=32)
        assert (again == whole[224:, 224:]).all()
    assert TILES.held_bytes == 0


def test_tiles_used_whole_are_not_kept_and_a_slide_dropped_unclosed_lets_its_file_go(slide_path):
    slide = open_slide(slide_path, reader="tiff")
    assert descriptors_of(slide_path)
    slide.read_region(x_l0=0, y_l0=0, level=0, width_px=256, height_px=256)
    assert TILES.held_bytes == 0
    slide.read_region(x_l0=0, y_l0=0, level=0, width_px=100, height_px=100)
    assert TILES.held_bytes == 128 * 128 * 3
    del slide
    gc.collect()
    assert not descriptors_of(slide_path)


def descriptors_of(path):
    """Those this process has open; one that closes meanwhile is none."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found += [descriptor] if descriptor.readlink() == path.resolve() else []
    return found

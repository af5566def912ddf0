"""TIFF in strips and of a single level: each strip decoded about once, memory that does not know the size."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter

import imagecodecs
import numpy as np
import pytest
import tifffile

from wsi_vmamba.regions import RegionSpec, plan_regions
from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.tiff import slide as tiff
from wsi_vmamba.stream import read_target, stream_regions
from wsi_vmamba.tissue.everything import segment_everything
from wsi_vmamba.tissue.overview import read_overview

WIDTH, HEIGHT = 5200, 2100


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (HEIGHT // 20, WIDTH // 20, 3), dtype=np.uint8)
    return np.ascontiguousarray(small.repeat(20, axis=0).repeat(20, axis=1))


def write(path, picture, **options):
    tifffile.imwrite(
        path, picture, photometric="rgb", resolution=(20000, 20000), resolutionunit="CENTIMETER", **options
    )
    return path


@pytest.fixture
def decoded(monkeypatch):
    """How often each piece of a file was decoded, by the first bytes and the length of its data."""
    counts = Counter()
    decode = tiff.decode_tile

    def counting(data, form, **size):
        counts[hash(data)] += 1
        return decode(data, form, **size)

    monkeypatch.setattr(tiff, "decode_tile", counting)
    return counts


@pytest.mark.parametrize("options", [{"rowsperstrip": 16}, {"rowsperstrip": 100}, {"rowsperstrip": HEIGHT}])
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_strips_give_the_overview_and_the_regions_of_tiles(tmp_path, picture, options, compression):
    tiled = write(tmp_path / "tiles.tif", picture, tile=(256, 256), compression="zlib")
    strips = write(tmp_path / "strips.tif", picture, compression=compression, **options)
    with open_slide(tiled) as one, open_slide(strips) as other:
        assert len(other.levels) == 1
        np.testing.assert_array_equal(
            read_overview(one, mpp=0.5).pixels, read_overview(other, mpp=0.5).pixels
        )
        tissue = segment_everything(one, mpp=0.5)
        spec = RegionSpec(target_mpp=0.7, region_px=1024, patch_px=64)
        size = {"width_l0": WIDTH, "height_l0": HEIGHT}
        plan = plan_regions(**size, mpp=0.5, levels=one.levels, spec=spec, tissue=tissue)
        place = {"x_px": 900, "y_px": 130, "width_px": 700, "height_px": 900}
        np.testing.assert_array_equal(read_target(one, plan, **place), read_target(other, plan, **place))


def test_strips_of_a_small_slide_are_decoded_once_for_all_regions(tmp_path, picture, decoded):
    rng = np.random.default_rng(0)
    noisy = picture ^ rng.integers(0, 2, picture.shape, dtype=np.uint8)  # no two strips alike
    path = write(tmp_path / "s.tif", noisy, rowsperstrip=16, compression="lzw")
    with open_slide(path) as slide:
        read_overview(slide, mpp=0.5)
        assert len(decoded) == -(-HEIGHT // 16)
        assert max(decoded.values()) == 1
        decoded.clear()
        spec = RegionSpec(target_mpp=0.5, region_px=2100, patch_px=100)
        size = {"width_l0": WIDTH, "height_l0": HEIGHT}
        tissue = segment_everything(slide, mpp=0.5)
        plan = plan_regions(**size, mpp=0.5, levels=slide.levels, spec=spec, tissue=tissue)
        assert len(plan.regions) == 3
        for _ in stream_regions(slide, plan):
            pass
        # Their parts outside the first region are kept for the others.
        assert max(decoded.values()) == 1


def test_one_strip_that_is_the_whole_slide_is_decoded_once(tmp_path, picture, decoded):
    path = write(tmp_path / "s.tif", picture, rowsperstrip=HEIGHT, compression="lzw")
    with open_slide(path) as slide:
        read_overview(slide, mpp=0.5)
        for y in (0, 700, 1400):
            found = slide.read_region(x_l0=100, y_l0=y, level=0, width_px=900, height_px=500)
            np.testing.assert_array_equal(found, picture[y : y + 500, 100:1000])
    assert list(decoded.values()) == [1]


@pytest.mark.slow
def test_jpeg2000_strips_of_a_single_level(tmp_path, picture):
    """Lossless JPEG 2000 in strips, which no common tool writes but TIFF allows."""
    rows = 128
    data = [
        imagecodecs.jpeg2k_encode(picture[y : y + rows], level=0, reversible=True)
        for y in range(0, HEIGHT, rows)
    ]
    path = tmp_path / "s.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            iter(data), shape=picture.shape, dtype=np.uint8, rowsperstrip=rows, compression="jpeg2000",
            photometric="rgb",
        )  # fmt: skip
    with open_slide(path) as slide:
        assert slide.reader == "tiff"
        found = slide.read_region(x_l0=10, y_l0=100, level=0, width_px=500, height_px=400)
    np.testing.assert_array_equal(found, picture[100:500, 10:510])


MEASURE = """
import resource, sys
from wsi_vmamba.slide import open_slide
from wsi_vmamba.tissue import segment_tissue
with open_slide(sys.argv[1]) as slide:
    assert len(slide.levels) == 1
    segment_tissue(slide, mpp=0.5)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_mb(path) -> int:
    return int(subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, check=True).stdout)


@pytest.mark.parametrize("options", [{"tile": (512, 512)}, {"rowsperstrip": 64}])
@pytest.mark.slow
def test_the_overview_of_a_single_level_takes_no_more_memory_for_a_larger_slide(tmp_path, options):
    """Slides of one colour: 48 MB and 768 MB of pixels, a few MB on the disk."""
    peaks = []
    for side in (4096, 16384):
        height, width = options.get("tile", (64, side))
        piece = imagecodecs.zlib_encode(np.full((height, width, 3), 243, np.uint8))
        count = (side // height) * (side // width)
        path = tmp_path / f"{side}.tif"
        with tifffile.TiffWriter(path) as writer:
            writer.write(
                itertools.repeat(piece, count), shape=(side, side, 3), dtype=np.uint8, photometric="rgb",
                compression="zlib", **options,
            )  # fmt: skip
        peaks.append(peak_mb(path))
    # The larger overview itself is 3 MB; threads that work on more blocks at once take the rest.
    assert peaks[1] - peaks[0] < 60, peaks

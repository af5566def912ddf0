from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openslide
import pytest
import tifffile

from wsi_vmamba.errors import BadTileError, UnreadableSlideError
from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.compose import lay_over_white
from wsi_vmamba.slide.openslide.slide import OpenSlideSlide
from wsi_vmamba.slide.tiff.slide import TiffSlide

pytestmark = pytest.mark.filterwarnings("error")

NATIVE = [
    "slides/cmu-1-small-region.svs",  # JPEG, RGB without saying so
    "slides/lymph-node-metastasis.tif",  # JPEG, YCbCr 4:2:0
    "slides/tcga-cr-7395-01a-01-ts1.svs",  # JPEG 2000
    "slides-10x/liver-metastatic-sarcoma.tif",
    "slides-10x/liver-necrotising-granuloma.tif",
    "slides-10x/lymph-node-anthracosis-1.tif",
    "slides-10x/pancreas-intrapancreatic-spleen.tif",
]
DICOM = ["bone-jpeg", "bone-jpeg2000", "bone-raw", "camelyon-overview-jpeg", "camelyon-overview-jpeg2000"]


def read(slide, *, x, y, width, height, level=0):
    return slide.read_region(x_l0=x, y_l0=y, level=level, width_px=width, height_px=height)


def test_levels_pixels_and_mpp(tmp_path, coordinates, expected, write_pyramid):
    pictures = [coordinates(600, 400), coordinates(300, 200)]
    path = write_pyramid(tmp_path / "a.tif", pictures, resolution=(20000, 20000), resolutionunit="CENTIMETER")
    with open_slide(path, reader="openslide") as slide:
        assert (slide.reader, slide.slide_id) == ("openslide", "a")
        assert [(lv.width_px, lv.height_px, lv.downsample) for lv in slide.levels] == [
            (600, 400, 1.0),
            (300, 200, 2.0),
        ]
        assert slide.mpp == pytest.approx(0.5)
        for x, y in [(0, 0), (-20, -30), (570, 390), (700, 0), (100, 77)]:
            np.testing.assert_array_equal(
                read(slide, x=x, y=y, width=90, height=80),
                expected(pictures[0], x=x, y=y, width=90, height=80),
            )
            np.testing.assert_array_equal(
                read(slide, x=2 * x, y=2 * y, width=90, height=80, level=1),
                expected(pictures[1], x=x, y=y, width=90, height=80),
            )


def test_strips_have_no_seams(tmp_path, coordinates, write_pyramid):
    picture = coordinates(200, 2500)
    with OpenSlideSlide(write_pyramid(tmp_path / "a.tif", [picture])) as slide:
        np.testing.assert_array_equal(read(slide, x=3, y=7, width=150, height=2480), picture[7:2487, 3:153])


def test_bad_tile_is_named_and_the_slide_stays_usable(tmp_path, coordinates, write_pyramid):
    path = write_pyramid(tmp_path / "a.tif", [coordinates(300, 300)], compression="deflate")
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[7], tif.pages[0].databytecounts[7]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    with OpenSlideSlide(path) as slide:
        with pytest.raises(BadTileError, match=r"level 0, tile \(col, row\) \(2, 1\)"):
            read(slide, x=130, y=70, width=20, height=20)
        with pytest.raises(BadTileError, match=r"one of the tiles \(col, row\) \(1, 1\) to \(4, 4\)"):
            read(slide, x=100, y=100, width=180, height=180)
        np.testing.assert_array_equal(
            read(slide, x=0, y=0, width=60, height=60), coordinates(300, 300)[:60, :60]
        )


def test_closed_slide_and_missing_file(tmp_path, coordinates, write_pyramid):
    slide = OpenSlideSlide(write_pyramid(tmp_path / "a.tif", [coordinates(100, 100)]))
    slide.close()
    with pytest.raises(UnreadableSlideError, match="closed"):
        read(slide, x=0, y=0, width=5, height=5)
    with pytest.raises(UnreadableSlideError, match="no such file"):
        OpenSlideSlide(tmp_path / "none.svs")


def test_transparent_pixels_are_laid_over_white():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [100, 0, 255, 128]]], np.uint8)
    out = np.zeros((1, 3, 3), np.uint8)
    lay_over_white(out, rgba)
    # 100 * 128/255 + 255 * 127/255 = 177.2; 0 + 127; 255
    np.testing.assert_array_equal(out[0], [[10, 20, 30], [255, 255, 255], [177, 127, 255]])


@pytest.mark.real_slides
@pytest.mark.parametrize("name", NATIVE)
def test_native_pixels_equal_those_of_openslide(real_data, name):
    """Both sides decode JPEG with libjpeg-turbo and JPEG 2000 with OpenJPEG: not one value may differ."""
    rng = np.random.default_rng(7)
    path = real_data / name
    with TiffSlide(path) as native, OpenSlideSlide(path) as other, openslide.OpenSlide(str(path)) as raw:
        assert [(lv.width_px, lv.height_px) for lv in native.levels] == list(raw.level_dimensions)
        assert native.levels == other.levels
        assert native.mpp == pytest.approx(other.mpp)
        for level, (there, downsample) in enumerate(zip(native.levels, raw.level_downsamples, strict=True)):
            corners = [(0, 0, 1500, 1300)]
            # Elsewhere OpenSlide interpolates, if its downsample is no whole number.
            if downsample.is_integer():
                corners += [(-30, -20, 300, 200), (there.width_px - 100, there.height_px - 100, 300, 200)]
                for _ in range(4):
                    corners.append(
                        (*(int(rng.integers(n)) for n in (there.width_px, there.height_px)), 600, 500)
                    )
            for x, y, width, height in corners:
                at = {"x": round(x * there.downsample), "y": round(y * there.downsample), "level": level}
                found = read(native, **at, width=width, height=height)
                np.testing.assert_array_equal(found, read(other, **at, width=width, height=height))


@pytest.mark.real_slides
def test_read_from_eight_threads_equals_read_from_one(real_data):
    corners = [(x, y) for x in range(9000, 12000, 1000) for y in range(6000, 9000, 1000)]
    for reader in (TiffSlide, OpenSlideSlide):
        with reader(real_data / "slides/lymph-node-metastasis.tif") as slide, ThreadPoolExecutor(8) as pool:
            alone = [read(slide, x=x, y=y, width=700, height=600) for x, y in corners]
            together = pool.map(lambda at: read(slide, x=at[0], y=at[1], width=700, height=600), corners * 2)
            for one, other in zip(alone * 2, together, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.real_slides
@pytest.mark.parametrize("name", DICOM)
def test_dicom(real_data, name):
    path = real_data / f"slides/{name}.dcm"
    with open_slide(path) as slide, openslide.OpenSlide(str(path)) as raw:
        assert slide.reader == "openslide"
        level = slide.levels[0]
        assert (level.width_px, level.height_px) == raw.dimensions
        # Over the right and bottom edge, where frames are padded.
        found = read(slide, x=level.width_px - 60, y=level.height_px - 50, width=80, height=70)
        inside = np.asarray(raw.read_region((level.width_px - 60, level.height_px - 50), 0, (60, 50)))[
            ..., :3
        ]
        np.testing.assert_array_equal(found[:50, :60], inside)
        assert (found[50:] == 255).all()
        assert (found[:, 60:] == 255).all()


def test_jpeg2000_ycbcr_equals_openslide_within_rounding(tmp_path):
    """Aperio's 33003, which no real slide at hand has: random colours through both readers."""
    rng = np.random.default_rng(3)
    ycbcr = rng.integers(0, 256, (240, 240, 3), dtype=np.uint8)
    path = tmp_path / "a.svs"
    tifffile.imwrite(
        path, ycbcr, photometric="rgb", tile=(240, 240), compression=34712, metadata=None,
        compressionargs={"reversible": True, "codecformat": "J2K", "mct": False},
        description="Aperio Image Library v10\n240x240 (240x240) J2K/YUV16 Q=70|MPP = 0.5",
    )  # fmt: skip
    data = bytearray(path.read_bytes())
    tag = data.index((259).to_bytes(2, "little") + b"\3\0\1\0\0\0")
    data[tag + 8 : tag + 10] = (33003).to_bytes(2, "little")
    path.write_bytes(data)
    at = {"x": 0, "y": 0, "width": 240, "height": 240}
    with TiffSlide(path) as native, OpenSlideSlide(path) as other:
        assert other.properties["vendor"] == "aperio"
        difference = read(native, **at).astype(int) - read(other, **at)
        assert np.abs(difference).max() <= 1
        assert np.count_nonzero(difference) < 0.02 * difference.size

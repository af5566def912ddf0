"""Reads into the caller's array: the same pixels as a read that makes its own, and nothing beside them."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.errors import UsageError
from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.memory import ArraySlide
from wsi_vmamba.slide.tolerant import TolerantSlide

#: Inside the slide across tiles, over each kind of border, and outside.
PLACES = [(30, 20, 90, 70), (-10, -5, 40, 40), (180, 110, 60, 50), (500, 500, 8, 8)]
RED = (200, 0, 0)


@pytest.fixture(params=["memory", "tiff", "openslide", "tolerant"])
def slide(request, tmp_path, coordinates, write_pyramid):
    picture = coordinates(203, 131)
    if request.param == "memory":
        opened = ArraySlide(picture, 0.5)
    else:
        path = write_pyramid(tmp_path / "s.tif", [picture])
        reader = "tiff" if request.param == "tolerant" else request.param
        opened = open_slide(path, reader=reader)
    with TolerantSlide(opened) if request.param == "tolerant" else opened as ready:
        yield ready


@pytest.mark.parametrize("place", PLACES)
def test_pixels_are_put_where_they_are_wanted(slide, coordinates, expected, place):
    x, y, width, height = place
    asked = {"x_l0": x, "y_l0": y, "level": 0, "width_px": width, "height_px": height}
    frame = np.full((height + 5, width + 7, 3), RED, np.uint8)
    inner = frame[2:-3, 4:-3]
    assert slide.read_region(**asked, out=inner) is inner
    there = expected(coordinates(203, 131), x=x, y=y, width=width, height=height)
    np.testing.assert_array_equal(inner, there)
    np.testing.assert_array_equal(slide.read_region(**asked), there)
    inner[:] = RED
    assert (frame == RED).all()


@pytest.mark.parametrize("out", [np.zeros((8, 9, 3), np.uint8), np.zeros((9, 8, 3), np.int16)])
def test_an_array_that_does_not_fit_is_refused(slide, out):
    with pytest.raises(UsageError, match=r"out must be uint8 \(9, 8, 3\), got"):
        slide.read_region(x_l0=0, y_l0=0, level=0, width_px=8, height_px=9, out=out)


def test_damage_is_white_in_the_callers_array_too(tmp_path, coordinates, write_pyramid):
    path = write_pyramid(tmp_path / "s.tif", [coordinates(203, 131)], compression="zlib")
    asked = {"x_l0": 0, "y_l0": 0, "level": 0, "width_px": 203, "height_px": 131}
    data = bytearray(path.read_bytes())
    offset = _first_tile(path)
    data[offset : offset + 40] = b"\xaa" * 40
    path.write_bytes(data)
    with TolerantSlide(open_slide(path, reader="tiff")) as slide:
        out = np.full((131, 203, 3), RED, np.uint8)
        assert slide.read_region(**asked, out=out) is out
        (bad,) = slide.damage(0)
    assert (bad.x_px, bad.y_px, bad.width_px, bad.height_px) == (0, 0, 64, 64)
    picture = coordinates(203, 131)
    picture[: bad.height_px, : bad.width_px] = 255
    np.testing.assert_array_equal(out, picture)


def _first_tile(path):
    import tifffile

    with tifffile.TiffFile(path) as tif:
        return tif.pages[0].dataoffsets[0]

"""Thumbnails: the right level, the aspect of the slide, and averages that can be computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.errors import UsageError
from wsi_vmamba.slide import Slide, open_slide
from wsi_vmamba.slide.memory import ArraySlide
from wsi_vmamba.slide.tolerant import TolerantSlide


class Watched(ArraySlide):
    """An array slide that remembers which levels were read."""

    def read_region(self, **place):
        self.read = {*getattr(self, "read", set()), place["level"]}
        return super().read_region(**place)


@pytest.mark.parametrize(
    ("size", "max_px", "shape"),
    [((400, 300), 100, (75, 100)), ((300, 401), 100, (100, 75)), ((400, 300), 1000, (300, 400)),
     ((1000, 3), 100, (1, 100)), ((400, 300), 399, (299, 399)), ((7, 7), 1, (1, 1))],
)  # fmt: skip
def test_the_aspect_and_no_side_longer(size, max_px, shape):
    slide = ArraySlide(np.full((size[1], size[0], 3), 77, np.uint8), None)
    found = slide.thumbnail(max_px)
    assert (found.shape, found.dtype) == ((*shape, 3), np.uint8)
    assert (found == 77).all()


def test_the_smallest_level_that_is_large_enough():
    picture = np.random.default_rng(0).integers(0, 256, (640, 800, 3), dtype=np.uint8)
    for max_px, level in ((100, 3), (101, 2), (200, 2), (201, 1), (800, 0), (900, 0)):
        slide = Watched(picture, 0.5, downsamples=(1, 2, 4, 8))
        slide.thumbnail(max_px)
        assert slide.read == {level}
    slide = Watched(picture, 0.5, downsamples=(1, 2, 4, 8))
    expected = picture.reshape(80, 8, 100, 8, 3).mean(axis=(1, 3))
    assert np.abs(slide.thumbnail(100) - expected).max() <= 0.5


def test_pixels_are_means_of_what_they_cover():
    """One level, a factor of 5 that is read as 5 and one of 7.5 that is not whole; in blocks."""
    picture = np.random.default_rng(0).integers(0, 256, (2250, 3000, 3), dtype=np.uint8)
    slide = ArraySlide(picture, 0.5)
    expected = picture.reshape(450, 5, 600, 5, 3).mean(axis=(1, 3))
    assert np.abs(slide.thumbnail(600) - expected).max() <= 0.5
    smooth = np.linspace(0, 250, 3000)[None, :, None].repeat(2250, 0).repeat(3, 2)
    found = ArraySlide(smooth.astype(np.uint8), 0.5).thumbnail(400)
    # Each pixel is the mean of 7.5 columns, and the ramp falls off to whole numbers.
    centres = (np.arange(400) + 0.5) * 7.5 - 0.5
    assert np.abs(found[150, :, 0] - centres * 250 / 2999).max() <= 1.5


def test_of_a_file_and_of_one_with_a_damaged_tile(tmp_path, coordinates, write_pyramid):
    picture = np.full((300, 400, 3), 60, np.uint8)
    path = write_pyramid(tmp_path / "a.tif", [picture], tile=(64, 64), compression="deflate")
    with open_slide(path) as slide:
        assert isinstance(slide, Slide)
        np.testing.assert_array_equal(slide.thumbnail(100), picture[:75, :100])
        offset, length = int(slide._tables[0].offsets[0]), int(slide._tables[0].byte_counts[0])
    data = bytearray(path.read_bytes())
    data[offset : offset + length] = bytes(length)
    path.write_bytes(data)
    with TolerantSlide(open_slide(path)) as slide:
        assert isinstance(slide, Slide)
        found = slide.thumbnail(100)
        assert [(area.x_px, area.y_px, area.width_px) for area in slide.damage(0)] == [(0, 0, 64)]
    assert (found[:16, :16] == 255).all()
    assert (found[16:, 16:] == 60).all()


@pytest.mark.parametrize("max_px", [0, -5])
def test_no_size_is_refused(max_px):
    with pytest.raises(UsageError, match="positive max_px"):
        ArraySlide(np.zeros((5, 5, 3), np.uint8), None).thumbnail(max_px)

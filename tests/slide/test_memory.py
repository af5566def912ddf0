from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.errors import UnreadableSlideError, UsageError
from wsi_vmamba.slide import Slide
from wsi_vmamba.slide.memory import ArraySlide


def test_levels_are_block_means(coordinates):
    picture = coordinates(101, 67)
    slide = ArraySlide(picture, 0.5, downsamples=(1, 2, 4), path="x/some.slide")
    assert isinstance(slide, Slide)
    assert slide.slide_id == "some"
    assert [(lv.width_px, lv.height_px, lv.downsample) for lv in slide.levels] == [
        (101, 67, 1.0), (50, 33, 2.0), (25, 16, 4.0)
    ]  # fmt: skip
    found = slide.read_region(x_l0=8, y_l0=12, level=2, width_px=1, height_px=1)
    np.testing.assert_array_equal(found[0, 0], np.rint(picture[12:16, 8:12].mean(axis=(0, 1))))
    edge = slide.read_region(x_l0=100, y_l0=-1, level=0, width_px=2, height_px=2)
    np.testing.assert_array_equal(edge, [[[255] * 3] * 2, [picture[0, 100], [255] * 3]])


def test_wrong_arrays_and_downsamples_are_refused():
    good = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(UsageError, match=r"expected uint8 \(h, w, 3\), got float64 \(4, 4, 3\)"):
        ArraySlide(good.astype(float), 0.5)
    for downsamples in [(), (2, 4), (1, 4, 2)]:
        with pytest.raises(UsageError, match="begin with 1 and rise"):
            ArraySlide(good, 0.5, downsamples=downsamples)
    with pytest.raises(UsageError, match="downsample 8 leaves nothing of 4 x 4 px"):
        ArraySlide(good, 0.5, downsamples=(1, 8))


def test_closed_slide():
    slide = ArraySlide(np.zeros((4, 4, 3), np.uint8), 0.5)
    slide.close()
    with pytest.raises(UnreadableSlideError, match="closed"):
        slide.read_region(x_l0=0, y_l0=0, level=0, width_px=1, height_px=1)

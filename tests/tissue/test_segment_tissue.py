"""From slide to mask: the right level, the right place, every segmenter of the table, and real slides."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from wsi_vmamba.config import OtsuSettings
from wsi_vmamba.errors import UnknownNameError, UsageError
from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.memory import ArraySlide
from wsi_vmamba.tissue import SEGMENTERS, TissueMask, segment_tissue
from wsi_vmamba.tissue.otsu import tissue_of
from wsi_vmamba.tissue.overview import read_overview

NODE = (128, 92, 160)


class Recording(ArraySlide):
    """An array slide that keeps the requests."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.requests = []

    def read_region(self, **place):
        self.requests.append(place)
        return super().read_region(**place)


def _slide_with_square(*, left, top, side, width=4000, height=3000, mpp=0.5, downsamples=(1,)):
    array = np.full((height, width, 3), 244, np.uint8)
    array[top : top + side, left : left + side] = NODE
    return Recording(array, mpp, downsamples=downsamples)


@pytest.mark.parametrize("downsamples", [(1,), (1, 4), (1, 2, 16), (1, 64)])
def test_the_mask_lies_where_the_tissue_is(downsamples):
    slide = _slide_with_square(left=1600, top=640, side=800, downsamples=downsamples)
    found = segment_tissue(slide, mpp=0.5)
    rows, columns = np.nonzero(found.mask)
    assert found.downsample == 16.0
    assert found.mpp == 8.0
    # A level may leave out the ragged last rows.
    assert found.mask.shape in ((187, 250), (188, 250))
    assert abs(columns.min() * 16 - 1600) <= 16
    assert abs((columns.max() + 1) * 16 - 2400) <= 16
    assert abs(rows.min() * 16 - 640) <= 16
    assert abs((rows.max() + 1) * 16 - 1440) <= 16
    assert found.area_um2 == pytest.approx((800 * 0.5) ** 2, rel=0.05)
    assert found.share == pytest.approx(800**2 / 12e6, rel=0.05)


def test_the_coarsest_level_that_is_fine_enough_is_read():
    slide = _slide_with_square(left=0, top=0, side=800, downsamples=(1, 4, 8, 32))
    overview = read_overview(slide, mpp=0.5)
    assert {request["level"] for request in slide.requests} == {2}
    assert overview.downsample == 16.0
    assert overview.pixels.shape == (188, 250, 3)


def test_a_single_level_is_read_in_blocks_and_averaged_exactly():
    array = np.random.default_rng(0).integers(0, 256, (2100, 5003, 3), dtype=np.uint8)
    slide = Recording(array, 0.5)
    overview = read_overview(slide, mpp=0.5)
    assert max(request["width_px"] * request["height_px"] for request in slide.requests) <= 2048**2
    assert sum(request["width_px"] * request["height_px"] for request in slide.requests) == 2100 * 5003
    padded = np.pad(array, ((0, -2100 % 16), (0, -5003 % 16), (0, 0)), mode="edge").astype(float)
    mean = padded.reshape(132, 16, 313, 16, 3).mean(axis=(1, 3))
    assert np.abs(overview.pixels - mean).max() <= 0.5


def test_a_slide_coarser_than_the_mask_is_taken_as_it_is():
    slide = _slide_with_square(left=100, top=100, side=100, width=400, height=300, mpp=3.9)
    found = segment_tissue(slide, mpp=3.9)
    assert found.downsample == 2.0
    coarse = segment_tissue(slide, mpp=30.0)
    assert coarse.downsample == 1.0
    assert coarse.mask[110:190, 110:190].all()
    assert not coarse.mask[:90].any()


def test_the_segmenter_goes_by_its_numbers():
    slide = _slide_with_square(left=1600, top=640, side=800)  # 400 um x 400 um
    found = segment_tissue(slide, mpp=0.5)
    same = segment_tissue(slide, mpp=0.5, settings=OtsuSettings())
    np.testing.assert_array_equal(found.mask, same.mask)
    assert segment_tissue(slide, mpp=0.5, settings=OtsuSettings(min_object_um2=150_000.0)).mask.any()
    assert not segment_tissue(slide, mpp=0.5, settings=OtsuSettings(min_object_um2=170_000.0)).mask.any()
    with pytest.raises(UsageError, match="numbers of the segmenter otsu, got some for all"):
        segment_tissue(slide, mpp=0.5, segmenter="all", settings=OtsuSettings(close_um=1.0))


def test_the_resolved_mpp_decides_not_the_file():
    slide = _slide_with_square(left=0, top=0, side=800, mpp=1000.0)
    assert segment_tissue(slide, mpp=0.25).downsample == 32.0


@pytest.mark.parametrize("name", sorted(SEGMENTERS))
def test_every_segmenter_keeps_the_contract(name):
    slide = _slide_with_square(left=500, top=600, side=1200, width=3001, height=2003)
    found = segment_tissue(slide, mpp=0.5, segmenter=name)
    assert isinstance(found, TissueMask)
    assert found.mask.dtype == np.bool_
    assert found.mpp == pytest.approx(0.5 * found.downsample)
    height, width = found.mask.shape
    assert 2003 <= height * found.downsample < 2003 + found.downsample
    assert 3001 <= width * found.downsample < 3001 + found.downsample
    down = found.downsample
    assert found.mask[int(700 / down) : int(1700 / down), int(600 / down) : int(1600 / down)].all()


def test_all_is_everything_and_reads_nothing():
    slide = _slide_with_square(left=0, top=0, side=1)
    assert segment_tissue(slide, mpp=0.5, segmenter="all").mask.all()
    assert slide.requests == []


def test_a_blank_slide_gives_an_empty_mask():
    array = np.random.default_rng(0).normal(243, 3, (1500, 2000, 3)).clip(0, 255).astype(np.uint8)
    assert not segment_tissue(ArraySlide(array, 0.5), mpp=0.5).mask.any()


def test_unknown_segmenters_and_bad_mpp_are_refused():
    slide = _slide_with_square(left=0, top=0, side=1, width=10, height=10)
    with pytest.raises(UnknownNameError, match=r"unknown segmenter 'otsuu'.*choose from all, otsu"):
        segment_tissue(slide, mpp=0.5, segmenter="otsuu")
    with pytest.raises(UsageError, match="mpp must be positive"):
        segment_tissue(slide, mpp=0.0)


@pytest.mark.parametrize(
    "change", [{"mask": np.ones(3, bool)}, {"mask": np.ones((2, 2))}, {"downsample": 0.0}]
)
def test_bad_masks_are_refused(change):
    with pytest.raises(UsageError):
        TissueMask(**{"mask": np.ones((2, 2), bool), "downsample": 16.0, "mpp": 8.0, **change})


@pytest.mark.real_slides
@pytest.mark.parametrize(
    ("name", "mpp", "low", "high"),
    [
        # Shares judged by eye on the outlines; the bounds leave room for taste, not for a lost half.
        ("slides/cmu-1-small-region.svs", 0.499, 0.33, 0.48),
        ("slides/tcga-cr-7395-01a-01-ts1.svs", 0.5, 0.55, 0.72),
        ("slides/lymph-node-metastasis.tif", 0.5, 0.22, 0.35),
        ("slides-10x/liver-metastatic-sarcoma.tif", 1.0, 0.70, 0.80),
        ("slides-10x/liver-necrotising-granuloma.tif", 1.0, 0.20, 0.32),
        ("slides-10x/lymph-node-anthracosis-1.tif", 1.0, 0.10, 0.25),
        ("slides-10x/pancreas-intrapancreatic-spleen.tif", 1.0, 0.42, 0.58),
    ],
)
def test_real_slides_have_a_plausible_share_of_tissue(real_data, name, mpp, low, high):
    path = real_data / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    with open_slide(path) as slide:
        assert low < segment_tissue(slide, mpp=mpp).share < high


@pytest.mark.real_slides
def test_ink_and_a_black_border_on_a_real_slide_cost_only_what_they_cover(real_data):
    """Pen strokes over glass and tissue, and a scanner's black border, painted on the overview of a real node."""
    path = real_data / "slides" / "lymph-node-metastasis.tif"
    with open_slide(path) as slide:
        clean = segment_tissue(slide, mpp=0.5)
    assert clean.picture is not None
    picture = clean.picture.copy()
    height, width = picture.shape[:2]
    nuisance = np.zeros((height, width), np.uint8)
    for row, colour in ((0.3, (20, 60, 170)), (0.5, (20, 130, 60)), (0.7, (28, 28, 32))):
        stroke = np.zeros_like(nuisance)
        points = np.array([(0.1 * width, row * height), (0.6 * width, (row + 0.05) * height)], np.int32)
        cv2.polylines(stroke, [points], False, 1, 30)
        picture[stroke > 0] = colour
        nuisance |= stroke
    picture[:, -40:] = (5, 4, 6)
    nuisance[:, -40:] = 1
    picture = cv2.GaussianBlur(picture, (0, 0), 1.0)
    found = tissue_of(picture, mpp=clean.mpp, settings=OtsuSettings())
    near = cv2.dilate(nuisance, np.ones((15, 15), np.uint8)) > 0
    assert not found[nuisance > 0].any()
    # Scraps of fat and muscle at the threshold come and go; the nodes stay.
    assert found[clean.mask & ~near].mean() > 0.98
    assert not found[~clean.mask & ~near].mean() > 0.005

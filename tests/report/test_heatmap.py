"""Heatmaps: each patch's colour exactly where the patch lies, at any scale."""

import json

import cv2
import matplotlib as mpl
import numpy as np
import pytest

from wsi_vmamba.bags import Bag, FeatureSource
from wsi_vmamba.errors import MissingDataError, UsageError
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.report.heatmap import (
    PatchValues,
    attention_patches,
    blend,
    draw_patches,
    draw_prediction,
    paint_patches,
    probability_patches,
    scale_bar_um,
)
from wsi_vmamba.slide.memory import ArraySlide
from wsi_vmamba.training import Prediction


def _patches(values, places, patch_l0, **kwargs):
    coords = np.rint(np.array(places, dtype=np.float64) * patch_l0).astype(np.int64)
    given = {"low": 0.0, "high": 1.0, "quantity": "q"} | kwargs
    return PatchValues(
        values=np.array(values, dtype=np.float64), coords_l0=coords, patch_l0=patch_l0, **given
    )


def _bag(places, patch_l0, source=None):
    coords = np.rint(np.array(places, dtype=np.float64) * patch_l0).astype(np.int64)
    features = np.zeros((len(coords), 2), dtype=np.float32)
    return Bag(slide_id="s", features=features, coords_l0=coords, patch_l0=patch_l0, source=source)


@pytest.mark.parametrize("patch_l0", [256.0, 257.3, 100.0, 511.7])
@pytest.mark.parametrize("downsample", [1.0, 16.0, 13.7, 31.999])
def test_a_pixel_takes_the_value_of_the_patch_under_its_centre(patch_l0, downsample):
    generator = np.random.default_rng(1)
    places = [(column, row) for column in range(23) for row in range(17) if generator.random() < 0.6]
    patches = _patches(generator.random(len(places)), places, patch_l0)
    value = dict(zip(places, patches.values, strict=True))
    height, width = (min(400, round(n * patch_l0 / downsample) + 9) for n in (17, 23))
    painted = paint_patches(patches, shape_px=(height, width), downsample=downsample)
    assert painted.shape == (height, width)
    for y, x in generator.integers((0, 0), (height, width), (500, 2)):
        place = (int((x + 0.5) * downsample // patch_l0), int((y + 0.5) * downsample // patch_l0))
        assert painted[y, x] == pytest.approx(value.get(place, np.nan), nan_ok=True)


def test_nothing_drifts_over_a_gigapixel_slide():
    patch_l0 = 512 * 0.5 / 0.2431
    places = [(column, 0) for column in range(0, 190, 3)]
    downsample = 64.0
    painted = paint_patches(
        _patches(np.ones(len(places)), places, patch_l0), shape_px=(1, 3200), downsample=downsample
    )[0]
    edges = np.flatnonzero(np.diff(np.isnan(painted).astype(int))) + 1
    expected = [round(n * patch_l0 / downsample) for column, _ in places for n in (column, column + 1)]
    assert np.abs(edges - np.array(expected[1 : len(edges) + 1])).max() <= 1


def test_without_a_patch_the_slide_stays_grey_and_with_one_it_takes_its_colour():
    pixels = np.full((2, 3, 3), (200, 100, 220), dtype=np.uint8)
    heat = np.array([[np.nan, 0.0, 1.0], [0.5, 9.0, -9.0]])
    mixed = blend(pixels, heat, low=0.0, high=1.0).astype(int)
    grey = 255 - 0.75 * (255 - (0.299 * 200 + 0.587 * 100 + 0.114 * 220))
    assert mixed[0, 0].tolist() == [round(grey)] * 3
    for place, shade in (((0, 1), 0.0), ((0, 2), 1.0), ((1, 0), 0.5), ((1, 1), 1.0), ((1, 2), 0.0)):
        colour = np.array(mpl.colormaps["plasma"](shade)[:3]) * 255
        np.testing.assert_allclose(mixed[place], (grey + colour) / 2, atol=0.5001)


def test_attention_is_shown_as_multiples_of_its_mean():
    patches = attention_patches(
        np.array([0.1, 0.1, 0.2, 0.6], dtype=np.float32), _bag([(0, 0), (1, 0), (2, 0), (3, 0)], 64.0)
    )
    assert patches.values == pytest.approx([0.4, 0.4, 0.8, 2.4])
    assert (patches.low, patches.high) == (0.0, pytest.approx(np.percentile([0.4, 0.4, 0.8, 2.4], 99)))


def test_even_attention_is_shown_in_one_colour():
    patches = attention_patches(np.full(3, 1 / 3, dtype=np.float32), _bag([(0, 0), (1, 0), (2, 0)], 64.0))
    assert (patches.low, patches.high) == (0.0, 2.0)
    assert patches.values == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("width_um", "bar_um"), [(4000, 1000), (3999, 500), (2000, 500), (900, 200), (19, 2)]
)
def test_the_scale_bar_is_a_round_length_of_at_most_a_quarter(width_um, bar_um):
    assert scale_bar_um(width_um) == bar_um


def _slide(width_px=900, height_px=600, mpp=0.5):
    return ArraySlide(
        np.full((height_px, width_px, 3), 230, dtype=np.uint8), mpp, downsamples=(1, 4), path="s.tif"
    )


def test_the_picture_shows_the_hot_patch_in_its_place_and_is_the_same_twice(tmp_path):
    places = [(column, row) for column in range(9) for row in range(6)]
    values = [float(place == (6, 1)) for place in places]
    with _slide() as slide:
        one, two = (
            draw_patches(
                slide, _patches(values, places, 100.0), tmp_path / folder, mpp=0.5, name="s", title="t"
            )
            for folder in ("one", "two")
        )
    assert one.png.read_bytes() == two.png.read_bytes()
    picture = cv2.cvtColor(cv2.imread(str(one.png)), cv2.COLOR_BGR2RGB).astype(int)
    colours = [
        np.array(mpl.colormaps["plasma"](shade)[:3]) * 127.5 + (255 - 0.75 * 25) / 2 for shade in (0.0, 1.0)
    ]
    # Wide slides are drawn one above the other: the lower half is the overlay.
    cold, hot = (np.abs(picture - colour).max(axis=2) < 3 for colour in colours)
    columns, rows = np.flatnonzero(cold.sum(axis=0) > 50), np.flatnonzero(cold.sum(axis=1) > 100)
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    hot &= np.arange(len(picture))[:, None] < bottom
    hot[:, right:] = False
    ys, xs = np.nonzero(hot & (np.arange(len(picture))[:, None] >= top))
    unit = (right - left) / 9
    assert ((xs.min() - left) / unit, (xs.max() + 1 - left) / unit) == pytest.approx((6, 7), abs=0.03)
    assert ((ys.min() - top) / unit, (ys.max() + 1 - top) / unit) == pytest.approx((1, 2), abs=0.03)


def test_the_data_list_the_hottest_patches_and_the_scale(tmp_path):
    with _slide() as slide:
        files = draw_patches(
            slide, _patches([0.1, 0.9], [(2, 1), (5, 3)], 100.0), tmp_path, mpp=0.5, name="s"
        )
    data = json.loads(files.data.read_text())
    assert data["top_patches"] == [
        {"x_l0": 500, "y_l0": 300, "value": 0.9},
        {"x_l0": 200, "y_l0": 100, "value": 0.1},
    ]
    assert (data["n_patches"], data["mpp"], data["patch_l0"], data["picture_downsample"]) == (
        2,
        0.5,
        100.0,
        1.0,
    )


def test_probabilities_share_one_scale(tmp_path):
    with _slide() as slide:
        patches = probability_patches(np.array([0.2, 0.3]), _bag([(0, 0), (1, 1)], 100.0))
        files = draw_patches(slide, patches, tmp_path, mpp=0.5, name="p", title="")
    assert json.loads(files.data.read_text())["colour_range"] == [0.0, 1.0]


def test_drawing_attention_finds_the_slide_and_takes_the_mpp_of_the_extraction(tmp_path):
    import tifffile

    path = tmp_path / "s.tif"
    # The file records no resolution; the size of the patches does.
    tifffile.imwrite(
        path, np.full((512, 768, 3), 230, dtype=np.uint8), tile=(256, 256), photometric="rgb", metadata=None
    )
    source = FeatureSource(model="m", weights_hash="h", target_mpp=0.5, patch_px=256)
    bag = _bag([(0, 0), (1, 0), (2, 1)], 256.0 / 2, source=source)
    prediction = Prediction(probability=0.75, attention=np.array([0.2, 0.2, 0.6], dtype=np.float32))
    files = draw_prediction(SlideRecord(slide_id="s", path=path, label=1), bag, prediction, tmp_path / "out")
    data = json.loads(files.data.read_text())
    assert data["mpp"] == 1.0
    assert files.png.is_file()
    # From a model supervised by outlines it is the patches' own probability that is drawn.
    patches = np.array([0.25, 0.5, 0.125], dtype=np.float32)
    files = draw_prediction(
        SlideRecord(slide_id="s", path=path), bag, prediction._replace(patches=patches), tmp_path / "patches"
    )
    data = json.loads(files.data.read_text())
    assert data["colour_range"] == [0.0, 1.0]
    assert [patch["value"] for patch in data["top_patches"]] == [0.5, 0.25, 0.125]


def test_without_attention_or_slide_there_is_a_clear_error(tmp_path):
    bag = _bag([(0, 0)], 100.0)
    with pytest.raises(UsageError, match="gives no attention"):
        draw_prediction(SlideRecord(slide_id="s"), bag, Prediction(0.5, None), tmp_path)
    given = Prediction(0.5, np.ones(1, dtype=np.float32))
    with pytest.raises(MissingDataError, match="not named in the data set"):
        draw_prediction(SlideRecord(slide_id="s"), bag, given, tmp_path)
    with pytest.raises(MissingDataError, match=r"not at .*gone\.tif"):
        draw_prediction(SlideRecord(slide_id="s", path=tmp_path / "gone.tif"), bag, given, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.ones(2)}, r"got \(2,\) and \(1, 2\)"),
        ({"values": np.array([np.nan])}, "1 patch values are not finite"),
        ({"high": 0.0}, "must rise"),
    ],
)
def test_unusable_values_are_refused(change, message):
    given = {
        "values": np.ones(1),
        "coords_l0": np.zeros((1, 2), dtype=np.int64),
        "patch_l0": 64.0,
        "low": 0.0,
        "high": 1.0,
    }
    with pytest.raises(UsageError, match=message):
        PatchValues(quantity="q", **(given | change))

"""The FROC on small slides made by hand, and the errors of its inputs."""

import json
import math

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics import LESION_METRICS
from wsi_vmamba.metrics.base import MetricResult
from wsi_vmamba.metrics.detections import Detections, FrocSlide, match_slide
from wsi_vmamba.metrics.froc import froc
from wsi_vmamba.metrics.froc_files import read_detections, read_froc_slides
from wsi_vmamba.metrics.lesions import find_lesions, read_mask


def _mask(*squares, size_px=200):
    mask = np.zeros((size_px, size_px), dtype=np.uint8)
    for x, y, side in squares:
        mask[y : y + side, x : x + side] = 255
    return mask


def _detections(*rows):
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return Detections(probability=table[:, 0], x_l0=table[:, 1], y_l0=table[:, 2])


def _slide(name, mask, *rows):
    lesions = None if mask is None else find_lesions(mask, name=name)
    return FrocSlide(name=name, lesions=lesions, detections=_detections(*rows))


def _naive_lesions(tumor):
    """Rules 3 to 6 by the letter: distances of all pairs, flood fills pixel by pixel."""
    height, width = tumor.shape
    points = np.argwhere(tumor)
    rows, columns = np.mgrid[:height, :width]
    squared = ((rows[..., None] - points[:, 0]) ** 2 + (columns[..., None] - points[:, 1]) ** 2).min(axis=-1)
    region = np.sqrt(squared) < 75 / (2 * 7.776)
    outside, todo = (
        np.zeros_like(region),
        [(r, c) for r, c in np.argwhere(~region) if r in (0, height - 1) or c in (0, width - 1)],
    )
    four, eight = [(0, 1), (1, 0), (0, -1), (-1, 0)], [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    while todo:
        r, c = todo.pop()
        if 0 <= r < height and 0 <= c < width and not region[r, c] and not outside[r, c]:
            outside[r, c] = True
            todo += [(r + a, c + b) for a, b in four]
    labels, n = np.zeros(tumor.shape, dtype=np.int32), 0
    for r, c in np.argwhere(~outside):
        if labels[r, c]:
            continue
        n, todo = n + 1, [(r, c)]
        while todo:
            i, j = todo.pop()
            if 0 <= i < height and 0 <= j < width and not outside[i, j] and not labels[i, j]:
                labels[i, j] = n
                todo += [(i + a, j + b) for a, b in eight]
    return labels


@pytest.mark.parametrize("seed", range(8))
def test_lesions_equal_the_rules_followed_by_the_letter(seed):
    generator = np.random.default_rng(seed)
    mask = np.zeros((47, 61), dtype=np.uint8)
    for _ in range(7):
        x, y, w, h = generator.integers((0, 0, 1, 1), (60, 46, 9, 9))
        mask[y : y + h, x : x + w] = 255
        cv2.ellipse(mask, (int(x), int(y)), (9, 7), 0, 0, int(generator.integers(200, 361)), 255, 1)
    mask[generator.random(mask.shape) < 0.1] = 254
    np.testing.assert_array_equal(find_lesions(mask, name="s").labels, _naive_lesions(mask == 255))


@pytest.mark.parametrize(("gap_px", "n_lesions"), [(8, 1), (9, 2)])
def test_outlines_merge_over_eight_background_pixels_and_not_over_nine(gap_px, n_lesions):
    assert find_lesions(_mask((20, 20, 30), (50 + gap_px, 20, 30)), name="s").n_lesions == n_lesions


def test_one_pixel_is_isolated_cells_with_the_axis_of_its_grown_disc():
    lesions = find_lesions(_mask((100, 100, 1)), name="s")
    # The grown disc holds the 69 whole-number offsets shorter than 4.8225 px.
    assert lesions.areas_px == (69,)
    assert lesions.is_itc == (True,)
    assert lesions.counted == ()


def test_hits_false_positives_and_ignored_isolated_cells():
    slide = _slide(
        "s", _mask((20, 20, 60), (150, 150, 3)),
        (0.5, 32 * 40, 32 * 40), (0.9, 32 * 41, 32 * 41), (0.8, 32 * 120, 32 * 10), (0.7, 32 * 151, 32 * 151),
    )  # fmt: skip
    match = match_slide(slide)
    assert match.is_itc == (False, True)
    assert match.hits == (1, None)
    assert match.false_positives.tolist() == [2]
    assert match.lesion_double.tolist() == [0.9, 0.0]


def test_a_detection_on_the_grown_rim_is_a_hit_and_one_pixel_further_is_not():
    inside = match_slide(_slide("s", _mask((20, 20, 60)), (0.5, 32 * 16, 32 * 50)))
    outside = match_slide(_slide("s", _mask((20, 20, 60)), (0.5, 32 * 16 - 1, 32 * 50)))
    assert inside.hits == (0,)
    assert outside.false_positives.tolist() == [0]


def test_of_equal_probabilities_the_first_stands_unless_single_precision_rounds_down():
    half = match_slide(_slide("s", _mask((20, 20, 60)), (0.5, 960, 960), (0.5, 970, 970)))
    # 0.7 is 0.699999988 in 32 bits, less than the next 0.7 in 64.
    seven_tenths = match_slide(_slide("s", _mask((20, 20, 60)), (0.7, 960, 960), (0.7, 970, 970)))
    assert (half.hits, seven_tenths.hits) == ((0,), (1,))


def test_the_score_with_and_without_quirks_by_hand():
    # One lesion found at 0.1, which 32 bits hold as a little MORE than 0.1; one false positive at 0.1 on 2 slides.
    slides = [_slide("a", _mask((20, 20, 60)), (0.1, 960, 960)), _slide("b", None, (0.1, 5, 5))]
    result = froc(slides, resamples=100)
    # Official: thresholds 0.1 (dropped) and float32(0.1), where the lesion stands without the false positive.
    assert result.curve.fp_counts == (0, 0)
    assert result.curve.tp_counts == (1, 0)
    assert result.value == 1.0
    # Without: one threshold, 0.1, with both. Half a false positive a slide; the line reads 0.5 at 0.25.
    assert result.curve_without_quirks.fps_per_slide == (0.5, 0.0)
    assert result.curve_without_quirks.sensitivity_at_rates == (0.5, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert result.value_without_quirks == pytest.approx(5.5 / 6)


def test_the_result_is_a_metric_result_and_its_dict_is_json():
    result = LESION_METRICS.resolve("froc")([_slide("a", None, (0.5, 1, 1))], resamples=100)
    assert isinstance(result, MetricResult)
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["froc_score"] is None
    assert content["ci95"] == [None, None]
    assert math.isnan(result.value)


def test_the_interval_depends_on_the_seed_alone():
    generator = np.random.default_rng(0)
    slides = [
        _slide(str(i), _mask((20, 20, 60), (100, 100, 50)), (generator.random(), 960, 960),
               *((p, 5000, 100) for p in generator.random(i)))
        for i in range(8)
    ]  # fmt: skip
    one, two, other = (froc(slides, resamples=200, seed=seed).ci95 for seed in (1, 1, 2))
    assert one == two
    assert one != other
    assert one[0] <= froc(slides, resamples=200).value <= one[1]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((9, 9), 254, dtype=np.uint8), r"no mask pixel is 255 \(values present: 254\)"),
        (np.ones((9, 9), dtype=np.uint16), "8-bit grey"),
        (np.zeros((9, 9, 3), dtype=np.uint8), "8-bit grey"),
    ],
)
def test_unusable_masks_are_refused(mask, message):
    with pytest.raises(MetricError, match=message):
        find_lesions(mask, name="s")


def test_one_slide_with_lesions_has_a_score_and_no_interval():
    slides = [
        _slide("a", _mask((20, 20, 60)), (0.9, 960, 960)),
        _slide("n", None, (0.5, 5, 5)),
        _slide("m", None),
    ]
    found = froc(slides, resamples=100)
    assert found.value == 1.0
    assert all(math.isnan(end) for end in (*found.ci95, *found.ci95_without_quirks))
    assert "on one slide only" in found.note
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["ci95"] == [None, None]
    assert content["note"] == found.note
    assert froc([*slides, _slide("b", _mask((20, 20, 60)))], resamples=100).note is None


def test_slides_that_come_twice_are_refused():
    with pytest.raises(MetricError, match="more than once: a"):
        froc([_slide("a", None), _slide("a", None)])
    with pytest.raises(MetricError, match="at least one slide"):
        froc([])


def test_detections_are_read_with_header_blank_lines_and_nothing_at_all(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("probability,x,y\n0.5,10,20\n\n0.25, 30, 40\n")
    found = read_detections(path)
    assert [found.row(i) for i in range(len(found))] == [(0.5, 10.0, 20.0), (0.25, 30.0, 40.0)]
    path.write_text("")
    assert len(read_detections(path)) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.5,1\n", "line 1: expected probability,x,y"),
        ("0.5,1,1\na,b,c\n", "line 2"),
        ("nan,1,1\n", "finite"),
        ("0.5,1,1\n1.01,1,1\n", "line 2: expected a probability in 0–1, got 1.01"),
        ("probability,x,y\n-3.5,1,1\n", "line 2: expected a probability .* the sigmoid of logits"),
        ("960,1200,0.5\n", "are the columns probability,x,y"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, message):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(MetricError, match=message):
        read_detections(tmp_path / "s.csv")


@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_detections_need_probabilities(probability):
    with pytest.raises(MetricError, match="detection 2: expected a probability from 0 to 1, got"):
        _detections((0.5, 1, 1), (probability, 1, 1))


def test_folders_exclude_slides_and_refuse_masks_without_detections(tmp_path):
    masks, lists = tmp_path / "masks", tmp_path / "lists"
    masks.mkdir()
    lists.mkdir()
    for name in ("Test_001", "Test_114"):
        cv2.imwrite(str(masks / f"{name}.png"), _mask((20, 20, 60)))
    (lists / "Test_001.csv").write_text("0.5,960,960\n")
    (lists / "Test_002.csv").write_text("")
    with pytest.raises(MetricError, match=r"Test_114; write an empty <slide>\.csv"):
        read_froc_slides(masks_dir=masks, detections_dir=lists)
    slides = read_froc_slides(masks_dir=masks, detections_dir=lists, exclude=["test_114"])
    assert [(slide.name, slide.lesions is not None, len(slide.detections)) for slide in slides] == [
        ("Test_001", True, 1),
        ("Test_002", False, 0),
    ]
    with pytest.raises(MetricError, match="not a folder"):
        read_froc_slides(masks_dir=masks, detections_dir=tmp_path / "none")
    # Without masks there is no lesion, so the score is undefined: nothing that could pass for a result.
    normal = read_froc_slides(masks_dir=tmp_path / "none", detections_dir=lists)
    assert all(slide.lesions is None for slide in normal)
    assert math.isnan(froc(normal, resamples=100).value)


def test_of_a_pyramid_the_level_32_times_smaller_is_read(tmp_path):
    big = np.zeros((640, 960), dtype=np.uint8)
    big[64:128, 96:160] = 255
    with tifffile.TiffWriter(tmp_path / "m.tif") as writer:
        writer.write(big, subifds=2)
        writer.write(big[::8, ::8], subfiletype=1)
        writer.write(big[::32, ::32], subfiletype=1)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif"), big[::32, ::32])


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("bits", [1, 8])
def test_tumour_is_what_viewers_show_white_whatever_the_tag(tmp_path, photometric, bits):
    white = _mask((2, 2, 5), size_px=16)
    stored = white if photometric == "minisblack" else 255 - white
    values = stored == 255 if bits == 1 else stored
    tifffile.imwrite(tmp_path / "m.tif", values, photometric=photometric, software="ImageMagick")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif"), white)


def test_a_mask_of_background_gives_no_hit_whatever_the_tag(tmp_path):
    white = _mask((20, 20, 60))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.csv").write_text("0.9,5120,160\n0.8,160,5120\n")
    (tmp_path / "d" / "n.csv").write_text("")
    for name, values, photometric in (("png", white, None), ("tif", 255 - white, "miniswhite")):
        folder = tmp_path / name
        folder.mkdir()
        if photometric:
            tifffile.imwrite(folder / "a.tif", values, photometric=photometric)
        else:
            cv2.imwrite(str(folder / "a.png"), values)
        slides = read_froc_slides(masks_dir=folder, detections_dir=tmp_path / "d")
        assert froc(slides, resamples=100).value == 0.0


def test_one_bit_tiffs_say_tumour_with_true_and_colour_is_refused(tmp_path):
    Image.fromarray(_mask((2, 2, 5), size_px=16) == 255).save(tmp_path / "bit.tif")
    np.testing.assert_array_equal(read_mask(tmp_path / "bit.tif"), _mask((2, 2, 5), size_px=16))
    cv2.imwrite(str(tmp_path / "rgb.png"), np.dstack([_mask((2, 2, 5), size_px=16)] * 3))
    with pytest.raises(MetricError, match="8-bit grey"):
        read_mask(tmp_path / "rgb.png")
    (tmp_path / "bad.tif").write_bytes(b"not a tiff")
    with pytest.raises(MetricError, match=r"bad\.tif: cannot be read"):
        read_mask(tmp_path / "bad.tif")

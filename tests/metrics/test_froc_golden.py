"""Every golden case of the CAMELYON16 FROC: counts and lists exactly, scores to 1e-12."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.froc import _curve, froc
from wsi_vmamba.metrics.froc_files import read_froc_slides
from wsi_vmamba.metrics.lesions import find_lesions, read_mask

EXACT = (
    "a1_mixed6_two_decimals",
    "a2_mixed6_dyadic",
    "a3_mixed6_one_decimal",
    "a4_mixed6_full",
    "b1_empty_csv",
    "b2_all_empty",
    "c1_one_tumour_five_normal",
    "c3_only_normal",
    "d1_equal_half",
    "d2_equal_0p1",
    "e1_border",
    "f1_perfect_ones_no_itc",
    "f2_perfect_ones_with_itc",
    "f3_perfect_distinct_no_itc",
    "g1_worst_only_fp",
    "h1_twenty_slides",
    "h2_twenty_slides",
    "i1_geometry",
    "j1_real_lesions",
)
# What the original does here is an accident of its libraries; ours stops and says what is wrong.
REFUSED = {
    "e3_negative_coordinates": "7 of 9 detections lie outside the mask",
    "e4_out_of_bounds": "line 2 at x=8960, y=50",
    "e5_mask_without_tumour": "no mask pixel is 255",
}


@pytest.fixture(scope="module")
def cases(golden):
    return golden / "froc"


def _slides(case: Path, tmp_path: Path):
    masks = case / "masks" if (case / "masks").is_dir() else tmp_path
    return read_froc_slides(masks_dir=masks, detections_dir=case / "detections")


def _expected(case: Path):
    return json.loads((case / "expected.json").read_text())


def test_every_golden_case_is_listed(cases):
    assert {case.name for case in cases.iterdir() if case.is_dir()} == {*EXACT, *REFUSED}


@pytest.mark.parametrize("name", EXACT)
def test_case(cases, tmp_path, name):
    case, slides = cases / name, _slides(cases / name, tmp_path)
    expected = _expected(case)
    result = froc(slides, resamples=100)
    assert (result.n_slides, result.n_lesions) == (expected["n_slides"], expected["n_tumors"])
    assert list(result.curve.fp_counts) == expected["fp_counts"]
    assert list(result.curve.tp_counts) == expected["tp_counts"]
    assert list(result.curve.fps_per_slide) == expected["total_fps"]
    if expected["score_is_nan"]:
        assert math.isnan(result.value)
        assert all(map(math.isnan, result.curve.sensitivity))
    else:
        assert list(result.curve.sensitivity) == expected["total_sensitivity"]
        assert result.value == pytest.approx(expected["froc_score"], abs=1e-12)
        rates = pytest.approx(expected["sensitivity_at_rates"], abs=1e-12)
        assert list(result.curve.sensitivity_at_rates) == rates
    for slide, match in zip(slides, result.slides, strict=True):
        _check_slide(case, slide, match, expected["slides"][slide.name])


def _check_slide(case, slide, match, expected):
    found = match.to_dict()
    assert found["n_lesions"] == expected["n_lesions"]
    assert found["itc_labels"] == expected["itc_labels"]
    assert found["n_counted"] == expected["n_tumors"]
    assert found["false_positives"] == expected["false_positives"]
    assert found["hits"] == expected["hits"]
    assert match.false_positive_probabilities.tolist() == expected["fp_probs"]
    assert match.lesion_probabilities(single=True).tolist() == expected["tp_probs"]
    if slide.lesions is not None:
        assert list(slide.lesions.areas_px) == expected["areas_px"]
        assert list(slide.lesions.major_axis_px) == pytest.approx(expected["major_axis_px"], abs=1e-11)
        image = cv2.imread(str(case / expected["label_image"]), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(slide.lesions.labels, image)


@pytest.mark.parametrize("name", EXACT)
def test_keeping_doubles_alone_gives_the_score_the_golden_data_name(cases, tmp_path, name):
    result = froc(_slides(cases / name, tmp_path), resamples=100)
    expected = _expected(cases / name)["info"]["score_if_tp_stored_in_double"]
    found = _curve(result.slides, single_precision=False, drop_smallest=True).score
    assert found == pytest.approx(math.nan if expected is None else expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_accidents_end_in_a_clear_error(cases, tmp_path, name):
    assert "accident" in _expected(cases / name)
    with pytest.raises(MetricError, match=REFUSED[name]):
        froc(_slides(cases / name, tmp_path))


@pytest.mark.parametrize(
    "name", ["f1_perfect_ones_no_itc", "f2_perfect_ones_with_itc", "f3_perfect_distinct_no_itc"]
)
def test_a_perfect_detector_scores_one_without_the_quirks(cases, tmp_path, name):
    assert froc(_slides(cases / name, tmp_path), resamples=100).value_without_quirks == 1.0


def test_reading_a_mask_as_tiff_gives_the_same_lesions(cases, tmp_path):
    import tifffile

    mask = read_mask(cases / "i1_geometry" / "masks" / "Test_001.png")
    tifffile.imwrite(tmp_path / "one.tif", mask, compression="deflate")
    np.testing.assert_array_equal(read_mask(tmp_path / "one.tif"), mask)
    direct, again = (find_lesions(one, name="one") for one in (mask, read_mask(tmp_path / "one.tif")))
    assert direct.areas_px == again.areas_px

"""Figures: readable files, the same bytes twice, and data that are the metric's own."""

import json

import cv2
import matplotlib as mpl
import numpy as np
import pytest

from wsi_vmamba.metrics.auc import roc_auc
from wsi_vmamba.metrics.calibration import ece
from wsi_vmamba.metrics.detections import Detections, FrocSlide
from wsi_vmamba.metrics.froc import froc
from wsi_vmamba.metrics.lesions import find_lesions
from wsi_vmamba.report import plots

LABELS = np.arange(40) % 2
SCORES = np.clip(0.3 * LABELS + np.random.default_rng(4).random(40) * 0.7, 0, 1)


def _froc_result():
    mask = np.zeros((120, 120), dtype=np.uint8)
    mask[20:80, 20:80] = 255
    detections = Detections(
        probability=np.array([0.9, 0.4, 0.3]),
        x_l0=np.array([960.0, 3500, 3600]),
        y_l0=np.array([960.0, 5, 5]),
    )
    nothing = Detections(probability=np.zeros(0), x_l0=np.zeros(0), y_l0=np.zeros(0))
    slides = [
        FrocSlide(name="a", lesions=find_lesions(mask, name="a"), detections=detections),
        FrocSlide(name="b", lesions=None, detections=nothing),
    ]
    return froc(slides, resamples=100)


DRAW = {
    "roc": lambda folder: plots.plot_roc(LABELS, SCORES, folder),
    "pr": lambda folder: plots.plot_precision_recall(LABELS, SCORES, folder),
    "reliability": lambda folder: plots.plot_reliability(LABELS, SCORES, folder),
    "froc": lambda folder: plots.plot_froc(_froc_result(), folder),
}


@pytest.mark.parametrize("name", DRAW)
def test_a_figure_is_drawn_twice_with_the_same_bytes(tmp_path, name):
    one = DRAW[name](tmp_path / "one")
    # A user's own settings must not reach the figures.
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        two = DRAW[name](tmp_path / "two")
    assert (one.png.name, one.data.name) == (f"{name}.png", f"{name}.json")
    assert one.png.read_bytes() == two.png.read_bytes()
    assert one.data.read_bytes() == two.data.read_bytes()
    assert {path.name for path in (tmp_path / "one").iterdir()} == {one.png.name, one.data.name}
    picture = cv2.imread(str(one.png))
    assert min(picture.shape[:2]) > 600
    # White paper with something on it.
    assert (picture[0, 0] == 255).all()
    assert 0.01 < (picture < 128).any(axis=2).mean() < 0.5


def test_the_roc_data_are_the_curve(tmp_path):
    data = json.loads(plots.plot_roc(LABELS, SCORES, tmp_path).data.read_text())
    curve = data["curve"]
    area = np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"])
    assert area == pytest.approx(roc_auc(LABELS, SCORES), abs=1e-12)
    assert data["auc"]["auc"] == pytest.approx(area, abs=1e-12)
    band = data["band95"]
    inside = np.interp(band["false_positive_rate"], curve["false_positive_rate"], curve["true_positive_rate"])
    assert (np.array(band["low"]) <= inside + 1e-12).all()
    assert (inside <= np.array(band["high"]) + 1e-12).all()


def test_the_reliability_data_are_the_bins(tmp_path):
    data = json.loads(plots.plot_reliability(LABELS, SCORES, tmp_path).data.read_text())
    assert sum(one["n"] for one in data["bins"]) == len(LABELS)
    gaps = [one["n"] * abs(one["mean_probability"] - one["positive_share"]) for one in data["bins"]]
    assert sum(gaps) / len(LABELS) == pytest.approx(ece(LABELS, SCORES, resamples=100).value)
    assert data["ece"]["value"] == pytest.approx(sum(gaps) / len(LABELS))


def test_the_froc_data_have_both_scores(tmp_path):
    data = json.loads(plots.plot_froc(_froc_result(), tmp_path).data.read_text())
    # Thresholds 0.3 (dropped), 0.4 and 0.9 (as 32 bits): the lesion alone at the last one.
    assert data["curve"]["fp_counts"] == [1, 0, 0]
    assert data["curve_without_quirks"]["fp_counts"] == [2, 1, 0, 0]
    assert (data["froc_score"], data["froc_score_without_quirks"]) == (1.0, 1.0)


def test_a_froc_without_lesions_is_drawn_empty(tmp_path):
    one = Detections(probability=np.array([0.9]), x_l0=np.array([1.0]), y_l0=np.array([1.0]))
    result = froc([FrocSlide(name="n", lesions=None, detections=one)], resamples=100)
    assert json.loads(plots.plot_froc(result, tmp_path).data.read_text())["froc_score"] is None

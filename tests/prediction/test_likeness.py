"""Slides unlike the training slides: the distance by hand, and what is flagged."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.prediction.likeness import Comparison, leave_one_out
from wsi_vmamba.training.reference import Origin, Reference


def reference(means: np.ndarray, mpp: float = 0.25) -> Reference:
    origin = Origin(model="null", weights_hash="0", target_mpp=0.5, patch_px=32, precision="fp32")
    names = tuple(f"s{i}" for i in range(len(means)))
    return Reference(
        origin=origin, slide_ids=names, means=means.astype(np.float32), mpp=np.full(len(means), mpp)
    )


def test_leave_one_out_is_what_a_loop_gives():
    means = np.random.default_rng(0).normal(3, 2, (9, 5))
    means[:, 3] = 7.0  # a feature that never varies is only centred
    expected = []
    for index in range(9):
        others = np.delete(means, index, axis=0)
        spread = others.std(axis=0)
        spread[spread < 1e-6] = 1.0
        expected.append(np.sqrt((((means[index] - others.mean(axis=0)) / spread) ** 2).mean()))
    assert leave_one_out(means) == pytest.approx(np.array(expected), rel=1e-9)


def test_of_slides_like_the_training_slides_few_are_flagged_and_others_are():
    generator = np.random.default_rng(1)
    comparison = Comparison(reference(generator.normal(size=(200, 16))))

    def flagged(shift: float) -> float:
        slides = generator.normal(shift, 1, size=(500, 1, 16)).astype(np.float32)
        found = [comparison.of(slide, mpp=0.25, slide_id="x").unlike for slide in slides]
        return np.mean([unlike == ("features",) for unlike in found])

    assert flagged(0) < 0.04
    assert flagged(2) > 0.95


def test_another_scanner_is_flagged_by_its_resolution_and_the_sentence_says_both():
    comparison = Comparison(reference(np.random.default_rng(2).normal(size=(20, 4))))
    like = np.zeros((3, 4), np.float32)
    assert comparison.of(like, mpp=0.26, slide_id="x").word == ""
    found = comparison.of(like + 50, mpp=0.5, slide_id="x")
    assert found.word == "features; mpp"
    assert "0.5 um per pixel, training slides 0.25 to 0.25" in found.why
    assert found.distance > found.limit


def test_too_few_training_slides_say_nothing():
    found = Comparison(reference(np.zeros((4, 3)))).of(np.zeros((1, 3), np.float32), mpp=0.25, slide_id="x")
    assert found.unlike is None
    assert found.word == "not checked"
    assert "4 training slides" in found.why


def test_a_feature_that_is_not_finite_is_not_called_like():
    comparison = Comparison(reference(np.random.default_rng(3).normal(size=(20, 4))))
    assert comparison.of(np.full((1, 4), np.nan, np.float32), mpp=0.25, slide_id="x").word == "features"

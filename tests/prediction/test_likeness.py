"""Slides unlike the training slides: the distance by hand, and what is flagged."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.prediction.likeness import Comparison, leave_one_out
from wsi_vmamba.training.reference import Origin, Reference

UNKNOWN = np.full(6, np.nan)
NOT_COMPARED = "its stain was not compared: the training slides' features do not record it"


def reference(means: np.ndarray, mpp: float = 0.25, stain: np.ndarray | None = None) -> Reference:
    origin = Origin(model="null", weights_hash="0", target_mpp=0.5, patch_px=32, precision="fp32")
    names = tuple(f"s{i}" for i in range(len(means)))
    return Reference(
        origin=origin, slide_ids=names, means=means.astype(np.float32), mpp=np.full(len(means), mpp),
        stain=np.tile(UNKNOWN, (len(means), 1)) if stain is None else stain,
    )  # fmt: skip


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
        found = [comparison.of(slide, mpp=0.25, stain=UNKNOWN, slide_id="x").unlike for slide in slides]
        return np.mean([unlike == ("features",) for unlike in found])

    assert flagged(0) < 0.04
    assert flagged(2) > 0.95


def test_another_scanner_is_flagged_by_its_resolution_and_the_sentence_says_both():
    comparison = Comparison(reference(np.random.default_rng(2).normal(size=(20, 4))))
    like = np.zeros((3, 4), np.float32)
    assert comparison.of(like, mpp=0.26, stain=UNKNOWN, slide_id="x").word == ""
    found = comparison.of(like + 50, mpp=0.5, stain=UNKNOWN, slide_id="x")
    assert found.word == "features; mpp"
    assert "0.5 um per pixel, training slides 0.25 to 0.25" in found.why
    assert found.distance > found.limit


def test_too_few_training_slides_say_nothing():
    found = Comparison(reference(np.zeros((4, 3)))).of(
        np.zeros((1, 3), np.float32), mpp=0.25, stain=UNKNOWN, slide_id="x"
    )
    assert found.unlike is None
    assert found.word == "not checked"
    assert "4 training slides" in found.why


def test_a_feature_that_is_not_finite_is_not_called_like():
    comparison = Comparison(reference(np.random.default_rng(3).normal(size=(20, 4))))
    assert (
        comparison.of(np.full((1, 4), np.nan, np.float32), mpp=0.25, stain=UNKNOWN, slide_id="x").word
        == "features"
    )


def test_another_stain_is_flagged_by_its_densities_and_the_same_is_not():
    generator = np.random.default_rng(4)
    centre = np.array([0.5, 0.8, 0.4, 0.2, 0.25, 0.15])
    usual = centre + generator.normal(0, 0.05, (40, 6))
    comparison = Comparison(reference(generator.normal(size=(40, 4)), stain=usual))
    like = np.zeros((3, 4), np.float32)
    by_hand = np.sqrt((((centre + 0.4 - usual.mean(axis=0)) / usual.std(axis=0)) ** 2).mean())
    found = comparison.of(like, mpp=0.25, stain=centre + 0.4, slide_id="x")
    assert found.word == "stain"
    assert found.stain_distance == pytest.approx(by_hand, rel=1e-9)
    assert found.stain_distance > found.stain_limit
    assert "density in red/green/blue 0.90/1.20/0.80, training slides 0.5" in found.why
    same = [
        comparison.of(like, mpp=0.25, stain=centre + generator.normal(0, 0.05, 6), slide_id="x").word
        for _ in range(300)
    ]
    assert same.count("") > 280
    unknown = comparison.of(like, mpp=0.25, stain=UNKNOWN, slide_id="x")
    assert (unknown.word, unknown.stain_distance) == ("", None)
    assert unknown.why == "its stain was not compared: its features do not record it"


def test_noise_of_a_scanner_is_no_other_stain_and_unknown_stains_are_left_out():
    """All training slides of one stain: what differs by less than a hundredth in density is the same."""
    stain = np.tile([0.5, 0.8, 0.4, 0.2, 0.25, 0.15], (10, 1))
    comparison = Comparison(reference(np.random.default_rng(5).normal(size=(10, 4)), stain=stain))
    like = np.zeros((3, 4), np.float32)
    assert comparison.of(like, mpp=0.25, stain=stain[0] + 0.009, slide_id="x").word == ""
    assert comparison.of(like, mpp=0.25, stain=stain[0] + 0.011, slide_id="x").word == "stain"
    stain[:6] = np.nan
    few = Comparison(reference(np.random.default_rng(5).normal(size=(10, 4)), stain=stain))
    assert few.of(like, mpp=0.25, stain=stain[9] + 1, slide_id="x").why == NOT_COMPARED

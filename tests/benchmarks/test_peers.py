"""The benchmark against a peer: its ratios are those of its runs, and both sides encode the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_vmamba.encode import build_encoder


def test_ratios_leave_the_start_out_once_two_slides_are_known(load):
    small = {"wsi-vmamba": {"tiles": 100, "cpu_s": 3.0}, "slide2vec": {"tiles": 110, "cpu_s": 8.0}}
    large = {"wsi-vmamba": {"tiles": 400, "cpu_s": 4.0}, "slide2vec": {"tiles": 410, "cpu_s": 14.0}}
    found = load("peers").ratios({"small": small, "large": large})
    assert found["whole"]["wsi-vmamba"] == pytest.approx(100)
    assert found["whole"]["ratio"] == pytest.approx(100 / (410 / 14))
    assert found["beyond start-up"] == pytest.approx({"wsi-vmamba": 300, "slide2vec": 50, "ratio": 6})


def test_one_slide_has_no_rate_beyond_start_up(load):
    runs = {"wsi-vmamba": {"tiles": 100, "cpu_s": 4.0}, "slide2vec": {"tiles": 100, "cpu_s": 5.0}}
    assert load("peers").ratios({"given": runs}) == {
        "whole": pytest.approx({"wsi-vmamba": 25, "slide2vec": 20, "ratio": 1.25})
    }


def test_the_colours_of_a_tile_are_the_means_of_the_null_backbone(load):
    tile = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    ours = build_encoder("null", device="cpu").encode(tile).mean(axis=(0, 1))
    scaled = torch.from_numpy(tile).permute(2, 0, 1)[None].float() / 255
    theirs = load("support/peer_slide2vec").Colours()(scaled)[0].numpy()
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)

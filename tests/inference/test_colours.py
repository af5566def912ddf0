"""Moments of colours: the same as the plain formula in float64, and as the backbone in torch."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.encode import BandEncoder, ColourEncoder, build_encoder
from wsi_vmamba.inference.colours import colour_moments
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.normalise import IMAGENET_MEAN, IMAGENET_STD


def _plain(pixels: np.ndarray, side: int) -> np.ndarray:
    x = (pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD
    rows, columns = -(-len(x) // side), -(-x.shape[1] // side)
    squares = [
        [x[side * i : side * (i + 1), side * j : side * (j + 1)].reshape(-1, 3) for j in range(columns)]
        for i in range(rows)
    ]
    return np.array([[np.append(s.mean(0), (s * s).mean(0)) for s in row] for row in squares])


def _pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "side"), [(1056, 96, 32), (1100, 70, 32), (31, 5, 32), (513, 257, 256), (3, 4, 1)]
)
def test_moments_are_those_of_the_plain_formula(height, width, side):
    pixels = _pixels(height, width)
    found = colour_moments(pixels, square_px=side)
    assert found.dtype == np.float32
    # Sums are exact and the rest is float64, so only the last rounding to float32 is left.
    np.testing.assert_allclose(found, _plain(pixels, side), rtol=1.2e-7, atol=1e-12)


@pytest.mark.parametrize("value", [0, 255])
def test_the_largest_sums_are_exact(value):
    pixels = np.full((256, 256, 3), value, np.uint8)
    expected = (value / 255 - np.array(IMAGENET_MEAN)) / IMAGENET_STD
    np.testing.assert_allclose(
        colour_moments(pixels, square_px=256)[0, 0], [*expected, *expected**2], rtol=1.2e-7
    )


def test_a_view_that_cannot_be_written_is_read_as_it_lies():
    whole = _pixels(200, 160)
    part = whole[10:170:2, 150:20:-1]
    part.setflags(write=False)
    np.testing.assert_array_equal(
        colour_moments(part, square_px=32), colour_moments(part.copy(), square_px=32)
    )


def test_the_null_encoder_on_the_cpu_gives_what_its_backbone_gives():
    encoder = build_encoder("null", device="cpu")
    assert isinstance(encoder, ColourEncoder)
    backbone = BandEncoder("null", build_backbone("null"), precision="fp32", device="cpu")
    assert (encoder.dim, encoder.stride_px, encoder.weights_hash) == (6, 32, backbone.weights_hash)
    pixels = _pixels(1100, 70)
    np.testing.assert_allclose(encoder.encode(pixels), backbone.encode(pixels), atol=3e-6)

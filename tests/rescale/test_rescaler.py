"""Resampling against an independent float64 computation, and its independence of the rectangle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_vmamba.rescale import Rescaler, is_whole

SCALES = [0.961, 1.0021, 1.37, 2.0062, 3.7, 8.05]


def _weights(x, scale, length, origin=64):
    """One target pixel's weights over a whole canvas axis: Keys' cubic written from its interpolation property."""
    stretch = max(1.0, scale)
    t = np.abs((np.arange(length) - origin + 0.5 - (x + 0.5) * scale) / stretch)
    w = np.zeros(length)
    inner, outer = t <= 1, (t > 1) & (t < 2)
    w[inner] = 1.5 * t[inner] ** 3 - 2.5 * t[inner] ** 2 + 1
    w[outer] = -0.5 * t[outer] ** 3 + 2.5 * t[outer] ** 2 - 4 * t[outer] + 2
    return w / w.sum()


@pytest.fixture(scope="module")
def canvas():
    return np.random.default_rng(5).integers(0, 256, (700, 800, 3), dtype=np.uint8)


@pytest.mark.parametrize("scale", SCALES)
def test_fractional_scales_equal_the_float64_cubic(rescale, cubic, canvas, scale):
    width, height = 37, 29
    got = rescale(canvas, scale, x_px=11, y_px=5, width_px=width, height_px=height, cubic=cubic)
    down = np.array([_weights(y, scale, canvas.shape[0]) for y in range(5, 5 + height)])
    along = np.array([_weights(x, scale, canvas.shape[1]) for x in range(11, 11 + width)])
    exact = np.clip(
        np.einsum("yi,ijc,xj->yxc", down, canvas.astype(np.float64), along, optimize=True), 0, 255
    )
    # Half a grey level of rounding, and a little for the weights' 13 bits.
    assert np.abs(got - exact).max() < 0.75
    assert np.abs(got - exact).mean() < 0.3


@pytest.mark.parametrize("scale", [2, 3, 4, 5, 8, 16])
def test_whole_scales_are_the_area_mean(rescale, canvas, scale):
    got = rescale(canvas, float(scale), x_px=3, y_px=2, width_px=20, height_px=17)
    part = canvas[64 + 2 * scale : 64 + 19 * scale, 64 + 3 * scale : 64 + 23 * scale].astype(np.float64)
    exact = part.reshape(17, scale, 20, scale, 3).mean(axis=(1, 3))
    assert np.abs(got - exact).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("scale", [*SCALES, 2.0])
@pytest.mark.parametrize("grey", [0, 1, 127, 255])
def test_a_flat_area_keeps_its_value(rescale, cubic, scale, grey):
    flat = np.full((400, 400, 3), grey, dtype=np.uint8)
    assert (rescale(flat, scale, x_px=2, y_px=1, width_px=20, height_px=20, cubic=cubic) == grey).all()


@pytest.mark.parametrize("scale", [0.961, 1.37, 2.0062])
def test_a_ramp_stays_where_it_is(rescale, cubic, scale):
    ramp = np.full((256, 256, 3), 7, dtype=np.uint8)
    ramp[..., 0] = np.arange(256)[None, :]
    ramp[..., 1] = np.arange(256)[:, None]
    got = rescale(ramp, scale, x_px=20, y_px=10, width_px=60, height_px=50, cubic=cubic).astype(np.float64)
    x = (np.arange(20, 80) + 0.5) * scale - 0.5 + 64
    y = (np.arange(10, 60) + 0.5) * scale - 0.5 + 64
    # A grey level is a source pixel; rounding is half of one, and an eighth between the passes.
    assert np.abs(got[..., 0] - x).max() < 0.65
    assert np.abs(got[..., 1] - y[:, None]).max() < 0.65
    assert (got[..., 2] == 7).all()


@settings(deadline=None)
@given(
    scale=st.sampled_from([1.0021, 1.37, 2.0, 2.0062, 3.0]),
    x=st.integers(0, 100),
    y=st.integers(0, 80),
    left=st.integers(0, 40),
    top=st.integers(0, 40),
    right=st.integers(0, 40),
    bottom=st.integers(0, 40),
)
def test_a_pixel_has_the_same_bytes_in_every_rectangle(
    rescale, cubic, canvas, scale, x, y, left, top, right, bottom
):
    inner = rescale(canvas, scale, x_px=x, y_px=y, width_px=33, height_px=21, cubic=cubic)
    x0, y0 = max(0, x - left), max(0, y - top)
    outer = rescale(
        canvas,
        scale,
        x_px=x0,
        y_px=y0,
        width_px=x - x0 + 33 + right,
        height_px=y - y0 + 21 + bottom,
        cubic=cubic,
    )
    np.testing.assert_array_equal(outer[y - y0 : y - y0 + 21, x - x0 : x - x0 + 33], inner)


@pytest.mark.parametrize("scale", [1.37, 2.0062, 4.0])
def test_sums_stay_exact_in_float32(scale):
    rescaler = Rescaler(x_px=0, y_px=0, width_px=5000, height_px=5000, scale=scale)
    weights = rescaler.rows.weights.astype(np.float64)
    np.testing.assert_array_equal(weights, np.rint(weights))
    if not is_whole(scale):
        assert (weights.sum(axis=1) == 2**15).all()
        # The first pass, and the second on its largest result with two bits of fraction.
        largest = 255 * np.abs(weights).sum(axis=1).max()
        assert largest < 2**24
        assert largest / 2**13 * (np.abs(weights).sum(axis=1).max() / 4) < 2**24


def test_extreme_contrast_is_clipped_not_wrapped(rescale, cubic):
    edge = np.zeros((400, 400, 3), dtype=np.uint8)
    edge[:, 200:] = 255
    got = rescale(edge, 1.37, x_px=80, y_px=10, width_px=40, height_px=9, cubic=cubic)
    profile = got[4, :, 0].astype(int)
    assert profile[:10].max() == 0
    assert profile[-10:].min() == 255
    middle = np.flatnonzero((profile > 30) & (profile < 225))
    assert len(middle) <= 2

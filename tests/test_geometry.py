"""From level 0 to a level and back: exact, wherever on the slide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsi_vmamba.geometry import l0_to_level_px, level_to_l0_px


def test_known_places():
    assert [level_to_l0_px(x, downsample=4.0) for x in (-1, 0, 7)] == [-4, 0, 28]
    assert [l0_to_level_px(x, downsample=4.0) for x in (-1, 0, 3, 4, 28)] == [-1, 0, 0, 1, 7]
    assert level_to_l0_px(1000, downsample=2.0062) == 2006


@given(st.integers(-(10**6), 10**6), st.floats(1.0, 512.0))
def test_a_pixel_of_a_level_comes_back_from_level_0(x_px, downsample):
    assert l0_to_level_px(level_to_l0_px(x_px, downsample=downsample), downsample=downsample) == x_px

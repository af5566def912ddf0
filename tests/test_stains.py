"""What the stain of a slide is like, by numbers that are known from how its picture was made."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.stains import describe_stain, stain_vector


def test_densities_are_those_that_the_picture_was_made_with():
    """Half of the tissue at one density, half at another; glass inside the mask and tissue outside do not count."""
    low, high = np.array([0.3, 0.6, 0.2]), np.array([0.7, 1.2, 0.8])
    picture = np.full((40, 40, 3), 250, np.uint8)
    picture[:20, :20] = np.rint(255 * np.exp(-low))
    picture[:20, 20:] = np.rint(255 * np.exp(-high))
    picture[30:] = (10, 10, 10)
    tissue = np.zeros((40, 40), bool)
    tissue[:30] = True
    found = stain_vector(describe_stain(picture, tissue))
    assert found[:3] == pytest.approx((low + high) / 2, abs=0.005)
    assert found[3:] == pytest.approx((high - low) / 2, abs=0.005)


def test_glass_says_nothing():
    assert describe_stain(np.full((9, 9, 3), 245, np.uint8), np.ones((9, 9), bool)) == {}
    assert np.isnan(stain_vector({})).all()
    with pytest.raises(ValueError, match="expected three densities"):
        stain_vector({"density_mean": [1, 2], "density_sd": [1, 2, 3]})

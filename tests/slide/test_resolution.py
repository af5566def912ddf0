from __future__ import annotations

import numpy as np
import pytest
import tifffile

from wsi_vmamba.errors import MissingMppError
from wsi_vmamba.slide import ResolvedMpp, open_slide, resolve_mpp
from wsi_vmamba.slide.memory import ArraySlide

PICTURE = np.zeros((10, 12, 3), np.uint8)
REMEDIES = r"`--mpp-override` or in the manifest's `mpp` column"


def test_file_and_override():
    slide = ArraySlide(PICTURE, 0.25)
    assert resolve_mpp(slide) == ResolvedMpp(value=0.25, source="memory")
    assert resolve_mpp(slide, mpp_override=0.5) == ResolvedMpp(value=0.5, source="override")


def test_missing_names_the_slide_and_both_remedies():
    slide = ArraySlide(PICTURE, None, path="here/s.tif")
    with pytest.raises(MissingMppError, match=f"here/s.tif: .*records no micrometres.*{REMEDIES}"):
        resolve_mpp(slide)
    assert resolve_mpp(slide, mpp_override=0.5).value == 0.5


@pytest.mark.parametrize("mpp", [0.049, 4.01, 1000.0, 0.0, -0.25, float("nan"), float("inf")])
def test_out_of_range_is_refused_from_file_and_override(mpp):
    with pytest.raises(MissingMppError, match=f"expected 0.05 to 4.*{REMEDIES}"):
        resolve_mpp(ArraySlide(PICTURE, mpp))
    with pytest.raises(MissingMppError, match=r"from the override.*expected 0.05 to 4"):
        resolve_mpp(ArraySlide(PICTURE, 0.25), mpp_override=mpp)


@pytest.mark.parametrize("mpp", [0.05, 4.0])
def test_ends_of_the_range_are_in_it(mpp):
    assert resolve_mpp(ArraySlide(PICTURE, mpp)).value == mpp


@pytest.mark.parametrize(
    ("y_per_cm", "square"), [(40000, True), (40500, True), (40700, False), (20000, False)]
)
def test_pixels_that_are_not_square_are_refused(tmp_path, y_per_cm, square):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, PICTURE, photometric="rgb", resolution=(40000, y_per_cm), resolutionunit="CENTIMETER"
    )
    with open_slide(path) as slide:
        if square:
            assert resolve_mpp(slide).value == pytest.approx((0.25 + 10000 / y_per_cm) / 2)
        else:
            with pytest.raises(MissingMppError, match=r"0.25 um per pixel in x but 0\.\d+ in y"):
                resolve_mpp(slide)
            assert resolve_mpp(slide, mpp_override=0.25).value == 0.25


@pytest.mark.real_slides
def test_real_slides_with_a_wrong_resolution_are_refused(real_data):
    paths = [*sorted((real_data / "slides-10x").glob("*.tif")), *sorted((real_data / "slides").glob("*.dcm"))]
    assert len(paths) == 9
    for path in paths:
        with open_slide(path) as slide, pytest.raises(MissingMppError, match=REMEDIES):
            resolve_mpp(slide)

"""The context curve: nothing where nothing is cut, more at cuts than elsewhere, most at the patch that was changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsi_vmamba.ops import cpu


def test_which_patches_meet_another_region(load):
    """Two regions of 4 x 4 patches side by side, glass to the right of them."""
    meets = load("context")._meets_other
    region_of = {(column, row): column // 4 for column in range(8) for row in range(4)}
    at_cut = {place for place in region_of if meets(place, region_of, 1)}
    assert at_cut == {(column, row) for column in (3, 4) for row in range(4)}
    assert {place for place in region_of if not meets(place, region_of, 3)} == {
        (column, row) for column in (0, 7) for row in range(4)
    }


@pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")
def test_the_curve_of_a_made_slide(load, tmp_path: Path, write_tiny_slide, capsys):
    slide = write_tiny_slide(tmp_path / "s.tif")
    found = load("context").main(
        [str(slide), "--target-mpp", "0.5", "--patch-px", "64", "--sizes", "128", "640", "--window-px", "320",
         "--segmenter", "all", "--changes", "1", "--json", str(tmp_path / "out.json")]
    )  # fmt: skip
    cut, uncut = found["cuts"][128], found["cuts"][640]
    assert (uncut["regions"], uncut["all"]["moved"], uncut["at a cut"]["patches"]) == (1, 0.0, 0)
    assert uncut["all"]["cosine"] == pytest.approx(1.0)
    assert (cut["regions"], cut["at a cut"]["patches"]) == (20, 76)  # the corners of the slide meet no cut
    assert cut["all"]["moved"] > 0
    assert cut["all"]["cosine"] < 1
    felt = [one["straight"] for one in found["felt"]]
    assert felt[0] == max(value for value in felt if value is not None)
    assert all(np.isfinite([one["aside"] for one in found["felt"][1:]]))
    assert "| 128 px | at a cut | 76 |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.real_slides
@pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")
def test_the_curve_of_a_real_slide_falls_with_the_size_of_regions(load, real_data: Path):
    slide = real_data / "slides" / "lymph-node-metastasis.tif"
    if not slide.is_file():
        pytest.skip(f"no {slide}")
    found = load("context").main(
        [str(slide), "--mpp", "0.5", "--target-mpp", "4", "--patch-px", "64", "--sizes", "128", "1024",
         "--window-px", "512"]
    )  # fmt: skip
    small, large = found["cuts"][128], found["cuts"][1024]
    assert large["all"]["moved"] < small["all"]["moved"]
    assert large["all"]["cosine"] > small["all"]["cosine"]

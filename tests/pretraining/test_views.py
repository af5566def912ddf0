"""Views straight from slides: the same pixels for the same step, whoever asks, in whatever order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_vmamba.errors import DatasetError, MissingMppError, UnreadableSlideError
from wsi_vmamba.pretraining.measurements import measure
from wsi_vmamba.pretraining.views import Augmentation, SlideViews, ViewSettings


@dataclass(frozen=True, kw_only=True)
class Listed:
    slide_id: str
    path: Path
    mpp: float | None = None
    problem: str = ""


@pytest.fixture
def listed(tmp_path, write_tiny_slide):
    return [
        Listed(slide_id=f"s{index}", path=write_tiny_slide(tmp_path / f"s{index}.tif", index))
        for index in range(2)
    ]


def settings(**changes):
    return ViewSettings(
        **{"batch": 6, "large_px": 48, "small_px": 24, "field_px": 64, "um_per_px": (0.5, 1.0), **changes}
    )


def same(a, b):
    return (
        all(torch.equal(x, y) for x, y in zip(a.large + a.small, b.large + b.small, strict=True))
        and torch.equal(a.slide, b.slide)
        and torch.equal(a.um_per_px, b.um_per_px)
    )


def test_a_step_is_the_same_whatever_was_asked_before_and_however_it_is_prepared(listed):
    with (
        SlideViews(listed, settings(), seed=3) as one,
        SlideViews(listed, settings(), seed=3, threads=3) as other,
    ):
        straight = [one.views(step) for step in range(5)]
        assert [step for step, _ in other.batches(2, 5)] == [2, 3, 4]
        assert all(same(straight[step], views) for step, views in other.batches(1, 5))
        assert same(other.views(0), straight[0])
        assert not same(straight[0], straight[1])


def test_shapes_are_as_promised(listed):
    with SlideViews(listed, settings(n_large=2, n_small=3), seed=3) as source:
        views = source.views(0)
    assert [tuple(view.shape) for view in views.large] == [(6, 48, 48, 3)] * 2
    assert [tuple(view.shape) for view in views.small] == [(6, 24, 24, 3)] * 3
    assert {view.dtype for view in views.large + views.small} == {torch.uint8}
    assert (views.slide.dtype, views.um_per_px.dtype) == (torch.int64, torch.float32)
    assert 0.5 <= float(views.um_per_px.min()) <= float(views.um_per_px.max()) <= 1.0


def test_the_first_large_view_is_measured_before_it_is_changed(listed):
    """The pixels stay those of a step that measures nothing, and the numbers those of unchanged crops."""
    still = Augmentation(
        turn=False, stain_gain=0, stain_shift=0, stain_hue=0, brightness=0, contrast=0, blur_p=0, jpeg_p=0,
        grey_p=0, haematoxylin_p=0,
    )  # fmt: skip
    with (
        SlideViews(listed, settings(), seed=3) as plain,
        SlideViews(listed, settings(measure=True), seed=3) as changed,
        SlideViews(listed, settings(augmentation=still), seed=3) as unchanged,
    ):
        views = changed.views(1)
        assert same(views, plain.views(1))
        assert plain.views(1).measured is None
        expected = [measure(picture.numpy()) for picture in unchanged.views(1).large[0]]
    np.testing.assert_array_equal(views.measured.numpy(), expected)


def test_ranks_see_other_fields(listed):
    seen = []
    for rank in range(2):
        with SlideViews(listed, settings(), seed=3, rank=rank, world=2) as source:
            seen.append(source.views(0))
    assert not np.array_equal(seen[0].um_per_px, seen[1].um_per_px)


def test_slides_that_cannot_be_used_are_named_with_the_remedy(listed, tmp_path, write_tiny_slide):
    bare = write_tiny_slide(tmp_path / "bare.tif", 9)
    import tifffile

    with tifffile.TiffFile(bare) as file:
        pixels = file.asarray()
    tifffile.imwrite(bare, pixels, tile=(64, 64), photometric="rgb", metadata=None)
    slides = [
        Listed(slide_id="gone", path=tmp_path / "gone.tif"),
        listed[0],
        Listed(slide_id="bare", path=bare),
        Listed(slide_id="named", path=bare, mpp=0.5),
    ]
    with SlideViews(slides, settings(batch=24), seed=3) as source:
        gone, no_mpp = source.left_out
        assert isinstance(gone, UnreadableSlideError)
        assert isinstance(no_mpp, MissingMppError)
        assert "--mpp-override" in str(no_mpp)
        assert source.slide_ids == ("s0", "named")
        assert set(source.views(0).slide.tolist()) == {1, 3}
    with pytest.raises(DatasetError, match=r"none of 1 slides can be used.*gone\.tif"):
        SlideViews(slides[:1], settings(), seed=3)

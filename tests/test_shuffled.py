"""Blocks of pixels at each other's places: which, and that what is read is what is there, however it is read."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.pipelines import extract
from wsi_vmamba.regions import RegionPlan, RegionSpec, plan_regions
from wsi_vmamba.shuffled import shuffled_blocks
from wsi_vmamba.slide.memory import ArraySlide
from wsi_vmamba.store import open_features
from wsi_vmamba.stream import BandStream, StreamStats, read_target, stream_regions
from wsi_vmamba.tissue import TissueMask

PATCH = 16
#: Kept patches of a slide of 8 x 6 patches.
KEPT = (
    np.array([list(row) for row in ["11111100", "11111100", "11110011", "11110011", "00001111", "00001101"]])
    == "1"
)


def make(
    *, shuffle_px: int | None, scale: int = 1, region_px: int | str = "whole"
) -> tuple[ArraySlide, RegionPlan]:
    rows, columns = KEPT.shape
    side = PATCH * scale
    rgb = np.random.default_rng(1).integers(0, 256, (rows * side, columns * side, 3), dtype=np.uint8)
    slide = ArraySlide(rgb, mpp=0.5)
    plan = plan_regions(
        width_l0=columns * side, height_l0=rows * side, mpp=0.5, levels=slide.levels,
        spec=RegionSpec(target_mpp=0.5 * scale, region_px=region_px, patch_px=PATCH, shuffle_px=shuffle_px),
        tissue=TissueMask(mask=KEPT, downsample=side, mpp=0.5 * side),
    )  # fmt: skip
    return slide, plan


@pytest.mark.parametrize("per_block", [1, 2, 3])
def test_blocks_go_only_to_where_blocks_alike_were(per_block: int):
    _, plan = make(shuffle_px=per_block * PATCH)
    sources = shuffled_blocks(plan, block_px=per_block * PATCH)
    assert sorted(sources.values()) == sorted(sources)
    moved = [place for place, source in sources.items() if place != source]
    assert bool(moved) == (per_block < 3)  # of blocks of nine patches no two are alike here
    tops = [KEPT[row * per_block :, column * per_block :] for column, row in sources]
    for (place, (column, row)), here in zip(sources.items(), tops, strict=True):
        assert place in sources
        there = KEPT[row * per_block :, column * per_block :]
        np.testing.assert_array_equal(here[:per_block, :per_block], there[:per_block, :per_block])
    if per_block == 1:
        assert set(sources) == {(c, r) for r, c in np.argwhere(KEPT).tolist()}


def expected(*, scale: int, shuffle_px: int) -> np.ndarray:
    """The whole canvas, block after block, from the canvas as it is."""
    slide, plan = make(shuffle_px=None, scale=scale)
    size = {"x_px": 0, "y_px": 0, "width_px": plan.width_px, "height_px": plan.height_px}
    canvas = read_target(slide, plan, **size)
    shuffled = canvas.copy()
    side = shuffle_px
    for (to_x, to_y), (x, y) in shuffled_blocks(plan, block_px=side).items():
        shuffled[to_y * side :, to_x * side :][:side, :side] = canvas[y * side :, x * side :][:side, :side]
    assert (shuffled != canvas).any()
    return shuffled


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("shuffle_px", [PATCH, 2 * PATCH])
def test_every_way_of_reading_gives_the_shuffled_pixels(scale: int, shuffle_px: int):
    canvas = expected(scale=scale, shuffle_px=shuffle_px)
    slide, plan = make(shuffle_px=shuffle_px, scale=scale)
    part = read_target(slide, plan, x_px=5, y_px=7, width_px=70, height_px=41)
    np.testing.assert_array_equal(part, canvas[7:48, 5:75])
    slide, plan = make(shuffle_px=shuffle_px, scale=scale, region_px=3 * PATCH)
    assert len(plan.regions) > 1
    for decoded in stream_regions(slide, plan):
        region = decoded.region
        rows = slice(region.y_px, region.y_px + region.height_px)
        columns = slice(region.x_px, region.x_px + region.width_px)
        np.testing.assert_array_equal(decoded.pixels, canvas[rows, columns])
    slide, plan = make(shuffle_px=shuffle_px, scale=scale)
    bands = BandStream(slide, plan, plan.regions[0], stats=StreamStats(), decoded=lambda: None)
    bands.advance(0, bands.height)
    np.testing.assert_array_equal(bands.rows(0, bands.height), canvas)
    bands.close()


def test_a_plan_says_what_it_shuffles_and_only_then():
    _, plan = make(shuffle_px=32)
    assert plan.to_dict()["spec"]["shuffle_px"] == 32
    assert RegionPlan.from_dict(plan.to_dict()) == plan
    assert "shuffle_px" not in make(shuffle_px=None)[1].to_dict()["spec"]
    with pytest.raises(UsageError, match="multiple of 16, got 24"):
        make(shuffle_px=24)


def test_extract_keeps_the_places_and_shuffles_what_is_there(tiny_slides, tmp_path, extract_config):
    """The backbone is colour alone, so that patches keep their features wherever they are."""
    assert extract.run(extract_config(tiny_slides, tmp_path / "as-is"))
    assert extract.run(extract_config(tiny_slides, tmp_path / "shuffled", shuffle_px=64))
    for name in ("s0", "s1"):
        one, other = (open_features(tmp_path / folder / f"{name}.zarr") for folder in ("as-is", "shuffled"))
        np.testing.assert_array_equal(one.coords_l0, other.coords_l0)
        a, b = np.asarray(one.features), np.asarray(other.features)
        assert (a != b).any(axis=1).mean() > 0.9
        np.testing.assert_array_equal(np.unique(a, axis=0), np.unique(b, axis=0))
    # Features of one are not taken for those of the other.
    assert not extract.run(extract_config(tiny_slides, tmp_path / "as-is", shuffle_px=64))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shuffle_px": 100}, "multiple of patch_px"),
        ({"shuffle_px": 64, "on_bad_tile": "skip"}, "on_bad_tile must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], words: str):
    with pytest.raises(ValueError, match=words):
        ExtractConfig.model_validate({"patch_px": 64, "region_px": 320, "backbone": "null", **changes})

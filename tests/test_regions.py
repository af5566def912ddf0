"""Region plans are arithmetic: every property of the plan, for any slide, tissue and spec."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_vmamba.errors import NoTissueError, UsageError
from wsi_vmamba.regions import Region, RegionPlan, RegionSpec, choose_level, plan_regions, require_tissue
from wsi_vmamba.slide.base import Level
from wsi_vmamba.tissue.mask import TissueMask


def _levels(width_l0, height_l0, *downsamples):
    return tuple(
        Level(width_px=int(width_l0 / d), height_px=int(height_l0 / d), downsample=float(d))
        for d in downsamples
    )


def _mask(mask, downsample=16.0, mpp=8.0):
    return TissueMask(mask=np.asarray(mask, dtype=bool), downsample=downsample, mpp=mpp)


def _plan(mask, *, spec=None, mpp=0.5, downsample=16.0, downsamples=(1,)):
    height_l0, width_l0 = (round(n * downsample) for n in np.shape(mask))
    return plan_regions(
        width_l0=width_l0,
        height_l0=height_l0,
        mpp=mpp,
        levels=_levels(width_l0, height_l0, *downsamples),
        spec=spec or RegionSpec(),
        tissue=_mask(mask, downsample),
    )


@st.composite
def plans(draw):
    """A plan and what it was made from."""
    mask = draw(hnp.arrays(bool, st.tuples(st.integers(1, 10), st.integers(1, 10))))
    mpp = draw(st.sampled_from([0.11, 0.25, 0.2431, 0.499, 0.5, 0.52]))
    downsample = draw(st.sampled_from([1.0, 7.3, 16.0, 33.0]))
    patch_px = draw(st.sampled_from([24, 32, 50]))
    spec = RegionSpec(
        target_mpp=0.5,
        patch_px=patch_px,
        region_px=draw(st.integers(patch_px, 6 * patch_px)),
        min_tissue=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
    )
    # The last mask pixel may reach past the slide.
    height_l0 = max(1, math.floor(mask.shape[0] * downsample - draw(st.floats(0, 0.9)) * downsample))
    width_l0 = max(1, math.floor(mask.shape[1] * downsample - draw(st.floats(0, 0.9)) * downsample))
    plan = plan_regions(
        width_l0=width_l0,
        height_l0=height_l0,
        mpp=mpp,
        levels=_levels(width_l0, height_l0, 1, 2, 4),
        spec=spec,
        tissue=_mask(mask, downsample),
    )
    return plan, mask, downsample


def _overlaps(patches, patch, limit, pixels, pixel):
    """Length that each patch and each mask pixel have in common inside the slide, along one axis."""
    return np.array(
        [
            [
                max(0.0, min((c + 1) * patch, (p + 1) * pixel, limit) - max(c * patch, p * pixel))
                for p in range(pixels)
            ]
            for c in range(patches)
        ]
    )


@settings(deadline=None)
@given(plans())
def test_the_patches_with_enough_tissue_are_kept_once_and_no_other(made):
    plan, mask, downsample = made
    kept = [tuple(patch) for region in plan.regions for patch in region.patches.tolist()]
    assert len(kept) == len(set(kept)) == plan.n_patches
    patch, (height, width) = plan.patch_l0, mask.shape
    down = _overlaps(math.ceil(plan.height_l0 / patch), patch, plan.height_l0, height, downsample)
    along = _overlaps(math.ceil(plan.width_l0 / patch), patch, plan.width_l0, width, downsample)
    shares = down @ mask @ along.T / patch**2
    for (row, column), share in np.ndenumerate(shares):
        if abs(share - plan.spec.min_tissue) > 1e-6:
            assert ((column, row) in kept) == (share > plan.spec.min_tissue), (column, row, share)


@settings(deadline=None)
@given(plans())
def test_regions_are_bounded_trimmed_apart_and_on_the_grid(made):
    plan, _, _ = made
    patch = plan.spec.patch_px
    taken = set()
    for region in plan.regions:
        assert 0 < region.width_px <= plan.spec.region_px
        assert 0 < region.height_px <= plan.spec.region_px
        assert (
            region.x_px % patch
            == region.y_px % patch
            == region.width_px % patch
            == region.height_px % patch
            == 0
        )
        assert 0 <= region.x_px < plan.width_px
        assert 0 <= region.y_px < plan.height_px
        # Trimmed: tissue on all four sides.
        low, high = region.patches.min(axis=0) * patch, (region.patches.max(axis=0) + 1) * patch
        assert low.tolist() == [region.x_px, region.y_px]
        assert high.tolist() == [region.x_px + region.width_px, region.y_px + region.height_px]
        covered = {
            (column, row)
            for column in range(region.x_px // patch, (region.x_px + region.width_px) // patch)
            for row in range(region.y_px // patch, (region.y_px + region.height_px) // patch)
        }
        assert not covered & taken
        taken |= covered


@settings(deadline=None)
@given(plans())
def test_coordinates_go_to_level_0_and_back_within_a_pixel(made):
    plan, _, _ = made
    assert plan.l0_per_px == pytest.approx(plan.spec.target_mpp / plan.mpp, rel=1e-6)
    for region in plan.regions:
        coords_l0 = plan.coords_l0(region)
        assert coords_l0.dtype == np.int64
        exact = region.patches * plan.spec.patch_px * plan.spec.target_mpp / plan.mpp
        assert np.abs(coords_l0 - exact).max() <= 0.5 + 1e-3
        assert (
            np.abs(coords_l0 / plan.l0_per_px - region.patches * plan.spec.patch_px).max()
            <= 0.5 / plan.l0_per_px + 1e-9
        )
        np.testing.assert_array_equal(plan.patches_at(coords_l0), region.patches)
        assert (coords_l0 < [plan.width_l0 + 1, plan.height_l0 + 1]).all()


@settings(deadline=None)
@given(plans())
def test_plans_survive_json(made):
    plan, _, _ = made
    again = RegionPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    for before, after in zip(plan.regions, again.regions, strict=True):
        np.testing.assert_array_equal(before.patches, after.patches)


def test_a_plan_by_hand():
    mask = np.zeros((64, 96), dtype=bool)  # 1024 x 1536 px, patches of 256 px are 16 mask pixels
    mask[16:48, 32:64] = True
    mask[50:52, 0:2] = True  # 4 of 256: too little for a patch
    plan = _plan(mask, spec=RegionSpec(region_px=511))
    assert (plan.width_px, plan.height_px, plan.level, plan.scale) == (1536, 1024, 0, 1.0)
    assert [r.patches.tolist() for r in plan.regions] == [[[2, 1]], [[3, 1]], [[2, 2]], [[3, 2]]]
    whole = _plan(mask, spec=RegionSpec(region_px=512))
    assert [(r.x_px, r.y_px, r.width_px, r.height_px) for r in whole.regions] == [(512, 256, 512, 512)]
    assert whole.coords_l0(whole.regions[0]).tolist() == [[512, 256], [768, 256], [512, 512], [768, 512]]
    assert whole.n_patches == 4
    assert whole.encoded_px == 512 * 512


def test_the_default_region_is_39_patches():
    plan = _plan(np.ones((624, 624), dtype=bool))  # 9,984 px
    assert [(r.width_px, r.height_px, len(r.patches)) for r in plan.regions] == [(9984, 9984, 39 * 39)]


def test_a_slide_a_little_too_large_is_cut_in_equal_parts():
    plan = _plan(np.ones((1250, 640), dtype=bool))  # 10,240 x 20,000 px
    # 40 patches across are 20 + 20; 78.1 down are 79, the last an eighth inside, which is enough: 27 + 26 + 26.
    assert [(r.width_px // 256, r.height_px // 256) for r in plan.regions] == [
        (20, 27), (20, 27), (20, 26), (20, 26), (20, 26), (20, 26),
    ]  # fmt: skip
    assert plan.n_patches == 40 * 79


def test_a_patch_over_the_edge_is_kept_only_with_enough_tissue():
    mask = np.ones((17, 16), dtype=bool)  # 272 px high: 16 px of the second patch, a sixteenth
    assert _plan(mask).n_patches == 1
    over = _plan(mask, spec=RegionSpec(min_tissue=0.05))
    assert over.n_patches == 2
    assert over.regions[0].height_px == 512 > over.height_px == 272


@pytest.mark.parametrize(
    ("mpp", "target", "level", "scale"),
    [
        (0.25, 0.5, 1, 1.0),
        (0.25, 1.0, 2, 1.0),
        (0.25, 0.75, 1, 1.5),
        (0.25, 0.25, 0, 1.0),
        (0.2431, 0.5, 1, 0.5 / 0.4862),
        (
            0.25,
            0.4999,
            1,
            0.4999 / 0.5,
        ),  # a rounding away from the level: not a reason to read four times more
        (0.25, 0.48, 0, 1.92),
        (0.52, 0.5, 0, 0.5 / 0.52),
        (0.1, 0.3, 1, 1.5),
        (1 / 3, 1.0, 1, 1.5),
    ],
)
def test_the_nearest_finer_level_is_read_at_the_exact_scale(mpp, target, level, scale):
    found_level, found_scale = choose_level(mpp=mpp, levels=_levels(4096, 4096, 1, 2, 4), target_mpp=target)
    assert found_level == level
    assert found_scale == pytest.approx(scale, rel=1e-12)


def test_scales_a_rounding_error_from_whole_are_whole():
    assert choose_level(mpp=0.1, levels=_levels(64, 64, 1), target_mpp=0.3) == (0, 3.0)
    # 0.25 read as 0.2499: the difference is real and adds up to 4 px over 10,000.
    assert choose_level(mpp=0.2499, levels=_levels(64, 64, 1), target_mpp=0.5)[1] == pytest.approx(
        2.0008, abs=1e-4
    )


def test_upsampling_is_refused_with_the_remedy():
    with pytest.raises(UsageError, match=r"0\.6 um per pixel.*1\.20 times.*target_mpp of 0\.6"):
        choose_level(mpp=0.6, levels=_levels(64, 64, 1, 2), target_mpp=0.5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("region_px", 0),
        ("region_px", 100.0),
        ("region_px", True),
        ("region_px", 255),
        ("patch_px", -1),
        ("patch_px", "256"),
        ("target_mpp", 0),
        ("target_mpp", float("nan")),
        ("target_mpp", "0.5"),
        ("min_tissue", 1.1),
        ("min_tissue", -0.1),
    ],
)
def test_bad_specs_are_refused_by_name(field, value):
    with pytest.raises(UsageError, match=field):
        RegionSpec(**{field: value})


def test_an_empty_plan_says_why():
    empty = np.zeros((32, 32), dtype=bool)
    plan = _plan(empty)
    assert plan.regions == ()
    with pytest.raises(NoTissueError, match=r"s\.svs: no tissue found: the tissue mask is empty"):
        require_tissue(plan, slide="s.svs", tissue=_mask(empty))
    speck = empty.copy()
    speck[3:5, 3:5] = True
    with pytest.raises(NoTissueError, match=r"256 um2 \(0\.39% of the slide\).*no patch of 256 px is 10%"):
        require_tissue(_plan(speck), slide="s.svs", tissue=_mask(speck))
    require_tissue(_plan(~empty), slide="s.svs", tissue=_mask(~empty))


def test_a_forged_plan_is_refused():
    plan = _plan(np.ones((32, 32), dtype=bool))
    region = plan.regions[0]
    for change in ({"x_px": 256}, {"width_px": 256}, {"index": 3}):
        forged = Region(**{**vars(region), **change})
        with pytest.raises(UsageError, match="plan_regions"):
            RegionPlan(**{**vars(plan), "regions": (forged,)})
    for plain in (
        {"spec": {}},
        {**plan.to_dict(), "regions": [[]]},
        {**plan.to_dict(), "regions": [[[1, 2]]]},
    ):
        with pytest.raises(UsageError, match="not a region plan"):
            RegionPlan.from_dict(plain)
    with pytest.raises(ValueError, match="read-only"):
        region.patches[0] = 0

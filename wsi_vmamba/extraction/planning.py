"""What of a slide is to be read: its tissue cut into regions."""

from __future__ import annotations

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.extraction.tissue_files import FoundTissue, find_tissue
from wsi_vmamba.regions import RegionPlan, RegionSpec, plan_canvas, plan_regions
from wsi_vmamba.slide import ResolvedMpp, Slide


def plan_slide(
    config: ExtractConfig, slide: Slide, mpp: ResolvedMpp, *, slide_id: str | None = None
) -> tuple[FoundTissue, RegionPlan]:
    """Find the tissue of a slide, or read its mask, and plan its regions; the plan may be empty."""
    tissue = find_tissue(config, slide, mpp=mpp.value, slide_id=slide_id or slide.slide_id)
    plan = plan_regions(
        width_l0=slide.levels[0].width_px,
        height_l0=slide.levels[0].height_px,
        mpp=mpp.value,
        levels=slide.levels,
        spec=_spec(config),
        tissue=tissue.mask,
    )
    return tissue, plan


def _spec(config: ExtractConfig) -> RegionSpec:
    return RegionSpec(
        target_mpp=config.target_mpp,
        region_px=config.region_px,
        patch_px=config.patch_px,
        min_tissue=config.min_tissue,
        background=config.background,
        shuffle_px=config.shuffle_px,
    )


def plan_without_regions(config: ExtractConfig, slide: Slide, mpp: ResolvedMpp) -> RegionPlan:
    """The plan of a slide but for its regions, which depend on the tissue.

    Raises:
        UsageError: the slide is coarser than the resolution asked for.
    """
    return plan_canvas(
        width_l0=slide.levels[0].width_px,
        height_l0=slide.levels[0].height_px,
        mpp=mpp.value,
        levels=slide.levels,
        spec=_spec(config),
    )

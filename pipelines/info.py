"""Recipe: describe one slide the way `extract` would see it."""

from __future__ import annotations

from wsi_vmamba import console
from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.extraction.planning import plan_slide
from wsi_vmamba.slide import open_slide, resolve_mpp
from wsi_vmamba.slide.resolution import mpp_note
from wsi_vmamba.slide.scenes import other_scenes


def run(config: ExtractConfig) -> bool:
    """Print format, size, levels, mpp, tissue share and planned regions of ``config.slides``; return True."""
    with open_slide(config.slides, reader=config.reader, scene=config.scene) as slide:
        level0 = slide.levels[0]
        console.say(f"{slide.path}")
        console.say(f"  reader       {slide.reader}")
        for key in ("format", "vendor", "codec", "samples"):
            if key in slide.properties:
                console.say(f"  {key:<12} {slide.properties[key]}")
        if scenes := other_scenes(slide):
            console.say(f"  scene        {scenes}")
        console.say(f"  size         {level0.width_px:,} x {level0.height_px:,} px")
        console.say(f"  recorded mpp {'none' if slide.mpp is None else f'{slide.mpp:g} um/px'}")
        if note := mpp_note(slide):
            console.warn(note)
        console.print_table(
            "  levels", ("level", "width_px", "height_px", "downsample"),
            [(i, lv.width_px, lv.height_px, f"{lv.downsample:g}") for i, lv in enumerate(slide.levels)],
        )  # fmt: skip
        mpp = resolve_mpp(slide, mpp_override=config.mpp_override)
        found, plan = plan_slide(config, slide, mpp)
        console.say(f"  mpp          {mpp.value:g} um/px ({mpp.source})")
        console.say(f"  tissue       {found.mask.share:.1%} of the slide")
        console.say(
            f"  plan         {len(plan.regions)} region(s) at {config.target_mpp:g} um/px from level {plan.level}, "
            f"{plan.n_patches} patches of {config.patch_px} px"
        )
        for region in plan.regions:
            console.say(
                f"    region {region.index}: {region.width_px} x {region.height_px} px at "
                f"({region.x_px}, {region.y_px}), {len(region.patches)} patches"
            )
    return True

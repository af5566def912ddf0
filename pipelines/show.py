"""Recipe: say what a feature file holds and draw it over its slide."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config import ShowConfig
from wsi_vmamba.durable import require_writable
from wsi_vmamba.report.components import draw_components
from wsi_vmamba.slide import open_slide
from wsi_vmamba.store import open_features


def run(config: ShowConfig) -> bool:
    """Print the facts of ``config.features`` and draw its principal components; return True."""
    path = Path(config.features)
    out = Path(config.out) if config.out else path.parent
    require_writable(out, option="--out")
    stored = open_features(path)
    meta = stored.meta
    console.say(f"{path}")
    console.say(f"  slide        {config.slide or meta.slide_path} ({meta.reader})")
    console.say(
        f"  patches      {stored.n_patches} of {meta.patch_px} px at {meta.target_mpp:g} um/px, "
        f"{len(meta.plan['regions'])} region(s)"
    )
    console.say(
        f"  features     {stored.dim} each, {meta.model} in {meta.precision}, weights {meta.weights_hash[:12]}"
    )
    with open_slide(config.slide or meta.slide_path, reader=meta.reader, scene=meta.scene) as slide:
        files = draw_components(slide, stored, out)
    console.say(f"  picture      {files.png}")
    return True

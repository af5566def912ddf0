"""Recipe: say what a feature file holds and draw it over its slide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsi_vmamba import console
from wsi_vmamba.config import ShowConfig
from wsi_vmamba.durable import require_writable
from wsi_vmamba.report.components import draw_components
from wsi_vmamba.slide import Slide, open_slide
from wsi_vmamba.store import FeatureFile, open_features

if TYPE_CHECKING:
    from wsi_vmamba.probing.saved import SavedProbe


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
        if config.probe:
            # Loads scikit-learn, which a picture alone need not wait for.
            from wsi_vmamba.probing.saved import load_probe

            _show_probe(load_probe(config.probe), stored, slide, out)
            return True
        files = draw_components(slide, stored, out)
    console.say(f"  picture      {files.png}")
    return True


def _show_probe(probe: SavedProbe, stored: FeatureFile, slide: Slide, out: Path) -> None:
    """Say, write and draw what a probe makes of the patches."""
    from wsi_vmamba.probing.on_slide import draw_classes, write_table

    for note in probe.check(stored.meta):
        console.warn(note)
    shares = probe.predict(stored.features)
    counts = np.bincount(shares.argmax(axis=1), minlength=len(probe.classes))
    found = ", ".join(f"{name} {count}" for name, count in zip(probe.classes, counts, strict=True))
    console.say(f"  probe        patches by their likeliest class: {found}")
    stem = stored.path.stem
    table = out / f"{stem}.probe.csv"
    write_table(stored, shares, probe, table)
    console.say(f"  table        {table}")
    for picture in draw_classes(slide, stored, shares, probe, out, stem=stem):
        console.say(f"  picture      {picture}")

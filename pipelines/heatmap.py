"""Recipe: what a model says of the patches of slides, as files that other tools open."""

from __future__ import annotations

from wsi_vmamba import console
from wsi_vmamba.config import HeatmapConfig
from wsi_vmamba.durable import require_writable
from wsi_vmamba.errors import DatasetError, SlideError, StoreError
from wsi_vmamba.prediction.heatmaps.formats import save
from wsi_vmamba.prediction.heatmaps.heatmap import Heatmap
from wsi_vmamba.prediction.heatmaps.wanted import Wanted, default_folder, find_wanted
from wsi_vmamba.text import printable


def run(config: HeatmapConfig) -> bool:
    """Write every format of every slide; return whether all are there."""
    wanted = find_wanted(config)
    out = default_folder(config)
    require_writable(out, option="--out")
    failures: list[tuple[str, str]] = []
    with console.progress("heatmap", len(wanted)) as task:
        for one in wanted:
            try:
                _write(one, config)
            except (SlideError, StoreError, DatasetError) as error:
                # What is wrong with one slide; what is wrong with the model or the call ends all.
                failures.append((one.name, str(error)))
            task.step(one.name)
    if failures:
        console.print_table("Slides without a heatmap", ("slide", "cause"), failures)
    return not failures


def _write(one: Wanted, config: HeatmapConfig) -> None:
    heatmap: Heatmap = one.load().heatmap(layer=config.layer, slide=one.slide)
    for name in dict.fromkeys(config.format):
        path = save(heatmap, default_folder(config), name=name, bands=config.levels)
        console.say(f"{printable(heatmap.slide_id)}: {heatmap.patches.quantity}: {printable(str(path))}")

"""Recipe: a generated cohort whose answer is known."""

from __future__ import annotations

import shlex
from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config import SynthConfig
from wsi_vmamba.datasets.synthetic import ArrangementSpec, CohortSpec, generate_arranged, generate_cohort
from wsi_vmamba.durable import require_writable


def run(config: SynthConfig) -> bool:
    """Paint the cohort and print what to do with it."""
    out = Path(config.out)
    require_writable(out, option="--out")
    with console.progress("slide", config.slides) as task:
        if config.cohort == "nodes":
            nodes = CohortSpec(slides=config.slides, seed=config.seed, difficulty=config.difficulty)
            manifest = generate_cohort(nodes, out, progress=lambda slide: task.step(slide.slide_id))
        else:
            pairs = ArrangementSpec(
                arrangement=config.cohort, pairs=config.slides // 2, seed=config.seed, blocks=config.blocks,
                difficulty=config.difficulty,
            )  # fmt: skip
            manifest = generate_arranged(pairs, out, progress=task.step)
    console.say(f"{config.slides} slides: {manifest}")
    sizes = "--target-mpp 1.0 --patch-px 128"
    if config.cohort != "nodes":
        console.say(
            "Each pair of slides holds the same patches: read one by one they tell nothing of the label."
        )
        sizes += " --region-px 128 --segmenter all"
    console.say(f"Next: wsi-vmamba extract {shlex.quote(str(manifest))} {sizes} --out {out / 'features'}")
    console.say(
        f"      wsi-vmamba train --dataset csv --manifest {shlex.quote(str(manifest))} "
        f"--features {out / 'features'}"
    )
    return True

"""How well each aggregator tells tumour slides from normal ones: three difficulties, five seeds, one table.

    python benchmarks/aggregators.py                      # made-up cells: minutes, no images
    python benchmarks/aggregators.py --source slides      # the synthetic cohort: images, extracted once and kept
    python benchmarks/aggregators.py --quick              # does it run at all: half a minute

**cells**: slides are drawn as cells with features, no images. Tissue is one blob of 250 to 900 cells; features are noise of
unit variance with a shift per slide (stain). A tumour slide has one lesion, a compact patch of cells, shifted along
a direction; every slide, normal or not, also has single cells shifted just as much, scattered at random (cells
that look like tumour and are not). What differs between the labels is therefore how many such cells there are and that
those of a lesion touch. From level to level lesions get smaller and look-alikes more. This favours aggregators
that know places, by design: it asks whether they use what they are given. The level "apart" is the control: lesions are
scattered over the tissue like look-alikes, so that places tell nothing.

**slides**: painted slides (`wsi_vmamba.datasets.synthetic`) of three difficulties, features of ``--backbone``. Nothing
there was made with an aggregator in mind.

Each row is the mean and standard deviation of the test AUC over the seeds; a seed draws the bags (cells), the
validation split, the weights and the order. Settings are the defaults of `wsi-vmamba train`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from wsi_vmamba.pipelines import extract
from wsi_vmamba.pipelines.train import settings_of

from wsi_vmamba.bags import Bag, BagLoader, SlideRecord
from wsi_vmamba.config import ExtractConfig, TrainConfig
from wsi_vmamba.datasets.csv import read_manifest
from wsi_vmamba.datasets.synthetic import CohortSpec, generate_cohort
from wsi_vmamba.metrics.auc import roc_auc
from wsi_vmamba.mil import AGGREGATORS
from wsi_vmamba.provenance import write_text_atomic
from wsi_vmamba.training import predict, train

DIM = 48
#: Standard deviation, per feature, of what all cells of a slide share.
SLIDE_SHIFT = 0.1
CELL_L0 = 512


@dataclass(frozen=True, kw_only=True)
class Level:
    """A difficulty of the made-up cells: cells of a lesion, share of look-alikes, length of the shift."""

    lesion_cells: int
    look_alikes: float
    shift: float
    compact: bool = True


LEVELS = {
    "large": Level(lesion_cells=40, look_alikes=0.01, shift=3.5),
    "medium": Level(lesion_cells=16, look_alikes=0.015, shift=3.5),
    "small": Level(lesion_cells=9, look_alikes=0.02, shift=3.5),
    "apart": Level(lesion_cells=40, look_alikes=0.01, shift=3.5, compact=False),
}
SLIDE_DIFFICULTIES = {"easy": 0.2, "medium": 0.5, "hard": 0.8}
Cohort = tuple[list[SlideRecord], Callable[[SlideRecord], Bag]]


def made_up_cohort(level: Level, *, seed: int, slides: int) -> Cohort:
    """Draw slides, half with a lesion; the second half is for testing."""
    generator = np.random.default_rng([seed, level.lesion_cells])
    direction = generator.normal(size=DIM)
    direction *= level.shift / np.linalg.norm(direction)
    records, bags = [], {}
    for index in range(slides):
        record = SlideRecord(
            slide_id=f"s{index:03}", label=index % 2, split="test" if index >= slides // 2 else None
        )
        places = _tissue(generator)
        features = generator.normal(size=(len(places), DIM)) + generator.normal(scale=SLIDE_SHIFT, size=DIM)
        marked = generator.random(len(places)) < level.look_alikes
        if record.label:
            marked |= _lesion(places, level, generator)
        features[marked] += direction
        records.append(record)
        bags[record.slide_id] = Bag(
            slide_id=record.slide_id,
            features=features.astype(np.float32),
            coords_l0=places * CELL_L0,
            cell_l0=float(CELL_L0),
        )
    return records, lambda record: bags[record.slide_id]


def _tissue(generator: np.random.Generator) -> NDArray[np.int64]:
    """Cells (col, row) of an uneven blob, (N, 2), in the order of reading."""
    radius = generator.uniform(9, 17)
    rows, cols = np.mgrid[0:40, 0:40]
    angle = np.arctan2(rows - 20, cols - 20)
    waves = sum(
        generator.uniform(0, 0.15) * np.sin(k * angle + generator.uniform(0, 2 * np.pi)) for k in (2, 3, 5)
    )
    inside = np.hypot(rows - 20, cols - 20) < radius * (1 + waves)
    places: NDArray[np.int64] = np.argwhere(inside)[:, ::-1].astype(np.int64)
    return places


def _lesion(places: NDArray[np.int64], level: Level, generator: np.random.Generator) -> NDArray[np.bool_]:
    """The cells nearest to a random one, or as many anywhere."""
    marked = np.zeros(len(places), dtype=np.bool_)
    distance = np.hypot(*(places - places[generator.integers(len(places))]).T)
    order = np.argsort(distance, kind="stable") if level.compact else generator.permutation(len(places))
    marked[order[: level.lesion_cells]] = True
    return marked


def painted_cohort(difficulty: float, *, folder: Path, slides: int, backbone: str) -> Cohort:
    """Paint slides and extract their features, both once: what is in the folder already is kept."""
    home = folder / f"difficulty-{difficulty:g}-{slides}"
    manifest = generate_cohort(CohortSpec(slides=slides, difficulty=difficulty), home / "slides")
    features = home / f"features-{backbone}"
    code = extract.run(
        ExtractConfig(slides=str(manifest), out=str(features), target_mpp=1.0, cell_px=128, backbone=backbone)
    )
    if code:
        raise SystemExit(f"extraction into {features} failed")
    return read_manifest(manifest, root=manifest.parent), BagLoader(features)


def test_auc(cohort: Cohort, aggregator: str, *, seed: int, epochs: int, out: Path) -> float:
    """Train with the defaults of the command and score the test slides."""
    records, load = cohort
    settings = settings_of(TrainConfig(aggregator=aggregator, seed=seed, epochs=epochs, device="cpu"))
    model = train(records, load, settings, out).model
    test = [record for record in records if record.split == "test"]
    labels = np.array([record.label for record in test])
    scores = np.array([predict(model, load(record)).probability for record in test])
    return float(roc_auc(labels, scores))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark, print a line per figure and the table, and write the figures as JSON."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    found: dict[str, dict[str, list[float]]] = {}
    seconds: dict[str, float] = dict.fromkeys(options.aggregators, 0.0)
    levels = LEVELS if options.source == "cells" else SLIDE_DIFFICULTIES
    for level in options.levels or levels:
        found[level] = {name: [] for name in options.aggregators}
        painted = (
            painted_cohort(
                levels[level], folder=options.out, slides=options.slides, backbone=options.backbone
            )
            if options.source == "slides"
            else None
        )
        for seed in range(options.seeds):
            cohort = painted or made_up_cohort(levels[level], seed=seed, slides=options.slides)
            for name in options.aggregators:
                started = time.perf_counter()
                with tempfile.TemporaryDirectory() as folder:
                    auc = test_auc(cohort, name, seed=seed, epochs=options.epochs, out=Path(folder) / "run")
                seconds[name] += time.perf_counter() - started
                found[level][name].append(auc)
                print(f"{level}\tseed {seed}\t{name}\t{auc:.4f}", flush=True)
    print(table(found))
    content = {"options": {k: str(v) for k, v in vars(options).items()}, "auc": found, "seconds": seconds}
    if options.source == "cells":
        content["levels"] = {name: asdict(level) for name, level in LEVELS.items()}
    write_text_atomic(
        options.out / f"aggregators-{options.source}.json", json.dumps(content, indent=2) + "\n"
    )


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: a row per aggregator, a column per difficulty."""
    names = next(iter(found.values()))
    lines = [f"| aggregator | {' | '.join(found)} |", f"| --- |{' --- |' * len(found)}"]
    for name in names:
        cells = [f"{np.mean(found[level][name]):.3f} ± {np.std(found[level][name]):.3f}" for level in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", choices=("cells", "slides"), default="cells")
    parser.add_argument("--aggregators", nargs="+", choices=list(AGGREGATORS), default=list(AGGREGATORS))
    parser.add_argument("--levels", nargs="+", help="some of the levels only")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--slides", type=int, default=120, help="half of them for testing")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--backbone", default="vmamba_pico", help="of --source slides")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"))
    parser.add_argument("--quick", action="store_true", help="one seed, 24 slides, 5 epochs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.slides, options.epochs = 1, 24, 5
    return options


if __name__ == "__main__":
    main()

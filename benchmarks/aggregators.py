"""How well each aggregator tells tumour slides from normal ones: three difficulties, five seeds, one table.

    python benchmarks/aggregators.py                      # simulated patches, no images
    python benchmarks/aggregators.py --source slides      # the synthetic cohort: images, extracted once and kept
    python benchmarks/aggregators.py --supervision slide both dense     # outlines too: FROC beside the AUC
    python benchmarks/aggregators.py --quick              # does it run at all

**patches**: slides are drawn as patches with features, no images. Tissue is one blob of 250 to 900; features are
noise of unit variance with a small shift per slide (stain). A tumour slide has one lesion, a compact group of
patches, shifted along a direction; every slide, normal or not, also has single patches shifted just as much, scattered
at random (patches that look like tumour and are not). What differs between the labels is therefore how many such
patches there are and that those of a lesion touch. From level to level lesions get smaller. This favours aggregators
that know places, by design: it asks whether they use what they are given. The level "apart" is the control: its
lesions are scattered over the tissue like look-alikes, so that places tell nothing.

**slides**: painted slides (`wsi_vmamba.datasets.synthetic`) of three difficulties, features of ``--backbone``. Nothing
there was made with an aggregator in mind. Beside the AUC of all slides stands that of small lesions alone: tumour
slides with nothing larger than "small" or "micro" against all normal ones.

Each row is the mean and standard deviation over the seeds; a seed draws the bags (patches), the validation split, the
weights and the order. Settings are the defaults of `wsi-vmamba train`. The lesion FROC is that of `wsi-vmamba
evaluate`, from the patches' own probabilities or, without outlines, from attention (without the quirks of the
challenge's script; its lengths are for 0.243 um per pixel, whatever the slides are).

Seeds start at 20: those below were used while the levels and `wsi_vmamba.mil.ss2d` were made.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import compress
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_vmamba.annotation import read_annotation
from wsi_vmamba.bags import Bag, BagLoader
from wsi_vmamba.config import ExtractConfig, TrainConfig
from wsi_vmamba.datasets.csv import read_manifest
from wsi_vmamba.datasets.synthetic import CohortSpec, generate_cohort
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.evaluation.run_lesions import patch_scores
from wsi_vmamba.evaluation.run_scores import Scored
from wsi_vmamba.metrics.auc import roc_auc
from wsi_vmamba.metrics.detections import FrocSlide, match_slide
from wsi_vmamba.metrics.froc import curve_without_quirks
from wsi_vmamba.metrics.lesions import MASK_DOWNSAMPLE, TUMOR_VALUE, LesionMap, find_lesions
from wsi_vmamba.metrics.peaks import detect_peaks
from wsi_vmamba.mil import AGGREGATORS, SUPERVISIONS
from wsi_vmamba.pipelines import extract
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.store import open_features
from wsi_vmamba.training import PatchTargets, Prediction, predict, train
from wsi_vmamba.training.objective import LoadTargets
from wsi_vmamba.training.resolve import settings_of

#: Level, contender, and the figures of each seed.
Figures = dict[str, dict[str, list[dict[str, float]]]]
FIRST_SEED = 20
DIM = 32
#: Standard deviation, per feature, of what all patches of a slide share.
SLIDE_SHIFT = 0.1
PATCH_L0 = 512
#: Side of the square the tissue lies in.
TISSUE_PATCHES = 48


@dataclass(frozen=True, kw_only=True)
class Level:
    """A difficulty of the simulated patches: patches of a lesion, share of look-alikes, length of the shift."""

    lesion_patches: int
    look_alikes: float
    shift: float
    compact: bool = True


LEVELS = {
    "large": Level(lesion_patches=25, look_alikes=0.01, shift=5.0),
    "medium": Level(lesion_patches=12, look_alikes=0.01, shift=5.0),
    "small": Level(lesion_patches=6, look_alikes=0.01, shift=5.0),
    "apart": Level(lesion_patches=12, look_alikes=0.01, shift=5.0, compact=False),
}
SLIDE_DIFFICULTIES = {"easy": 0.2, "medium": 0.5, "hard": 0.8}
SMALL_LESIONS = ("small", "micro")
#: Detections closer than this are one: a patch and a half.
MERGE_PATCHES = 1.5


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Slides, their patches, what is known of these, and their lesions at level 5 (None on normal slides)."""

    records: Sequence[SlideRecord]
    load: Callable[[SlideRecord], Bag]
    load_targets: LoadTargets
    lesions: Callable[[SlideRecord], LesionMap | None]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """What is trained."""

    aggregator: str | None
    supervision: str

    @property
    def label(self) -> str:
        """Its row in the table."""
        return self.supervision if self.aggregator is None else f"{self.aggregator}, {self.supervision}"


def made_up_cohort(level: Level, *, seed: int, slides: int) -> Cohort:
    """Draw slides, half with a lesion; the second half is for testing."""
    generator = np.random.default_rng([seed, level.lesion_patches])
    direction = generator.normal(size=DIM)
    direction *= level.shift / np.linalg.norm(direction)
    records, bags, lesions = [], {}, {}
    for index in range(slides):
        record = SlideRecord(
            slide_id=f"s{index:03}", label=index % 2, split="test" if index >= slides // 2 else None
        )
        places = _tissue(generator)
        features = generator.normal(size=(len(places), DIM)) + generator.normal(scale=SLIDE_SHIFT, size=DIM)
        lesion = _lesion(places, level, generator) if record.label else np.zeros(len(places), dtype=np.bool_)
        features[lesion | (generator.random(len(places)) < level.look_alikes)] += direction
        records.append(record)
        lesions[record.slide_id] = lesion
        bags[record.slide_id] = Bag(
            slide_id=record.slide_id,
            features=features.astype(np.float32),
            coords_l0=places * PATCH_L0,
            patch_l0=float(PATCH_L0),
        )

    def draw(record: SlideRecord) -> LesionMap | None:
        if not record.label:
            return None
        mask = np.zeros((TISSUE_PATCHES, TISSUE_PATCHES), np.uint8)
        columns, rows = bags[record.slide_id].coords_grid[lesions[record.slide_id]].T
        mask[rows, columns] = TUMOR_VALUE
        side = PATCH_L0 // MASK_DOWNSAMPLE
        return find_lesions(mask.repeat(side, axis=0).repeat(side, axis=1), name=record.slide_id)

    return Cohort(
        records=records,
        load=lambda record: bags[record.slide_id],
        load_targets=lambda record, bag: lesions[record.slide_id].astype(np.float32),
        lesions=draw,
    )


def _tissue(generator: np.random.Generator) -> NDArray[np.int64]:
    """Patches (col, row) of an uneven blob, (N, 2), in the order of reading."""
    radius = generator.uniform(9, 17)
    rows, cols = np.mgrid[0:TISSUE_PATCHES, 0:TISSUE_PATCHES] - TISSUE_PATCHES // 2
    angle = np.arctan2(rows, cols)
    waves = sum(
        generator.uniform(0, 0.15) * np.sin(k * angle + generator.uniform(0, 2 * np.pi)) for k in (2, 3, 5)
    )
    inside = np.hypot(rows, cols) < radius * (1 + waves)
    places: NDArray[np.int64] = np.argwhere(inside)[:, ::-1].astype(np.int64)
    return places


def _lesion(places: NDArray[np.int64], level: Level, generator: np.random.Generator) -> NDArray[np.bool_]:
    """The patches nearest to a random one, or as many anywhere."""
    marked = np.zeros(len(places), dtype=np.bool_)
    distance = np.hypot(*(places - places[generator.integers(len(places))]).T)
    order = np.argsort(distance, kind="stable") if level.compact else generator.permutation(len(places))
    marked[order[: level.lesion_patches]] = True
    return marked


def paint(difficulty: float, *, folder: Path, slides: int, backbone: str) -> tuple[Path, Path]:
    """Paint slides and extract their features, both once: what is in the folder already is kept.

    Returns:
        The manifest and the folder of features.
    """
    home = folder / f"difficulty-{difficulty:g}-{slides}"
    manifest = generate_cohort(CohortSpec(slides=slides, difficulty=difficulty), home / "slides")
    features = home / f"features-{backbone}"
    done = extract.run(
        ExtractConfig(
            slides=str(manifest), out=str(features), target_mpp=1.0, patch_px=128, backbone=backbone
        )
    )
    if not done:
        raise SystemExit(f"extraction into {features} failed")
    return manifest, features


def painted_cohort(manifest: Path, features: Path) -> Cohort:
    """Read what `paint` left."""
    records = read_manifest(manifest, root=manifest.parent)

    def draw(record: SlideRecord) -> LesionMap | None:
        if not record.label or record.annotation is None:
            return None
        plan = open_features(features / f"{record.slide_id}.zarr").meta.plan
        mask = read_annotation(record.annotation).rasterize(
            width_px=math.ceil(plan["width_l0"] / MASK_DOWNSAMPLE),
            height_px=math.ceil(plan["height_l0"] / MASK_DOWNSAMPLE),
            downsample=MASK_DOWNSAMPLE,
        )
        return find_lesions(mask.astype(np.uint8) * TUMOR_VALUE, name=record.slide_id)

    return Cohort(records=records, load=BagLoader(features), load_targets=PatchTargets(), lesions=draw)


def judge(cohort: Cohort, contender: Contender, *, seed: int, epochs: int) -> dict[str, float]:
    """Train with the defaults of the command; AUC of the test slides, and FROC where patches can be told apart."""
    started = time.perf_counter()
    config = TrainConfig(
        aggregator=contender.aggregator, supervision=contender.supervision, seed=seed, epochs=epochs,
        device="cpu",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        model = train(
            cohort.records, cohort.load, settings_of(config), Path(folder) / "run",
            load_targets=cohort.load_targets,
        ).model  # fmt: skip
    test = [record for record in cohort.records if record.split == "test"]
    predictions = [predict(model, cohort.load(record)) for record in test]
    scores = np.array([item.probability for item in predictions])
    found = {"auc": _auc(test, scores)}
    small = [not one.label or one.attributes.get("lesion_size") in SMALL_LESIONS for one in test]
    if any(one.label and kept for one, kept in zip(test, small, strict=True)):
        found["auc, small lesions"] = _auc(list(compress(test, small)), scores[small])
    if all(item.patches is not None or item.attention is not None for item in predictions):
        found["froc"] = _froc(cohort, test, predictions)
    return {**found, "seconds": time.perf_counter() - started}


def _auc(records: Sequence[SlideRecord], scores: NDArray[np.float64]) -> float:
    return float(roc_auc(np.array([record.label for record in records]), scores))


def _froc(cohort: Cohort, test: Sequence[SlideRecord], predictions: Sequence[Prediction]) -> float:
    matches = []
    for record, prediction in zip(test, predictions, strict=True):
        bag, lesions = cohort.load(record), cohort.lesions(record)
        centres = bag.coords_l0 + bag.patch_l0 / 2
        if lesions is not None:  # the last patches of a slide may reach past its edge
            rows, columns = lesions.labels.shape
            centres = np.minimum(centres, np.array([columns, rows]) * MASK_DOWNSAMPLE - 1)
        scored = patch_scores(Scored(record=record, patches=len(centres), prediction=prediction), bag)
        detections = detect_peaks(scored, centres, merge_l0=MERGE_PATCHES * bag.patch_l0)
        matches.append(match_slide(FrocSlide(name=record.slide_id, lesions=lesions, detections=detections)))
    return curve_without_quirks(matches).score


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: on which cohort (painted where ``files`` says so), of what, with which seed."""

    level: str
    files: tuple[Path, Path] | None
    contender: Contender
    seed: int
    slides: int
    epochs: int

    def run(self) -> dict[str, float]:
        """Train and judge, in whatever process."""
        torch.set_num_threads(1)
        if self.files is not None:
            cohort = painted_cohort(*self.files)
        else:
            cohort = made_up_cohort(LEVELS[self.level], seed=self.seed, slides=self.slides)
        return judge(cohort, self.contender, seed=self.seed, epochs=self.epochs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark, print a line per training and the tables, and write the figures as JSON."""
    options = _parse(arguments)
    jobs = _jobs(options)
    found: Figures = {job.level: {} for job in jobs}
    # Seeds follow each other within a level, so that what is printed early is of one table already.
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for job, figures in zip(jobs, pool.map(Job.run, jobs), strict=True):
            found[job.level].setdefault(job.contender.label, []).append(figures)
            shown = "\t".join(f"{name} {value:.4f}" for name, value in figures.items())
            print(f"{job.level}\tseed {job.seed}\t{job.contender.label}\t{shown}", flush=True)
    for figure in ("auc", "auc, small lesions", "froc"):
        if any(figure in run for rows in found.values() for runs in rows.values() for run in runs):
            print(table(found, figure) + "\n")
    content = {"options": {name: str(value) for name, value in vars(options).items()}, "figures": found}
    if options.source == "patches":
        content["levels"] = {name: asdict(level) for name, level in LEVELS.items()}
    write_atomic(options.out / f"aggregators-{options.source}.json", json.dumps(content, indent=2) + "\n")


def _jobs(options: argparse.Namespace) -> list[Job]:
    painted = options.source == "slides"
    chosen = options.levels or list(SLIDE_DIFFICULTIES if painted else LEVELS)
    files = {
        level: paint(
            SLIDE_DIFFICULTIES[level], folder=options.out, slides=options.slides, backbone=options.backbone
        )
        if painted
        else None
        for level in chosen
    }
    return [
        Job(
            level=level, files=files[level], contender=contender, seed=FIRST_SEED + turn,
            slides=options.slides, epochs=options.epochs,
        )
        for level in chosen
        for turn in range(options.seeds)
        for contender in _contenders(options.aggregators, options.supervision)
    ]  # fmt: skip


def _contenders(aggregators: Sequence[str], supervisions: Sequence[str]) -> list[Contender]:
    found = []
    for supervision in supervisions:
        trained = aggregators if SUPERVISIONS.resolve(supervision).slides else [None]
        found += [Contender(aggregator=name, supervision=supervision) for name in trained]
    return found


def table(found: Figures, figure: str) -> str:
    """Markdown: a row per contender that has the figure, a column per difficulty."""
    lines = [f"| {figure.upper()} | {' | '.join(found)} |", f"| --- |{' --- |' * len(found)}"]
    for label, runs in next(iter(found.values())).items():
        if all(figure in run for run in runs):
            values = [np.array([run[figure] for run in rows[label]]) for rows in found.values()]
            patches = (f"{column.mean():.3f} ± {column.std():.3f}" for column in values)
            lines.append(f"| {label} | {' | '.join(patches)} |")
    return "\n".join(lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", choices=("patches", "slides"), default="patches")
    parser.add_argument("--aggregators", nargs="+", choices=list(AGGREGATORS), default=list(AGGREGATORS))
    parser.add_argument("--supervision", nargs="+", choices=list(SUPERVISIONS), default=["slide"])
    parser.add_argument("--levels", nargs="+", help="some of the levels only")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--slides", type=int, default=200, help="half of them for testing")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--backbone", default="vmamba_pico", help="of --source slides")
    parser.add_argument("--processes", type=int, default=1, help="trainings at a time, one thread each")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"))
    parser.add_argument("--quick", action="store_true", help="one seed, 24 slides, 5 epochs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.slides, options.epochs = 1, 24, 5
    return options


if __name__ == "__main__":
    main()

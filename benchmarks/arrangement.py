"""How many slides an aggregator needs to learn an arrangement: pairs of slides that hold the same patches.

    python benchmarks/arrangement.py --arrangements near-far ring-line --pairs 60 120 --seeds 3

The blocks of each pair are those of `wsi-vmamba synth near-far --set blocks=8`; each is encoded alone, as with
``--region-px 128``, once for all trainings, and kept. A seed draws which pairs are for training, the arrangements, the
weights and the order; the test AUC is followed by that with the places of each slide's patches shuffled among them,
the mean of five times.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_vmamba.bags import Bag
from wsi_vmamba.config import TrainConfig
from wsi_vmamba.datasets.synthetic import ARRANGEMENTS, ArrangementSpec, generate_arranged
from wsi_vmamba.datasets.synthetic.arranged_slides import BLOCK_PX
from wsi_vmamba.datasets.synthetic.arrangement import lay_out
from wsi_vmamba.encode import build_encoder
from wsi_vmamba.metrics.auc import roc_auc
from wsi_vmamba.mil import AGGREGATORS
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.slide import open_slide
from wsi_vmamba.training import predict, train
from wsi_vmamba.training.model import SlideClassifier
from wsi_vmamba.training.resolve import settings_of

BLOCKS = 8
SHUFFLES = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line per training."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    features = _features(options, max(options.pairs))
    print("arrangement\taggregator\tpairs\tseed\ttest AUC\tplaces shuffled\ttraining AUC", flush=True)
    for arrangement in options.arrangements:
        for aggregator in options.aggregators:
            for pairs in options.pairs:
                for seed in range(options.first_seed, options.first_seed + options.seeds):
                    spec = ArrangementSpec(arrangement=arrangement, pairs=pairs, seed=seed, blocks=BLOCKS)
                    found = _judge(spec, features, aggregator, options)
                    shown = "\t".join(f"{value:.3f}" for value in found)
                    print(f"{arrangement}\t{aggregator}\t{pairs}\t{seed}\t{shown}", flush=True)


def _features(options: argparse.Namespace, pairs: int) -> NDArray[np.float32]:
    """Of every block as it is in the slides, those of tumour first, (pairs, blocks, dim)."""
    kept = options.out / f"near-far-{pairs}-{options.model}.npy"
    if kept.exists():
        found: NDArray[np.float32] = np.load(kept)
        return found
    spec = ArrangementSpec(pairs=pairs, blocks=BLOCKS)
    slides = options.out / f"near-far-{pairs}"
    generate_arranged(spec, slides)
    encoder = build_encoder(options.model, weights="auto", precision="fp32", device="cpu")
    made = []
    for pair in range(pairs):
        by_block = dict(zip(lay_out(spec, pair, 1).ravel().tolist(), _read(slides, pair), strict=True))
        tokens = [np.asarray(encoder.encode(by_block[block]), np.float32) for block in range(BLOCKS**2)]
        made.append([each.mean(axis=(0, 1)) for each in tokens])
    np.save(kept, np.array(made))
    return np.array(made)


def _read(slides: Path, pair: int) -> list[NDArray[np.uint8]]:
    """The blocks of the positive slide of a pair, row by row."""
    side = BLOCKS * BLOCK_PX
    with open_slide(slides / f"pair_{pair:03d}_a.tif") as slide:
        rgb = slide.read_region(x_l0=0, y_l0=0, level=0, width_px=side, height_px=side)
    cuts = [slice(at, at + BLOCK_PX) for at in range(0, side, BLOCK_PX)]
    return [np.ascontiguousarray(rgb[rows, columns]) for rows in cuts for columns in cuts]


def _judge(
    spec: ArrangementSpec, features: NDArray[np.float32], aggregator: str, options: argparse.Namespace
) -> tuple[float, float, float]:
    """AUC of the test slides, of those with places shuffled, and of the slides trained on."""
    bags = _bags(spec, features)
    config = TrainConfig(
        aggregator=aggregator, epochs=options.epochs, patience=options.epochs, learning_rate=options.learning_rate,
        seed=spec.seed, device="cpu",
    )  # fmt: skip
    records = [
        SlideRecord(slide_id=name, label=bag.label, patient_id=name[:-2], split=spec.split_of(int(name[:-2])))
        for name, bag in bags.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(config)
        model = train(records, lambda one: bags[one.slide_id], settings, Path(folder) / "run").model
    test, trained = ([bags[r.slide_id] for r in records if r.split == split] for split in ("test", "train"))
    draw = np.random.default_rng(spec.seed)
    shuffled = [_auc(model, [_shuffle(draw, bag) for bag in test]) for _ in range(SHUFFLES)]
    return _auc(model, test), float(np.mean(shuffled)), _auc(model, trained)


def _bags(spec: ArrangementSpec, features: NDArray[np.float32]) -> dict[str, Bag]:
    """Both slides of every pair, by name: the number of the pair and the label."""
    rows, columns = np.divmod(np.arange(BLOCKS**2), BLOCKS)
    places = np.stack([columns, rows], axis=1)
    drawn = np.random.default_rng(spec.seed).permutation(len(features))[: spec.pairs]
    return {
        f"{pair:03d}-{label}": Bag(
            slide_id=f"{pair:03d}-{label}", features=features[of][lay_out(spec, pair, label).ravel()],
            coords_l0=places * BLOCK_PX, patch_l0=float(BLOCK_PX), label=label,
        )
        for pair, of in enumerate(drawn)
        for label in (1, 0)
    }  # fmt: skip


def _shuffle(draw: np.random.Generator, bag: Bag) -> Bag:
    return replace(bag, features=bag.features[draw.permutation(len(bag.features))])


def _auc(model: SlideClassifier, bags: Sequence[Bag]) -> float:
    # A model without places adds the same patches up in another order, and rounding must not tell slides apart.
    scores = np.round([predict(model, bag).probability for bag in bags], 6)
    return float(roc_auc(np.array([bag.label for bag in bags]), scores))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arrangements", nargs="+", choices=list(ARRANGEMENTS), default=["near-far"])
    parser.add_argument("--aggregators", nargs="+", choices=list(AGGREGATORS), default=["ss2d"])
    parser.add_argument(
        "--pairs", type=int, nargs="+", default=[60, 120], help="of slides; 45 %% to train on"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--model", default="vmamba_pico")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/out"), help="slides and features are kept here"
    )
    return parser


if __name__ == "__main__":
    main()

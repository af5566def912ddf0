"""How well tumour patches are told apart by a linear probe on features of several extractions of the same slides.

    python benchmarks/tumour_patches.py slides/manifest.csv features-256 features-1024 features-whole

The slides have outlines (column `annotation`). A logistic regression learns from the patches of the training slides,
validation slides among them, and scores those of the test slides. Printed for each folder: AUC of all patches, with a
95 % interval from a bootstrap of slides; of patches at the border of tissue (one of the eight around is not kept) and
of the others; and, by the same draws of slides, the difference of the AUC from that of the last folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsi_vmamba.bags import load_bag
from wsi_vmamba.datasets.csv import read_manifest
from wsi_vmamba.metrics.auc import roc_auc
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.training import PatchTargets

DRAWS = 1000


class Scored(NamedTuple):
    """Patches of a test slide."""

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    border: NDArray[np.bool_]


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Print the table; returns the AUC by the name of the folder."""
    options = _parser().parse_args(arguments)
    records = read_manifest(options.manifest, root=options.manifest.parent)
    slides = {folder.name: _score(records, folder) for folder in options.features}
    draw = np.random.default_rng(0)
    count = len(next(iter(slides.values())))
    draws = [np.arange(count), *draw.integers(count, size=(DRAWS, count))]
    aucs = {
        name: np.array([_auc([scored[i] for i in some]) for some in draws]) for name, scored in slides.items()
    }
    last = aucs[options.features[-1].name]
    print("| features | patches (tumour) | AUC, 95 % interval | at the border | others | difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, scored in slides.items():
        labels = np.concatenate([one.labels for one in scored])
        parts = [
            _auc([Scored(*(values[one.border == border] for values in one)) for one in scored])
            for border in (True, False)
        ]
        shown = [_shown(aucs[name]), *(f"{part:.4f}" for part in parts), _shown(aucs[name] - last, sign="+")]
        print(f"| {name} | {len(labels)} ({labels.sum()}) | {' | '.join(shown)} |")
    return {name: float(values[0]) for name, values in aucs.items()}


def _score(records: Sequence[SlideRecord], folder: Path) -> list[Scored]:
    targets, bags = PatchTargets(), {one.slide_id: load_bag(one, folder) for one in records}
    known = {one.slide_id: targets(one, bags[one.slide_id]) for one in records}
    learned = [one.slide_id for one in records if one.split != "test"]
    labels = np.concatenate([known[name] for name in learned])
    features = np.concatenate([bags[name].features for name in learned])
    kept = ~np.isnan(labels)
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, max_iter=2000, class_weight="balanced")
    )
    model.fit(features[kept], labels[kept].astype(np.int64))
    found = []
    for name in (one.slide_id for one in records if one.split == "test"):
        kept = ~np.isnan(known[name])
        scores = model.decision_function(bags[name].features)
        border = _border(bags[name].coords_grid)
        found.append(Scored(known[name][kept].astype(np.int64), scores[kept], border[kept]))
    return found


def _border(places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether one of the eight patches around is not there, of patches at (column, row)."""
    there = {tuple(place) for place in places.tolist()}
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return np.array([any((x + i, y + j) not in there for i, j in steps) for x, y in places.tolist()])


def _auc(slides: Sequence[Scored]) -> float:
    labels, scores = (np.concatenate([getattr(one, name) for one in slides]) for name in ("labels", "scores"))
    return float(roc_auc(labels, scores)) if 0 < labels.sum() < len(labels) else float("nan")


def _shown(values: NDArray[np.float64], *, sign: str = "") -> str:
    """The first, and the interval of the others."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return f"{values[0]:{sign}.4f} ({low:{sign}.4f} to {high:{sign}.4f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument(
        "features", type=Path, nargs="+", help="folders of `extract`; the last is compared with"
    )
    return parser


if __name__ == "__main__":
    main()

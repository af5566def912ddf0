"""A real train-to-test run on CAMELYON16 without its slides: 30 heatmap features per slide, two classifiers.

The features are those of DIDSR's dldp repository (CC0), the folder that holds train_normal.csv, train_tumor.csv and
test.csv; the labels of the test slides are a CSV with slide_id, label and metastasis.

    python benchmarks/heatmap_features.py --features DIR --labels test_labels.csv --out DIR
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from wsi_vmamba.config import EvaluateConfig, TrainConfig
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.pipelines import evaluate, train
from wsi_vmamba.tabular import CLASSIFIERS

PARTS = {"train_normal.csv": "train", "train_tumor.csv": "train", "test.csv": "test"}


def main() -> None:
    """Join the tables, train and evaluate each classifier, print the test AUCs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    manifest = join_tables(chosen.features, chosen.labels, chosen.out / "slides.csv")
    found = {name: run(manifest, chosen.out, name) for name in CLASSIFIERS}
    for name, content in found.items():
        low, high = content["ci95"]
        print(f"{name}: test AUC {content['auc']:.4f} ({low:.4f}-{high:.4f}) on {content['n_slides']} slides")


def join_tables(features: Path, labels: Path, out: Path) -> Path:
    """Write one table for `--dataset csv_features` from the published ones."""
    with labels.open(newline="", encoding="utf-8") as file:
        truth = {row["slide_id"]: row for row in csv.DictReader(file)}
    rows: list[dict[str, str]] = []
    for name, split in PARTS.items():
        with (features / name).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                slide_id = row.pop("name").removesuffix(".tif")
                known = truth.get(slide_id, {})
                tumor = known["label"] == "tumor" if split == "test" else row["tumor"] == "1"
                row.pop("tumor")
                row.pop("")  # number of the row
                head = {"slide_id": slide_id, "label": str(int(tumor)), "split": split}
                rows.append({**head, "metastasis": known.get("metastasis", ""), **row})
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    write_atomic(out, "\n".join(lines) + "\n")
    return out


def run(manifest: Path, out: Path, classifier: str) -> dict[str, object]:
    """Train and evaluate through the recipes of the command line; return the metrics."""
    how = {"dataset": "csv_features", "manifest": str(manifest), "runs": str(out), "name": classifier}
    train.run(TrainConfig(**how, classifier=classifier, overwrite=True))
    evaluate.run(EvaluateConfig(run=str(out / classifier), metric="all", bootstrap=10_000))
    content: dict[str, object] = json.loads((out / classifier / "evaluation" / "metrics.json").read_text())
    return content


if __name__ == "__main__":
    main()

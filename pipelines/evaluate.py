"""Recipe: a trained run and its held-out slides to metrics, a table and figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from wsi_vmamba.pipelines.train import load_records, newest_run

from wsi_vmamba import console
from wsi_vmamba.bags import BagLoader, SlideRecord, load_bag
from wsi_vmamba.config import EvaluateConfig, TrainConfig, resolve_config
from wsi_vmamba.datasets.presence import require_features
from wsi_vmamba.errors import DatasetError
from wsi_vmamba.metrics import METRICS
from wsi_vmamba.metrics.base import MetricResult
from wsi_vmamba.provenance import write_run_record, write_text_atomic
from wsi_vmamba.training import Prediction, Run, load_run, predict


class Scored(NamedTuple):
    """One slide with what the model says of it; the bag itself is not kept, a data set may not fit in memory."""

    record: SlideRecord
    cells: int
    prediction: Prediction


def run(config: EvaluateConfig) -> int:
    """Score the slides of a split, print the metric with its interval and save everything; return 0."""
    folder = Path(config.run) if config.run else newest_run(Path(config.runs))
    trained = load_run(folder)
    how = resolve_config(TrainConfig, file=folder / "train.yaml")
    features = Path(config.features or how.features)
    scored = score_split(config.split, how, trained, features)
    labels = np.array([item.record.label for item in scored])
    scores = np.array([item.prediction.probability for item in scored])
    result: MetricResult = METRICS.resolve(config.metric)(
        labels, scores, resamples=config.bootstrap, seed=config.seed
    )
    out = Path(config.out) if config.out else folder / "evaluation"
    save_results(out, config, scored, result)
    draw_heatmaps(out / "heatmaps", scored, features, count=config.heatmaps)
    low, high = result.ci95
    console.say(
        f"{config.metric} {result.value:.4f} (95 % interval {low:.4f}-{high:.4f}) on {len(scored)} {config.split} "
        f"slides of {folder} ({int(labels.sum())} positive)"
    )
    if note := result.to_dict().get("note"):
        console.say(f"note: {note}")
    console.say(f"per-slide scores, metrics and figures: {out}")
    return 0


def score_split(split: str, how: TrainConfig, trained: Run, features: Path) -> list[Scored]:
    """Predict every labelled slide of the split with the run's best model.

    Raises:
        DatasetError: the split has no labelled slide.
        MissingDataError: a slide of the split has no features.
    """
    records = [
        record
        for record in load_records(how)
        if record.label is not None and trained.splits.get(record.slide_id, record.split) == split
    ]
    if not records:
        raise DatasetError(f"{how.dataset}: no labelled slide in split {split!r}; choose another --split")
    require_features(records, features, dataset=how.dataset)
    loader = BagLoader(features, cache_bytes=0)  # each bag is used once
    with console.progress("score", len(records)) as task:
        scored = []
        for record in records:
            bag = loader(record)
            scored.append(Scored(record, len(bag.features), predict(trained.model, bag)))
            task.step(record.slide_id)
    return scored


def save_results(out: Path, config: EvaluateConfig, scored: Sequence[Scored], result: MetricResult) -> None:
    """Write slides.csv, metrics.json, the ROC curve and the provenance."""
    from wsi_vmamba.report import plots

    out.mkdir(parents=True, exist_ok=True)
    write_text_atomic(out / "slides.csv", _slides_csv(scored))
    content = {
        "metric": config.metric,
        "split": config.split,
        "slides": len(scored),
        config.metric: result.to_dict(),
    }
    write_text_atomic(out / "metrics.json", json.dumps(content, indent=2) + "\n")
    labels = np.array([item.record.label for item in scored])
    scores = np.array([item.prediction.probability for item in scored])
    plots.plot_roc(labels, scores, out)
    write_run_record(out, command="evaluate", config=config, facts={"device": "cpu"})


def draw_heatmaps(out: Path, scored: Sequence[Scored], features: Path, *, count: int) -> None:
    """Draw the attention over the ``count`` slides with the highest scores."""
    from wsi_vmamba.report import heatmap

    ranked = sorted(scored, key=lambda item: -item.prediction.probability)
    for item in ranked[:count]:
        heatmap.draw_attention(item.record, load_bag(item.record, features), item.prediction, out)


def _slides_csv(scored: Sequence[Scored]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("slide_id", "patient_id", "label", "probability", "cells"))
    for record, cells, prediction in scored:
        writer.writerow(
            (
                record.slide_id,
                record.patient_id,
                record.label,
                repr(prediction.probability),
                cells,
            )
        )
    return text.getvalue()

"""The slides of a run's data set: how many, of which label, in which split, of how many patients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wsi_vmamba.datasets import FEATURE_TABLES
from wsi_vmamba.datasets.csv_features import read_feature_table
from wsi_vmamba.evaluation.run_scores import ScoredRun
from wsi_vmamba.html_report.markup import Html, table
from wsi_vmamba.records import SPLITS, SlideRecord
from wsi_vmamba.training.folders import fold_folder
from wsi_vmamba.training.resolve import load_records
from wsi_vmamba.training.run import SPLITS as SPLITS_FILE
from wsi_vmamba.training.run import read_splits


def cohort_table(run: ScoredRun) -> Html:
    """A row a split, and one for all."""
    records = _records(run)
    names = run.classes or ("negative", "positive")
    by_split: dict[str, list[SlideRecord]] = defaultdict(list)
    for record in records:
        by_split[record.split or "train"].append(record)
    rows = [
        _row(split, by_split[split], n_classes=len(names))
        for split in (*SPLITS, *sorted(set(by_split) - set(SPLITS)))
        if by_split[split]
    ]
    rows.append(_row("all", records, n_classes=len(names)))
    columns = ("split", "slides", *names[::-1], "without a label", "patients")
    caption = f"{len(records)} slides of the data set {run.train_config.dataset}"
    if run.folds is not None:
        caption += "; those of the cross-validation as in its first fold"
    return table(columns, rows, caption=caption)


def _records(run: ScoredRun) -> list[SlideRecord]:
    """All slides, each with the split that the run put it into."""
    config = run.train_config
    if config.dataset in FEATURE_TABLES:
        return list(read_feature_table(Path(config.manifest) if config.manifest else None).records)
    folder = run.folder if run.folds is None else fold_folder(run.folder, 1)
    splits = read_splits(folder) if (folder / SPLITS_FILE).is_file() else {}
    return [replace(one, split=splits.get(one.slide_id) or one.split) for one in load_records(config)]


def _row(name: str, records: Sequence[SlideRecord], *, n_classes: int) -> tuple[object, ...]:
    labels = [record.label for record in records]
    return (
        name, len(records), *map(labels.count, range(n_classes - 1, -1, -1)), labels.count(None),
        len({record.patient_id for record in records}),
    )  # fmt: skip

"""What was made of slides, as a source: features, a trained run, predictions. Reads tables only; no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsi_vmamba.config import TrainConfig, resolve_config
from wsi_vmamba.datasets import FEATURE_TABLES, load_dataset
from wsi_vmamba.errors import StoreError, UsageError, WsiVmambaError
from wsi_vmamba.folder_kinds import PREDICTION_RECORD, feature_files, is_feature_file
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.slide.location import place_of
from wsi_vmamba.table import Row, read_table
from wsi_vmamba.text import printable
from wsi_vmamba.training.folders import CONFIG
from wsi_vmamba.view.feature_rows import FeatureRows, find_slide
from wsi_vmamba.view.patches import PatchModel
from wsi_vmamba.view.row import SlideRow
from wsi_vmamba.view.sources import Source, title_of

_PREDICTIONS = "predictions.csv"
_SPLITS, _SCORES, _METRICS = "splits.csv", "slides.csv", "metrics.json"
_EVALUATION = "evaluation"
_DECISIONS = {"positive": 1, "negative": 0}
#: Columns of predictions.csv that stand beside each slide.
_SHOWN = ("probability_sd", "models", "unlike", "unlike_why", "feature_distance")


def features_source(path: Path, *, slides: Path | None) -> Source:
    """One feature file, or a folder of them.

    Args:
        path: the file or folder.
        slides: where slides are looked for that were moved.
    """
    reader = FeatureRows(slides)
    is_one = is_feature_file(path)

    def rows() -> list[SlideRow]:
        moved = reader.moved_slides()
        return [reader.row(each, moved) for each in ([path] if is_one else feature_files(path))]

    folder = path.parent if is_one else path
    return Source(kind="features", title=title_of(path), rows=rows, drawings=folder / "drawings")


def run_source(folder: Path, *, slides: Path | None, model: Callable[[Path, Path], PatchModel]) -> Source:
    """A trained run: the slides of its data set with labels, splits, and scores where it was evaluated.

    Args:
        folder: of the run.
        slides: where slides are looked for that were moved.
        model: makes, from the run's folder and that of its features, what answers for its patches.

    Raises:
        UsageError: it is of rows of numbers, which have no slides.
    """
    config = resolve_config(TrainConfig, file=folder / CONFIG)
    if config.dataset in FEATURE_TABLES:
        raise UsageError(f"{folder} was trained on a table of numbers; there are no slides to look at")
    features = _near(folder, config.features)
    reader = FeatureRows(slides)
    manifest = None if config.manifest is None else _near(folder, config.manifest)

    def rows() -> list[SlideRow]:
        moved, scores = reader.moved_slides(), _scores(folder)
        splits = _table(folder / _SPLITS)
        records = load_dataset(config.dataset, manifest=manifest, classes=config.classes)
        found = [
            _with_scores(
                _of_record(record, features, reader, moved),
                splits,
                scores,
                key=record.patient_id if config.bag == "patient" else record.slide_id,
            )
            for record in records
        ]
        return sorted(found, key=lambda row: row.name)

    return Source(
        kind="run", title=title_of(folder), rows=rows, drawings=folder / "drawings", threshold=_threshold(folder),
        model=model(folder, features),
    )  # fmt: skip


def prediction_source(folder: Path, *, slides: Path | None) -> Source:
    """What `predict` left: slides with scores and values of their patches.

    Raises:
        StoreError: its record is damaged.
    """
    facts = _json(folder / PREDICTION_RECORD)
    reader = FeatureRows(slides)
    threshold = facts.get("threshold")
    features = (
        place_of(str(facts["features"])) if isinstance(facts.get("features"), str) else folder / "features"
    )

    def rows() -> list[SlideRow]:
        moved = reader.moved_slides()
        found = [
            _predicted(row, folder, Path(features), reader, moved)
            for row in _table(folder / _PREDICTIONS).values()
        ]
        return sorted(found, key=lambda row: row.name)

    return Source(
        kind="prediction", title=title_of(folder), rows=rows, drawings=folder / "drawings",
        threshold=threshold if isinstance(threshold, float) else None,
    )  # fmt: skip


def _of_record(
    record: SlideRecord, features: Path, reader: FeatureRows, moved: Mapping[str, Path]
) -> SlideRow:
    """The row of a slide of a data set."""
    path = features / f"{record.slide_id}.zarr"
    name = printable(record.slide_id)
    if path.is_dir():
        row = reader.row(path, moved, place=record.path)
    else:
        place = find_slide(name, moved, record.path)
        row = SlideRow(
            name=name, place=place, problem="" if place else "neither its slide nor its features are there"
        )
    return replace(
        row, name=name, label=record.label_name or record.label, split=record.split, patient=record.patient_id,
        mpp=row.mpp if record.mpp is None else record.mpp,
        annotation=record.annotation if record.annotation is not None and record.annotation.is_file() else None,
        extra=dict(record.attributes),
    )  # fmt: skip


def _with_scores(
    row: SlideRow, splits: Mapping[str, Row], scores: Mapping[str, Row], *, key: str
) -> SlideRow:
    """The row of a slide with the split and the score of ``key``: its own, or those of its patient."""
    split, score = splits.get(key), scores.get(key)
    if split is not None:
        row = replace(row, split=split.get("split") or row.split)
    if score is None:
        return row
    called = score.get("called")
    return replace(row, score=_number(score.get("probability")), decision=_decision(called))


def _decision(called: str) -> int | str | None:
    """What a slide is called: 0, 1, or the name of a class."""
    return int(called) if called in {"0", "1"} else called or None


def _predicted(
    found: Row, folder: Path, features: Path, reader: FeatureRows, moved: Mapping[str, Path]
) -> SlideRow:
    """The row of a slide that was predicted."""
    name = found["slide_id"]
    place = place_of(found.get("path")) if found.get("path") else None
    path = features / f"{name}.zarr"
    values = folder / "patches" / f"{name}.safetensors"
    why = (found.get("detail") or "it could not be predicted") if found.get("outcome") == "failed" else ""
    if path.is_dir():
        row = reader.row(path, moved, place=place)
    else:
        row = SlideRow(name=name, place=find_slide(name, moved, place), mpp=_number(found.get("mpp")))
    unlike = found.get("unlike")
    notes = [
        row.warning,
        found.get("unlike_why") if unlike not in {"", "not checked"} else "",
        found.get("detail"),
    ]
    return replace(
        row, name=printable(name), score=_number(found.get("probability")),
        decision=_DECISIONS.get(found.get("decision"), found.get("decision") or None),
        prediction=values if values.is_file() else None,
        problem=row.problem or (why if row.place is None else ""),
        warning="; ".join(note for note in notes if note),
        extra={column: found.get(column) for column in _SHOWN if found.get(column)},
    )  # fmt: skip


def _table(path: Path) -> dict[str, Row]:
    """The lines of a table by slide; none where it is not there."""
    if not path.is_file():
        return {}
    table = read_table(path, expects=("slide_id",), error=StoreError)
    table.require(("slide_id",))
    return {row["slide_id"]: row for row in table.rows}


def _scores(folder: Path) -> dict[str, Row]:
    try:
        return _table(folder / _EVALUATION / _SCORES)
    except (
        WsiVmambaError
    ):  # an evaluation that is being written or was edited takes its scores away, not the slides
        return {}


def _threshold(folder: Path) -> float | None:
    path = folder / _EVALUATION / _METRICS
    if not path.is_file():
        return None
    try:
        found = _json(path)["slide_metrics"]["balanced_accuracy"]["threshold"]
    except (StoreError, KeyError, TypeError):
        return None
    return float(found) if isinstance(found, int | float) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise StoreError(f"{path} is damaged: expected a JSON object")
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def _near(folder: Path, text: str) -> Path:
    """A path of a run's configuration; relative ones meant where the training was started, which is not known.

    The current folder is tried first, then those above the run.
    """
    path = Path(text).expanduser()
    if path.is_absolute():
        return path
    places = (Path.cwd(), *folder.absolute().parents)
    return next((place / path for place in places if (place / path).exists()), path)

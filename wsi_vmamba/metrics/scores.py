"""Slide scores from a CSV that any program may have written."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba.errors import MetricError, UnknownNameError
from wsi_vmamba.metrics.base import Labels, Scores, check_binary


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Labels and scores of N slides, checked; labels and scores have shape (N,), groups N names where known."""

    slide_ids: tuple[str, ...]
    labels: Labels
    scores: Scores
    groups: tuple[str, ...] | None = None


def read_scores(
    path: Path,
    *,
    score_column: str,
    label_column: str = "label",
    id_column: str = "slide_id",
    positive: str | None = None,
    group_columns: Sequence[str] = (),
) -> ScoreTable:
    """Read one score a slide.

    Args:
        path: CSV with a header.
        score_column: holds the scores, higher meaning more likely positive.
        label_column: holds 0 and 1, or names.
        id_column: holds the names of the slides; where the file has no such column, lines stand for slides.
        positive: name of the positive class where labels are names; every other name is then negative.
        group_columns: the first of these that the file has tells the group of each slide.

    Raises:
        UnknownNameError: the file has no such column; the message lists those it has.
        MetricError: the file cannot be read, or labels or scores are not usable.
    """
    rows = _read_rows(path)
    for column in (score_column, label_column):
        if column not in rows[0]:
            raise UnknownNameError(f"column of {path}", column, rows[0])
    ids = tuple(row.get(id_column) or f"line {line}" for line, row in enumerate(rows, start=2))
    names = [row[label_column].strip() for row in rows]
    if positive is not None and positive not in names:
        raise MetricError(f"{path}: no slide is labelled {positive!r}; labels present: {_listed(names)}")
    labels = [
        _label(name, positive=positive, where=f"{path}: {slide}")
        for name, slide in zip(names, ids, strict=True)
    ]
    scores = [
        _score(row[score_column], where=f"{path}: {slide}") for row, slide in zip(rows, ids, strict=True)
    ]
    checked_labels, checked_scores = check_binary(labels, scores, slide_ids=ids)
    groups = next((column for column in group_columns if column in rows[0]), None)
    return ScoreTable(
        slide_ids=ids,
        labels=checked_labels,
        scores=checked_scores,
        groups=None if groups is None else tuple(row[groups].strip() for row in rows),
    )


def _read_rows(path: Path) -> list[Mapping[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows: list[Mapping[str, str]] = list(csv.DictReader(file, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MetricError(f"{path}: cannot be read as a CSV in UTF-8: {error}") from error
    if not rows:
        raise MetricError(f"{path} holds no scores; expected a header and one line a slide")
    return rows


def _label(name: str, *, positive: str | None, where: str) -> int:
    if positive is not None and name:
        return int(name == positive)
    if name not in ("0", "1"):
        raise MetricError(f"{where}: label must be 0 or 1, got {name!r}; of names, say which one is positive")
    return int(name)


def _score(cell: str, *, where: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise MetricError(f"{where}: the score must be a number, got {cell!r}") from None


def _listed(names: list[str]) -> str:
    return ", ".join(sorted(set(names))[:10])

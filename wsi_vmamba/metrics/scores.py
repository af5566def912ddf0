"""Slide scores from a CSV written by any program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba.cells import Cell, read_label
from wsi_vmamba.errors import MetricError, UnknownNameError
from wsi_vmamba.metrics.base import Labels, Scores, check_binary
from wsi_vmamba.slide.same_name import alike, shortened
from wsi_vmamba.table import Table, read_table

_OF_NAMES = "; of names, say which one is positive"


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
    """Read one score per slide.

    Args:
        path: CSV with a header, see `read_table`.
        score_column: holds the scores, higher meaning more likely positive.
        label_column: holds 0 and 1, true and false, or names.
        id_column: holds the names of the slides; where the file has no such column, lines stand for slides.
        positive: name of the positive class where labels are names; every other name is then negative.
        group_columns: the first of these that the file has tells the group of each slide.

    Raises:
        UnknownNameError: the file has no such column; the message lists those it has.
        MetricError: the file cannot be read, labels or scores are not usable, or two slides have almost one name.
    """
    table = read_table(path, expects=(score_column, label_column), error=MetricError)
    if not table.rows:
        raise MetricError(f"{path} holds no scores; expected a header and one line per slide")
    for column in (score_column, label_column):
        if column not in table.columns:
            raise UnknownNameError(f"column of {path}", column, table.columns)
    table.refuse_near((id_column,))
    ids = tuple(row.get(id_column) or f"line {row.line}" for row in table.rows)
    labels = _labels(table, ids, label_column=label_column, positive=positive)
    scores = table.numbers(
        [
            Cell(row[score_column], f"the score of {slide}", row.where)
            for row, slide in zip(table.rows, ids, strict=True)
        ]
    )
    if lost := shortened(ids):
        raise MetricError(f"{path}: {lost}")
    if same := alike(ids):
        raise MetricError(f"{path}: {same}; if they are one slide, keep one line, else rename one")
    checked_labels, checked_scores = check_binary(labels, scores, slide_ids=ids)
    groups = next((column for column in group_columns if column in table.columns), None)
    return ScoreTable(
        slide_ids=ids,
        labels=checked_labels,
        scores=checked_scores,
        groups=None if groups is None else tuple(row[groups] for row in table.rows),
    )


def _labels(table: Table, ids: Sequence[str], *, label_column: str, positive: str | None) -> list[int]:
    names = {row[label_column] for row in table.rows}
    labels = []
    for row, slide in zip(table.rows, ids, strict=True):
        cell = row.cell(label_column, what=f"the label of {slide}")
        label = read_label(cell, positive=positive, error=MetricError, remedy=_OF_NAMES)
        if label is None:
            raise MetricError(f"{row.where}: {slide} has no label; leave it out, or label it")
        labels.append(label)
    if positive is not None and positive not in names:
        raise MetricError(
            f"{table.path}: no slide is labelled {positive!r}; labels present: {', '.join(sorted(names)[:10])}"
        )
    return labels

"""Slide scores from a CSV written by any program."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_vmamba.cells import Cell, read_label
from wsi_vmamba.errors import MetricError, UnknownNameError
from wsi_vmamba.metrics.base import Labels, Scores, check_binary, check_unique
from wsi_vmamba.metrics.classes import check_classes
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
    table, ids = _read(path, (score_column, label_column), id_column=id_column)
    labels = _labels(table, ids, label_column=label_column, positive=positive)
    scores = _numbers(table, ids, score_column)
    checked_labels, checked_scores = check_binary(labels, scores, slide_ids=ids)
    groups = next((column for column in group_columns if column in table.columns), None)
    return ScoreTable(
        slide_ids=ids,
        labels=checked_labels,
        scores=checked_scores,
        groups=None if groups is None else tuple(row[groups] for row in table.rows),
    )


@dataclass(frozen=True, kw_only=True)
class ClassScoreTable:
    """Labels of N slides, numbers of classes (N,), and the probability of each of K classes, (N, K), checked."""

    slide_ids: tuple[str, ...]
    labels: Labels
    shares: Scores
    classes: tuple[str, ...]


def read_class_scores(
    path: Path, *, score_columns: Sequence[str], label_column: str = "label", id_column: str = "slide_id"
) -> ClassScoreTable:
    """Read the probabilities of several classes of each slide.

    A column is called as its class, ``luad``, or all of them are with the same beginning, ``probability_luad``.

    Args:
        path: CSV with a header, see `read_table`.
        score_columns: one for each class, in the order of the classes.
        label_column: holds the names of classes.
        id_column: see `read_scores`.

    Raises:
        UnknownNameError: the file has no such column, or a label is of no class.
        MetricError: the file cannot be read, probabilities are not usable, or two slides have almost one name.
    """
    table, ids = _read(path, (*score_columns, label_column), id_column=id_column)
    found = [row[label_column] for row in table.rows]
    classes = _classes(score_columns, set(found))
    for row, label in zip(table.rows, found, strict=True):
        if label not in classes:
            raise MetricError(
                f"{row.where}: the label {label!r} is of no class; the columns of scores are of {', '.join(classes)}: "
                "give one for each class, called as the labels are"
            )
    columns = [_numbers(table, ids, column) for column in score_columns]
    check_unique(ids, expected=len(ids))
    labels, shares = check_classes([classes.index(label) for label in found], np.transpose(columns))
    return ClassScoreTable(slide_ids=ids, labels=labels, shares=shares, classes=classes)


def _classes(columns: Sequence[str], labels: Set[str]) -> tuple[str, ...]:
    """What classes the columns are of: as they are called, else without what all their names begin with."""
    if labels <= set(columns):
        return tuple(columns)
    first = columns[0]
    beginnings = (first[: place + 1] for place, sign in enumerate(first) if sign == "_")
    shared = [one for one in beginnings if all(column.startswith(one) for column in columns)]
    return tuple(column.removeprefix(shared[-1] if shared else "") for column in columns)


def _read(path: Path, columns: Sequence[str], *, id_column: str) -> tuple[Table, tuple[str, ...]]:
    """A table with these columns, and the names of its slides."""
    table = read_table(path, expects=columns, error=MetricError)
    if not table.rows:
        raise MetricError(f"{path} holds no scores; expected a header and one line per slide")
    for column in columns:
        if column not in table.columns:
            raise UnknownNameError(f"column of {path}", column, table.columns)
    table.refuse_near((id_column,))
    ids = tuple(row.get(id_column) or f"line {row.line}" for row in table.rows)
    if lost := shortened(ids):
        raise MetricError(f"{path}: {lost}")
    if same := alike(ids):
        raise MetricError(f"{path}: {same}; if they are one slide, keep one line, else rename one")
    return table, ids


def _numbers(table: Table, ids: Sequence[str], column: str) -> list[float]:
    return table.numbers(
        [
            Cell(row[column], f"the score of {slide}", row.where)
            for row, slide in zip(table.rows, ids, strict=True)
        ]
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

"""Fitting a classifier on a table of slides, and the folder that keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import skops.io
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold
from skops.io.exceptions import UntrustedTypesFoundException

from wsi_vmamba.datasets.csv_features import FeatureTable
from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.errors import DatasetError, TrainingError, WeightsError
from wsi_vmamba.records import SlideRecord, check_records
from wsi_vmamba.table import read_table
from wsi_vmamba.tabular import CLASSIFIERS
from wsi_vmamba.tabular.folder import DESCRIPTION, MODEL, VALIDATION

#: The one type that skops does not vouch for; `_check_trees` does.
_TREE = "sklearn.tree._tree.Tree"
#: Parts of the training slides, each scored by a classifier fitted on the others.
N_FOLDS = 5

Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TabularRun:
    """A fitted classifier, the features it wants, and what it said of slides that it had not seen.

    Attributes:
        estimator: of scikit-learn, fitted.
        names: columns of the features, in the order of the fit.
        validation: slide_id -> probability, each from a classifier that was not fitted on that slide.
        validation_labels: slide_id -> label of the same slides.
    """

    estimator: Any
    names: tuple[str, ...]
    validation: Mapping[str, float]
    validation_labels: Mapping[str, int]

    def predict(self, table: FeatureTable, slide_ids: Sequence[str]) -> Scores:
        """Probability of label 1 of each slide, (N,).

        Raises:
            DatasetError: the table has other features.
        """
        if table.names != self.names:
            odd = sorted(set(table.names) ^ set(self.names)) or ["the same ones in another order"]
            raise DatasetError(
                f"the classifier was fitted on other features than the table has: {', '.join(odd[:5])}"
            )
        probability: Scores = self.estimator.predict_proba(table.rows(slide_ids))[:, 1]
        return probability


def fit(table: FeatureTable, *, classifier: str, seed: int) -> TabularRun:
    """Fit a classifier on the training slides of a table.

    Without validation slides in the table, the training slides are scored in `N_FOLDS` parts that never divide a
    patient, each by a classifier fitted on the other parts; the one that is kept is fitted on all of them.

    Raises:
        DatasetError: a training slide has no label, or a label is missing altogether.
    """
    check_records(table.records)
    training = [record for record in table.records if record.split in ("train", None)]
    validation = [record for record in table.records if record.split == "validation"]
    labels = _labels(training)
    if len(set(labels.tolist())) != 2:
        raise DatasetError(
            "training needs slides of both labels, 0 and 1; add slides or correct the split column"
        )
    values = table.rows([record.slide_id for record in training])
    build = CLASSIFIERS.resolve(classifier)
    estimator = build(seed=seed).fit(values, labels)
    if validation:
        held_out = [record.slide_id for record in validation]
        scores = estimator.predict_proba(table.rows(held_out))[:, 1]
        truth = _labels(validation)
    else:
        held_out, truth = [record.slide_id for record in training], labels
        scores = _out_of_fold(build, values, labels, [record.patient_id for record in training], seed=seed)
    return TabularRun(
        estimator=estimator,
        names=table.names,
        validation=dict(zip(held_out, scores.tolist(), strict=True)),
        validation_labels=dict(zip(held_out, truth.tolist(), strict=True)),
    )


def save(folder: Path, run: TabularRun, *, classifier: str, seed: int) -> None:
    """Write the classifier, its description and its validation scores."""
    rows = (
        (slide_id, run.validation_labels[slide_id], repr(score)) for slide_id, score in run.validation.items()
    )
    write_atomic(folder / VALIDATION, csv_text(("slide_id", "label", "probability"), rows))
    description = {"classifier": classifier, "seed": seed, "features": list(run.names)}
    write_atomic(folder / DESCRIPTION, (json.dumps(description, indent=2) + "\n"))
    write_atomic(folder / MODEL, skops.io.dumps(run.estimator))


def load(folder: Path) -> TabularRun:
    """Read a run; nothing in the file is executed, and types other than scikit-learn's and NumPy's are refused.

    Raises:
        TrainingError: the folder holds no such run, or it is damaged.
        WeightsError: the classifier's file holds something else than a classifier.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        names = tuple(map(str, description["features"]))
        validation, truth = _read_validation(folder / VALIDATION)
        content = (folder / MODEL).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder} is damaged ({type(error).__name__}: {error}); train again") from error
    try:
        estimator = skops.io.loads(content, trusted=[_TREE])
    except (UntrustedTypesFoundException, OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise WeightsError(f"{folder / MODEL}: not a classifier this package wrote: {error}") from error
    _check_trees(estimator, n_features=len(names), where=folder / MODEL)
    return TabularRun(estimator=estimator, names=names, validation=validation, validation_labels=truth)


def _read_validation(path: Path) -> tuple[dict[str, float], dict[str, int]]:
    """Probability and label by slide_id.

    Raises:
        TrainingError: the file is missing or damaged.
        ValueError: a label is none.
    """
    columns = ("slide_id", "label", "probability")
    table = read_table(path, expects=columns, error=TrainingError)
    table.require(columns)
    ids = [row["slide_id"] for row in table.rows]
    scores = table.numbers([row.cell("probability") for row in table.rows])
    labels = [int(row["label"]) for row in table.rows]
    return dict(zip(ids, scores, strict=True)), dict(zip(ids, labels, strict=True))


def _out_of_fold(
    build: Any, values: Scores, labels: NDArray[np.int64], patients: Sequence[str], *, seed: int
) -> Scores:
    """Probability of each training slide from a classifier that saw neither it nor its patient."""
    rarest = min(
        len({p for p, label in zip(patients, labels, strict=True) if label == one}) for one in (0, 1)
    )
    if rarest < 2:
        raise DatasetError("validation needs at least two patients of each label among the training slides")
    scores = np.empty(len(labels))
    parts = StratifiedGroupKFold(n_splits=min(N_FOLDS, rarest), shuffle=True, random_state=seed)
    for kept, held_out in parts.split(values, labels, groups=patients):
        scores[held_out] = (
            build(seed=seed).fit(values[kept], labels[kept]).predict_proba(values[held_out])[:, 1]
        )
    return scores


def _check_trees(estimator: Any, *, n_features: int, where: Path) -> None:
    """Refuse a forest whose nodes point outside of it: scikit-learn follows them without looking.

    Raises:
        WeightsError: a node's children or feature do not exist.
    """
    for member in getattr(estimator, "estimators_", ()):
        tree = member.tree_
        left, right, feature = tree.children_left, tree.children_right, tree.feature
        inner = left != -1
        here = np.arange(tree.node_count)[inner]
        # Children come after their parent, so every path ends.
        sound = all(((side[inner] > here) & (side[inner] < tree.node_count)).all() for side in (left, right))
        named = ((feature[inner] >= 0) & (feature[inner] < n_features)).all()
        if not (sound and named and (right[~inner] == -1).all()):
            raise WeightsError(f"{where}: a tree of the forest is damaged; train again")


def _labels(records: Sequence[SlideRecord]) -> NDArray[np.int64]:
    unknown = [record.slide_id for record in records if record.label is None]
    if unknown:
        raise DatasetError(
            f"{len(unknown)} slides have no label ({', '.join(unknown[:5])}); label them or leave them out"
        )
    return np.array([record.label for record in records], dtype=np.int64)

"""Classifiers of rows: what they see, what they keep, and what they refuse to read."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from wsi_vmamba.datasets.csv_features import FeatureTable, read_feature_table
from wsi_vmamba.errors import DatasetError, TrainingError, UsageError, WeightsError
from wsi_vmamba.tabular import CLASSIFIERS, classifiers
from wsi_vmamba.tabular.folder import MODEL, refuse_existing
from wsi_vmamba.tabular.run import fit, load, save


@pytest.fixture(autouse=True)
def _fewer_trees(monkeypatch):
    def forest(*, n_estimators, random_state):
        return RandomForestClassifier(n_estimators=n_estimators // 20, random_state=random_state)

    monkeypatch.setattr(classifiers, "RandomForestClassifier", forest)


def make_table(
    folder: Path, *, n: int = 60, informative: bool = True, validation: bool = False
) -> FeatureTable:
    generator = np.random.default_rng(3)
    lines = ["slide_id,patient_id,label,split,metastasis,a,b"]
    for index in range(n):
        label = index % 2
        a, b = generator.normal(size=2) + (2 * label if informative else 0)
        split = "test" if index >= n - 10 else ("validation" if validation and index < 12 else "train")
        lines.append(f"s{index:02d},p{index // 2:02d},{label},{split},none,{a},{b}")
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return read_feature_table(folder / "t.csv")


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_saved_classifier_says_the_same_again(tmp_path, classifier):
    table = make_table(tmp_path, validation=True)
    fitted = fit(table, classifier=classifier, seed=0)
    save(tmp_path / "run", fitted, classifier=classifier, seed=0)
    again = load(tmp_path / "run")
    names = [record.slide_id for record in table.records if record.split == "test"]
    assert again.predict(table, names).tolist() == fitted.predict(table, names).tolist()
    assert again.validation == fitted.validation
    assert again.validation_labels == fitted.validation_labels
    labels = [record.label for record in table.records if record.split == "test"]
    assert roc_auc_score(labels, again.predict(table, names)) > 0.9


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_validation_scores_come_from_slides_not_seen(tmp_path, classifier):
    # On noise a forest scores its own training slides almost perfectly; held-out slides tell the truth.
    table = make_table(tmp_path, n=120, informative=False)
    fitted = fit(table, classifier=classifier, seed=0)
    labels = list(fitted.validation_labels.values())
    assert len(labels) == 110
    assert roc_auc_score(labels, list(fitted.validation.values())) < 0.7


def test_validation_slides_of_the_table_are_not_trained_on(tmp_path):
    table = make_table(tmp_path, validation=True)
    fitted = fit(table, classifier="logistic_regression", seed=0)
    assert sorted(fitted.validation) == [f"s{index:02d}" for index in range(12)]
    seen = [r.slide_id for r in table.records if r.split == "train"]
    alone = FeatureTable(
        records=tuple(r for r in table.records if r.split == "train"),
        names=table.names,
        values=table.rows(seen),
    )
    other = fit(alone, classifier="logistic_regression", seed=0)
    assert other.predict(table, ["s00"]).tolist() == [fitted.validation["s00"]]


def test_a_pickle_is_never_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    save(
        tmp_path, fit(make_table(tmp_path), classifier="logistic_regression", seed=0), classifier="x", seed=0
    )
    (tmp_path / MODEL).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(WeightsError, match="not a classifier this package wrote"):
        load(tmp_path)
    (tmp_path / MODEL).write_bytes(skops.io.dumps(Path(tmp_path)))
    with pytest.raises(WeightsError, match="not a classifier this package wrote"):
        load(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("array", "value"), [("children_left", 10_000), ("children_right", 0), ("feature", 7)]
)
def test_a_tree_that_points_outside_itself_is_refused(tmp_path, array, value):
    fitted = fit(make_table(tmp_path, validation=True), classifier="random_forest", seed=0)
    getattr(fitted.estimator.estimators_[3].tree_, array)[0] = value
    save(tmp_path / "run", fitted, classifier="random_forest", seed=0)
    with pytest.raises(WeightsError, match="a tree of the forest is damaged"):
        load(tmp_path / "run")


def test_other_features_are_refused_by_name(tmp_path):
    table = make_table(tmp_path)
    fitted = fit(table, classifier="logistic_regression", seed=0)
    other = FeatureTable(records=table.records, names=("a", "c"), values=table.values)
    with pytest.raises(DatasetError, match="other features than the table has: b, c"):
        fitted.predict(other, ["s00"])
    swapped = FeatureTable(records=table.records, names=("b", "a"), values=table.values[:, ::-1])
    with pytest.raises(DatasetError, match="another order"):
        fitted.predict(swapped, ["s00"])


def test_a_run_is_not_replaced_by_accident(tmp_path):
    fitted = fit(make_table(tmp_path), classifier="logistic_regression", seed=0)
    save(tmp_path / "run", fitted, classifier="logistic_regression", seed=0)
    with pytest.raises(UsageError, match="--overwrite"):
        refuse_existing(tmp_path / "run", overwrite=False)
    refuse_existing(tmp_path / "run", overwrite=True)
    with pytest.raises(TrainingError, match="damaged"):
        load(tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide_id,label,metastasis\na,1,none\n", "no column holds features"),
        (
            "slide_id,label,a\na,1,high\n",
            "line 2: column a of a must be a number, got 'high'; columns that hold no",
        ),
        ("slide_id,label,a\na,1,\n", "line 2: column a of a must be a number, got ''"),
        ("slide_id,label,a\na,1,inf\n", "line 2: column a of a must be a finite number, got 'inf'"),
    ],
)
def test_tables_that_are_no_features_are_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_feature_table(tmp_path / "t.csv")


def test_one_label_is_not_enough(tmp_path):
    (tmp_path / "t.csv").write_text("slide_id,label,split,a\na,1,train,1\nb,1,train,2\nc,0,test,3\n")
    with pytest.raises(DatasetError, match="both labels"):
        fit(read_feature_table(tmp_path / "t.csv"), classifier="random_forest", seed=0)

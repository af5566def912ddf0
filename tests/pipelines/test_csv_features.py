"""A real train-to-test run on CAMELYON16: heatmap features through `train` and `evaluate`."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from wsi_vmamba import cli
from wsi_vmamba.config import EvaluateConfig, TrainConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.pipelines import evaluate, train

ROOT = Path(__file__).resolve().parents[2]


def _benchmark():
    """The script that joins the published tables, which is no part of the package."""
    spec = importlib.util.spec_from_file_location(
        "heatmap_features", ROOT / "benchmarks" / "heatmap_features.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def published(real_data, tmp_path_factory):
    folder = real_data / "camelyon16"
    out = tmp_path_factory.mktemp("tables") / "slides.csv"
    manifest = _benchmark().join_tables(folder / "heatmap_features", folder / "test_labels.csv", out)
    expected = json.loads((folder / "heatmap_features" / "expected.json").read_text())
    return manifest, next(one for one in expected["sets"] if one["chosen"])


@pytest.mark.parametrize(("classifier", "key", "tolerance"), [
    pytest.param("random_forest", "rf", 0.01, marks=pytest.mark.slow), ("logistic_regression", "lr", 1e-4),
])  # fmt: skip
def test_published_features_give_the_published_auc(published, tmp_path, classifier, key, tolerance):
    manifest, want = published
    how = {
        "dataset": "csv_features",
        "manifest": str(manifest),
        "runs": str(tmp_path),
        "classifier": classifier,
    }
    assert train.run(TrainConfig.model_validate(how))
    assert evaluate.run(EvaluateConfig(runs=str(tmp_path), bootstrap=200))
    folder = tmp_path / f"csv_features-{classifier}"
    content = json.loads((folder / "evaluation" / "metrics.json").read_text())
    wanted = want[f"{key}_test"]
    assert content["auc"] == pytest.approx(wanted[0] if key == "rf" else wanted, abs=tolerance)
    assert (content["n_slides"], content["n_positive"]) == (129, 49)
    # The threshold was chosen on training slides, each scored by a classifier that had not seen it.
    metrics = content["slide_metrics"]
    assert metrics["threshold_source"] == "highest balanced accuracy on 266 validation slides"
    assert {one["group"]: one["n"] for one in metrics["recall_by_group"]} == {"macro": 22, "micro": 27}
    validation = json.loads((folder / "train.run.json").read_text())["validation_auc"]
    assert validation == pytest.approx(want[f"{key}_cv"], abs=0.01)


def test_options_for_slides_with_patches_are_refused():
    how = {"dataset": "csv_features", "manifest": "none.csv", "aggregator": "abmil", "folds": 3}
    with pytest.raises(UsageError, match="which --aggregator, --folds cannot use"):
        train.run(TrainConfig.model_validate(how))


@pytest.mark.slow
def test_both_commands_from_the_command_line(tmp_path, monkeypatch, capsys):
    lines = ["slide_id,label,split,a,b"]
    lines += [
        f"s{i},{i % 2},{'test' if i > 39 else 'train'},{i % 2 + i / 100},{i * 7 % 5}" for i in range(60)
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    for call in (
        "train --dataset csv_features --manifest t.csv --classifier logistic_regression",
        "evaluate --metric auc --json out.json",
        "evaluate --split validation --json validation.json",
    ):
        monkeypatch.setattr(sys, "argv", ["wsi-vmamba", *call.split()])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code, capsys.readouterr().err
    assert json.loads((tmp_path / "out.json").read_text())["auc"] == 1.0
    assert json.loads((tmp_path / "validation.json").read_text())["n_slides"] == 40
    with (tmp_path / "runs/csv_features-logistic_regression/evaluation/slides.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 40

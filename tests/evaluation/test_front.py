"""Training and evaluation from Python: the same files and the same numbers as the commands'."""

from __future__ import annotations

import csv
import inspect
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import wsi_vmamba as wv
from wsi_vmamba.config import EvaluateConfig, TrainConfig
from wsi_vmamba.errors import ConfigError, MetricError, TrainingError, UsageError
from wsi_vmamba.pipelines import evaluate, train

SETTINGS = {"dataset": "csv", "epochs": 3, "learning_rate": 2e-3}
#: Files of a run that hold no time, no path and no command line.
RUN_FILES = ("best.safetensors", "metrics.csv", "model.json", "splits.csv")


def draw(index: int, tumour: bool) -> np.ndarray:
    """Forty patches of noise; in a tumour slide the first four of the second row stand out a little."""
    patches = np.random.default_rng(index).normal(size=(5, 8, 4)).astype(np.float32)
    if tumour:
        patches[1, :4, 0] += 2
    return patches


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., None]) -> Path:
    """Twenty-four slides with outlines, ten of them test slides, and a run that the command made."""
    folder = tmp_path_factory.mktemp("cohort")
    outlines = [f"outlines/s{index:02d}.geojson" if index % 2 else "" for index in range(24)]
    write_cohort(folder, draw, slides=24, train=14, annotation=outlines)
    ring = [[0, 256], [1024, 256], [1024, 512], [0, 512], [0, 256]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "Tumor"}},
    }
    (folder / "outlines").mkdir()
    for outline in filter(None, outlines):
        (folder / outline).write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert train.run(TrainConfig(**settings_of(folder), runs=str(folder / "runs"), name="r"))
    return folder


def settings_of(cohort: Path, **changes: object) -> dict[str, object]:
    paths = {"manifest": str(cohort / "cohort.csv"), "features": str(cohort / "features")}
    return {**SETTINGS, **paths, **changes}


def same_files(first: Path, second: Path, *names: str) -> bool:
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


@pytest.mark.slow
def test_train_makes_the_files_of_the_command(cohort: Path, tmp_path: Path):
    paths = {"manifest": cohort / "cohort.csv", "features": cohort / "features"}
    run = wv.train(**SETTINGS, **paths, runs=tmp_path, name="r", progress=False)
    assert run.path == tmp_path / "r"
    assert same_files(run.path, cohort / "runs" / "r", *RUN_FILES, "checkpoint.pt")
    with (run.path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [vars(one) for one in run.history] == [
        {
            "epoch": int(row["epoch"]), "is_best": row["is_best"] == "True",
            **{name: float(row[name]) for name in ("learning_rate", "train_loss", "validation_loss", "validation_auc")},
        }
        for row in rows
    ]  # fmt: skip
    assert json.loads((run.path / "model.json").read_text())["best"] == vars(run.best)
    assert wv.open_run(str(run.path)) == run
    assert run.settings.epochs == 3
    shown = run._repr_html_()
    assert f"<td>{run.best.validation_auc:.4f}</td>" in shown
    assert shown.count("<tr>") == 3 + 1 + 3  # facts, head, epochs


@pytest.mark.parametrize(
    "metric", ["all", *(pytest.param(name, marks=pytest.mark.slow) for name in ("auc", "brier", "froc"))]
)
def test_evaluate_gives_what_the_command_writes(cohort: Path, tmp_path: Path, metric: str):
    folder = cohort / "runs" / "r"
    asked = {"metric": metric, "bootstrap": 100}
    assert evaluate.run(EvaluateConfig(run=str(folder), out=str(tmp_path / "command"), **asked))
    written = json.loads((tmp_path / "command" / "metrics.json").read_text())
    before = sorted(folder.rglob("*"))
    found = wv.open_run(folder).evaluate(**asked, progress=False)
    assert found.to_dict() == written
    assert found.value == written["value"]
    assert list(found.ci95) == written["ci95"]
    assert sorted(folder.rglob("*")) == before  # nothing is written unless out= is given
    if metric != "froc":
        assert found.auc == written["auc"]
        with (tmp_path / "command" / "slides.csv").open(newline="") as file:
            assert [{k: str(v) for k, v in row.items()} for row in found.tables["slides"]] == list(
                csv.DictReader(file)
            )
    if metric in ("all", "froc"):
        assert found.froc == written["froc_score"]
        with (tmp_path / "command" / "lesions.csv").open(newline="") as file:
            assert [{k: str(v) for k, v in row.items()} for row in found.tables["lesions"]] == list(
                csv.DictReader(file)
            )
    again = wv.evaluate(run=folder, out=tmp_path / "python", **asked, progress=False)
    assert again.value == found.value
    names = {file.name for file in (tmp_path / "command").iterdir() if file.is_file()}
    for name in names - {"evaluate.run.json", "evaluate.yaml"}:
        assert (tmp_path / "python" / name).read_bytes() == (tmp_path / "command" / name).read_bytes(), name


def test_an_interrupted_training_goes_on_to_the_same_bytes(cohort: Path, tmp_path: Path):
    asked = settings_of(cohort, runs=tmp_path, name="r", progress=False)

    def stop(report) -> None:
        if report.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wv.train(**asked, on_epoch=stop)
    with pytest.raises(TrainingError, match=r"no finished run at .*--resume"):
        wv.open_run(tmp_path / "r")
    run = wv.train(**asked, resume=True)
    assert [one.epoch for one in run.history] == [1, 2, 3]
    # Not the checkpoint: the pickle inside counts shared strings.
    assert same_files(run.path, cohort / "runs" / "r", *RUN_FILES)


def test_folds_are_runs_of_their_own(cohort: Path, tmp_path: Path):
    run = wv.train(**settings_of(cohort, runs=tmp_path, name="cv", folds=2, epochs=1), progress=False)
    assert [fold.path.name for fold in run.folds] == ["fold-1", "fold-2"]
    assert run.history == ()
    with pytest.raises(TrainingError, match=r"run\.folds\[0\]\.best"):
        _ = run.best
    recorded = json.loads((run.path / "train.run.json").read_text())["validation_auc"]
    assert recorded == [fold.best.validation_auc for fold in run.folds]
    found = run.evaluate(split="validation", bootstrap=100, progress=False)
    assert found.auc == found.to_dict()["folds"]["out_of_fold_auc"]
    assert any("2 folds on their validation slides" in note for note in _lines(found._repr_html_()))


def test_files_of_other_programs(tmp_path: Path):
    table = tmp_path / "s.csv"
    rows = [(0.9, 1), (0.1, 0), (0.7, 0), (0.2, 0), (0.6, 1)]
    table.write_text(
        "slide_id,p,q,label\n" + "".join(f"s{i},{p},{p * p},{y}\n" for i, (p, y) in enumerate(rows))
    )
    asked = {"scores": str(table), "score_column": "p", "bootstrap": 100}
    assert evaluate.run(EvaluateConfig(**asked, json_out=str(tmp_path / "out.json")))
    found = wv.evaluate(**{**asked, "scores": table})
    assert found.to_dict() == json.loads((tmp_path / "out.json").read_text())
    assert found.auc == pytest.approx(5 / 6)  # of six pairs, 0.7 before 0.6 is the one in the wrong order
    assert found.tables["metrics"][0]["metric"] == "ROC AUC (DeLong)"
    assert found.tables["metrics"][0]["value"] == found.auc
    with pytest.raises(MetricError, match="FROC was not computed for the metric 'auc'"):
        _ = found.froc
    two = wv.compare("p", "q", scores=table, out=tmp_path)
    assert two.test.difference == 0
    assert json.loads((tmp_path / "comparison.json").read_text()) == two.to_dict()
    assert f"{found.auc:.4f}" in two._repr_html_()


def test_rows_of_numbers_are_trained_and_evaluated(tmp_path: Path):
    lines = [f"s{i},{i % 2},{'test' if i > 39 else 'train'},{i % 2 + i / 100},{i * 7 % 5}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["slide_id,label,split,a,b", *lines]) + "\n")
    run = wv.train(
        dataset="csv_features", manifest=tmp_path / "t.csv", classifier="logistic_regression", runs=tmp_path
    )
    assert run.history == ()
    assert run.evaluate(bootstrap=100).auc == 1.0


def test_wrong_settings_are_named(cohort: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="'epoch'; did you mean 'epochs'"):
        wv.train(epoch=3)
    with pytest.raises(ConfigError, match=r"epochs: .*greater than or equal to 1.*got 0"):
        wv.train(epochs=0)
    with pytest.raises(ConfigError, match="aggregator 'abmill'"):
        wv.train(aggregator="abmill")
    with pytest.raises(ConfigError, match=r"use wsi_vmamba\.compare"):
        wv.evaluate(compare=["a", "b"])
    with pytest.raises(ConfigError, match="'metric' has no meaning for a comparison"):
        wv.compare("a", "b", metric="froc")
    with pytest.raises(UsageError, match="give out="):
        wv.evaluate(run=cohort / "runs" / "r", heatmaps=2)
    with pytest.raises(TrainingError, match="no finished run at"):
        wv.open_run(tmp_path)


def test_nothing_is_printed_unless_progress_is_wanted(cohort: Path, tmp_path: Path, capsys):
    wv.train(**settings_of(cohort, runs=tmp_path, epochs=1), progress=False).evaluate(
        bootstrap=100, progress=False
    )
    assert capsys.readouterr() == ("", "")


def test_every_setting_is_in_the_signature():
    asked = inspect.signature(wv.train).parameters
    assert {"progress", "on_epoch", *TrainConfig.model_fields} == set(asked)
    assert asked["epochs"].default == TrainConfig().epochs
    assert "compare" not in inspect.signature(wv.evaluate).parameters


def test_outlines_that_teach_nothing_are_notes_of_the_run(cohort: Path, tmp_path: Path):
    asked = settings_of(cohort, runs=tmp_path, epochs=1, supervision="both", annotations=tmp_path / "some")
    (tmp_path / "some").mkdir()
    for index in range(1, 14, 2):
        if index != 5:
            name = f"s{index:02d}.geojson"
            (tmp_path / "some" / name).write_bytes((cohort / "outlines" / name).read_bytes())
    run = wv.train(**asked, progress=False)
    assert run.notes == ("s05: no outlines, so its patches teach nothing",)


def _lines(shown: str) -> list[str]:
    return shown.replace("</p>", "\n").replace("<p>", "").splitlines()

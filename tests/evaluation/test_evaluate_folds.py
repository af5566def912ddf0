"""`evaluate` on a cross-validation: held-out slides by the one model that had not seen them, test slides by all."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import wsi_vmamba as wv
from wsi_vmamba.bags import load_bag
from wsi_vmamba.config import EvaluateConfig, TrainConfig
from wsi_vmamba.errors import TrainingError, UsageError
from wsi_vmamba.metrics.thresholds import choose_threshold
from wsi_vmamba.pipelines import evaluate, train
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.training import job, load_run, predict

DIM, FOLDS = 4, 3


def draw(index: int, tumour: bool) -> np.ndarray:
    """Twelve patches of noise, those of tumour slides shifted by little: some will be taken for the other kind."""
    patches = np.random.default_rng(index).normal(size=(3, 4, DIM)).astype(np.float32)
    patches[..., 0] += 0.25 * tumour
    return patches


def config_for(folder: Path, **changes: object) -> TrainConfig:
    values = {
        "dataset": "csv", "manifest": str(folder / "cohort.csv"), "features": str(folder / "features"),
        "runs": str(folder / "runs"), "name": "cv", "aggregator": "abmil", "epochs": 3, "learning_rate": 2e-3,
        "folds": FOLDS, **changes,
    }  # fmt: skip
    return TrainConfig.model_validate(values)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., None]) -> Path:
    """Thirty slides, twelve of them test slides, and a cross-validation on the rest."""
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, draw, slides=30, train=18)
    assert train.run(config_for(folder))
    return folder


def judge(cohort: Path, out: Path, **changes: object) -> tuple[dict, dict[str, tuple[int, float]]]:
    """metrics.json, and label and probability by slide."""
    values = {"runs": str(cohort / "runs"), "out": str(out), "bootstrap": 100, **changes}
    assert evaluate.run(EvaluateConfig.model_validate(values))
    with (out / "slides.csv").open(newline="") as file:
        rows = {r["slide_id"]: (int(r["label"]), float(r["probability"])) for r in csv.DictReader(file)}
    return json.loads((out / "metrics.json").read_text()), rows


def say(cohort: Path, number: int, split: str) -> dict[str, tuple[int, float]]:
    """Label and probability of the slides of a split, from the model of one fold."""
    run = load_run(cohort / "runs" / "cv" / f"fold-{number}")
    names = [name for name, found in run.splits.items() if found == split]
    bags = {name: load_bag(SlideRecord(slide_id=name), cohort / "features") for name in names}
    return {name: (int(name[1:]) % 2, predict(run.model, bag).probability) for name, bag in bags.items()}


def area(rows: dict[str, tuple[int, float]]) -> float:
    labels, scores = zip(*rows.values(), strict=True)
    return float(roc_auc_score(labels, scores))


def test_validation_slides_are_pooled_out_of_fold(cohort: Path, tmp_path: Path, capsys):
    content, rows = judge(cohort, tmp_path, split="validation")
    folds = [say(cohort, number, "validation") for number in (1, 2, 3)]
    pooled = {name: said for fold in folds for name, said in fold.items()}
    assert len(pooled) == sum(map(len, folds)) == 18
    assert rows == pooled
    assert content["auc"] == content["folds"]["out_of_fold_auc"] == pytest.approx(area(pooled), abs=1e-12)
    each = [area(fold) for fold in folds]
    assert content["folds"]["auc"] == pytest.approx(each, abs=1e-12)
    assert content["folds"]["auc_mean"] == pytest.approx(mean(each), abs=1e-12)
    assert content["folds"]["auc_sd"] == pytest.approx(stdev(each), abs=1e-12)
    assert stdev(each) > 0
    assert content["slide_metrics"]["balanced_accuracy"] is None
    assert f"{mean(each):.4f} ± {stdev(each):.4f}" in capsys.readouterr().out


def test_test_slides_get_the_mean_of_the_models_and_a_threshold_from_out_of_fold_scores(
    cohort: Path, tmp_path: Path
):
    content, rows = judge(cohort, tmp_path)  # the newest run is the cross-validation, not its last fold
    folds = [say(cohort, number, "test") for number in (1, 2, 3)]
    assert set(rows) == set(folds[0])
    assert len(rows) == 12
    for name, (label, probability) in rows.items():
        assert label == folds[0][name][0]
        assert probability == pytest.approx(mean(fold[name][1] for fold in folds), abs=1e-12)
    assert content["auc"] == pytest.approx(area(rows), abs=1e-12)
    assert content["folds"]["auc"] == pytest.approx([area(fold) for fold in folds], abs=1e-12)
    pooled = [row for number in (1, 2, 3) for row in say(cohort, number, "validation").values()]
    labels, scores = map(np.array, zip(*pooled, strict=True))
    assert content["slide_metrics"]["balanced_accuracy"]["threshold"] == choose_threshold(labels, scores)
    assert content["folds"]["out_of_fold_auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.slow
def test_one_fold_is_still_judged_alone_and_compared_with_all(cohort: Path, tmp_path: Path):
    cv = cohort / "runs" / "cv"
    content, rows = judge(cohort, tmp_path / "one", run=str(cv / "fold-2"))
    assert rows == say(cohort, 2, "test")
    assert "folds" not in content
    together, _ = judge(cohort, tmp_path / "all", run=str(cv))
    compared = tmp_path / "compared.json"
    assert evaluate.run(EvaluateConfig(compare=[str(cv), str(cv / "fold-2")], json_out=str(compared)))
    found = json.loads(compared.read_text())
    assert found["auc_a"] == pytest.approx(together["auc"], abs=1e-12)
    assert found["auc_b"] == pytest.approx(content["auc"], abs=1e-12)


def test_training_slides_of_folds_are_refused(cohort: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"--split validation \(out-of-fold\)"):
        judge(cohort, tmp_path, split="train")


@pytest.mark.parametrize("missing", [1, 2])
def test_a_fold_that_is_not_there_is_named(cohort: Path, tmp_path: Path, missing: int):
    """Without the first one it was taken for a run of its own, without another for one that was never trained."""
    shutil.copytree(cohort / "runs" / "cv", tmp_path / "cv")
    shutil.rmtree(tmp_path / "cv" / f"fold-{missing}")
    with pytest.raises(
        TrainingError, match=rf"has \d folds, and .*fold-{missing}/model.json is not there; copy"
    ):
        judge(cohort, tmp_path / "judged", run=str(tmp_path / "cv"))
    with pytest.raises(TrainingError, match=rf"fold-{missing}/model.json is not there"):
        wv.predict(tmp_path / "cv", str(cohort / "features"))


@pytest.mark.slow
def test_an_unfinished_cross_validation_is_not_taken_for_a_whole_one(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def killed(number: int):
        seen = 0
        real = job.train

        def stop(*values, **options):
            nonlocal seen
            seen += 1
            if seen == number:
                raise KeyboardInterrupt
            return real(*values, **options)

        return stop

    how = {"runs": str(tmp_path), "epochs": 1}
    with monkeypatch.context() as patch:
        patch.setattr(job, "train", killed(3))
        with pytest.raises(KeyboardInterrupt):
            train.run(config_for(cohort, **how))
    with pytest.raises(TrainingError, match=r"is not finished; go on with .*--resume"):
        judge(cohort, tmp_path / "out", run=str(tmp_path / "cv"))
    assert train.run(config_for(cohort, **how, resume=True))
    assert len(judge(cohort, tmp_path / "out", run=str(tmp_path / "cv"))[0]["folds"]["auc"]) == FOLDS
    # Refused without --overwrite, and what was finished stays so.
    with pytest.raises(UsageError, match="holds a run already"):
        train.run(config_for(cohort, **how))
    judge(cohort, tmp_path / "out", run=str(tmp_path / "cv"))
    with monkeypatch.context() as patch:
        patch.setattr(job, "train", killed(2))
        with pytest.raises(KeyboardInterrupt):
            train.run(config_for(cohort, **how, overwrite=True))
    with pytest.raises(TrainingError, match="is not finished"):
        judge(cohort, tmp_path / "out", run=str(tmp_path / "cv"))

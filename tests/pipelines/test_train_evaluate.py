"""train and evaluate on features made by hand: the answer is known."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wsi_vmamba.annotation import write_asap
from wsi_vmamba.bags import load_bag
from wsi_vmamba.config import EvaluateConfig, TrainConfig
from wsi_vmamba.errors import MissingDataError, TrainingError, UsageError
from wsi_vmamba.pipelines import evaluate, train
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.training import load_run, predict

DIM = 8


def draw(index: int, tumour: bool) -> np.ndarray:
    """Forty patches of noise; in a tumour slide four of them are shifted along the first feature."""
    patches = np.random.default_rng(index).normal(size=(5, 8, DIM)).astype(np.float32)
    if tumour:
        patches[0, :4, 0] += 6
    return patches


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., None]) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, draw, slides=32, train=20)
    return folder


def train_config(cohort: Path, runs: Path, **changes: object) -> TrainConfig:
    values = {
        "dataset": "csv", "manifest": str(cohort / "cohort.csv"), "features": str(cohort / "features"),
        "runs": str(runs), "epochs": 15, "learning_rate": 1e-3, **changes,
    }  # fmt: skip
    return TrainConfig.model_validate(values)


def test_evaluate_finds_the_run_that_train_made(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert train.run(train_config(cohort, tmp_path))
    assert evaluate.run(EvaluateConfig(runs=str(tmp_path)))
    printed = capsys.readouterr().out
    out = tmp_path / "csv-abmil" / "evaluation"
    metrics = json.loads((out / "metrics.json").read_text())
    with (out / "slides.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert f"auc {metrics['auc']:.4f}" in printed
    assert [row["slide_id"] for row in rows] == [f"s{index:02d}" for index in range(20, 32)]
    assert metrics["auc"] > 0.9
    positive = [float(row["probability"]) for row in rows if row["label"] == "1"]
    negative = [float(row["probability"]) for row in rows if row["label"] == "0"]
    pairs = np.subtract.outer(positive, negative)
    assert metrics["auc"] == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2, abs=1e-12)
    assert (out / "roc.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command_line_says_where_runs_go(cohort: Path, tmp_path: Path):
    words = [
        "--dataset",
        "csv",
        "--manifest",
        "cohort.csv",
        "--runs",
        str(tmp_path),
        "--name",
        "a",
        "--epochs",
        "1",
    ]
    subprocess.run([sys.executable, "-m", "wsi_vmamba", "train", *words], cwd=cohort, check=True)
    assert (tmp_path / "a" / "model.json").is_file()
    assert not (cohort / "runs").exists()


def test_a_run_is_never_replaced_by_accident(cohort: Path, tmp_path: Path):
    assert train.run(train_config(cohort, tmp_path, epochs=1))
    with pytest.raises(UsageError, match="overwrite"):
        train.run(train_config(cohort, tmp_path, epochs=1))
    assert train.run(train_config(cohort, tmp_path, epochs=1, overwrite=True))


def test_folds_make_a_run_each_that_evaluate_reads(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = train_config(cohort, tmp_path, folds=2, epochs=3, aggregator="mean")
    assert train.run(config)
    assert "validation AUC by fold" in capsys.readouterr().out
    folder = tmp_path / "csv-mean"
    held_out = []
    for number in (1, 2):
        with (folder / f"fold-{number}" / "splits.csv").open() as file:
            rows = list(csv.DictReader(file))
        held_out.append({row["slide_id"] for row in rows if row["split"] == "validation"})
        assert {row["slide_id"] for row in rows if row["split"] == "test"} == {
            f"s{i:02d}" for i in range(20, 32)
        }
    assert not held_out[0] & held_out[1]
    assert held_out[0] | held_out[1] == {f"s{index:02d}" for index in range(20)}
    assert evaluate.run(EvaluateConfig(run=str(folder / "fold-1")))
    resumed = train_config(cohort, tmp_path, folds=2, epochs=3, aggregator="mean", resume=True)
    before = (folder / "fold-2" / "best.safetensors").read_bytes()
    assert train.run(resumed)
    assert (folder / "fold-2" / "best.safetensors").read_bytes() == before


def test_the_folds_of_a_manifest_are_those_trained(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Slides 0 to 3, 4 to 7 and so on are a fold, and fold z is the first of the manifest."""
    rows = (cohort / "cohort.csv").read_text().splitlines()
    folds = [f"{'zyxwv'[index // 4]}" if index < 20 else "" for index in range(32)]
    manifest = tmp_path / "folds.csv"
    manifest.write_text(
        "\n".join([f"{rows[0]},fold", *map(",".join, zip(rows[1:], folds, strict=True))]) + "\n"
    )
    config = train_config(
        cohort, tmp_path, manifest=str(manifest), folds=5, epochs=1, aggregator="mean", seed=9
    )
    assert train.run(config)
    assert "the 5 folds of the manifest" in capsys.readouterr().out
    for number, name in enumerate("vwxyz", start=1):
        with (tmp_path / "csv-mean" / f"fold-{number}" / "splits.csv").open() as file:
            held_out = {row["slide_id"] for row in csv.DictReader(file) if row["split"] == "validation"}
        assert held_out == {f"s{index:02d}" for index in range(20) if folds[index] == name}


@pytest.mark.slow
def test_outlines_train_a_patch_head(cohort: Path, tmp_path: Path):
    """Patches 0 to 3 of the first row are the tumour of each positive slide."""
    outlines = tmp_path / "outlines"
    for index in range(1, 32, 2):
        square = [(0, 0), (4 * 256, 0), (4 * 256, 256), (0, 256)]
        outlines.mkdir(exist_ok=True)
        write_asap(outlines / f"s{index:02d}.xml", [square])
    config = train_config(
        cohort, tmp_path, supervision="both", annotations=str(outlines), aggregator="ss2d", epochs=20
    )
    assert train.run(config)
    trained = load_run(tmp_path / "csv-ss2d")
    record = SlideRecord(slide_id="s21", label=1)
    patches = predict(trained.model, load_bag(record, cohort / "features")).patches
    assert patches is not None
    assert patches[:4].min() > patches[4:].max()
    with pytest.raises(MissingDataError, match="--annotations"):
        train.run(train_config(cohort, tmp_path, supervision="dense", name="without"))


def test_outlines_that_were_left_out_are_said_before_anything_is_trained(
    cohort: Path, tmp_path: Path, capsys
):
    outlines = tmp_path / "outlines"
    outlines.mkdir()
    for index in range(1, 20, 2):
        write_asap(outlines / f"s{index:02d}.xml", [[(0, 0), (1024, 0), (1024, 256), (0, 256)]])
    write_asap(outlines / "s03.xml", [[(0, 0), (1024, 0), (1024, 256), (0, 256)]] * 2)
    text = (outlines / "s03.xml").read_text()
    head, first, rest = text.split('PartOfGroup="Tumor"')
    (outlines / "s03.xml").write_text(f'{head}PartOfGroup="Tumor"{first}PartOfGroup="Necrosis"{rest}')
    write_asap(outlines / "s05.xml", [[(90_000, 0), (91_024, 0), (91_024, 256)]])
    how = {"supervision": "both", "annotations": str(outlines), "epochs": 1}
    assert train.run(train_config(cohort, tmp_path, **how))
    out = capsys.readouterr().out
    assert "s03: note: Annotation 1: group 'Necrosis' is neither tumour nor exclusion; left out" in out
    assert "s05: note: no patch lies in its tumour outlines" in out
    assert out.index("s05: note") < out.index("validation AUC")
    assert "s07" not in out
    (outlines / "s09.xml").unlink()
    assert train.run(train_config(cohort, tmp_path, **how, name="less"))
    said = "note: 1 of 10 tumour slides have no outlines, so their patches teach nothing: s09"
    assert said in capsys.readouterr().out


def test_a_training_does_not_go_on_with_other_outlines_or_labels(cohort: Path, tmp_path: Path):
    outlines = tmp_path / "outlines"
    outlines.mkdir()
    for index in range(1, 20, 2):
        write_asap(outlines / f"s{index:02d}.xml", [[(0, 0), (1024, 0), (1024, 256), (0, 256)]])
    how = {"supervision": "both", "annotations": str(outlines), "epochs": 1, "name": "both"}
    assert train.run(train_config(cohort, tmp_path, **how))
    assert train.run(train_config(cohort, tmp_path, **how, resume=True))
    before = (outlines / "s03.xml").read_bytes()
    write_asap(outlines / "s03.xml", [[(0, 0), (768, 0), (768, 256), (0, 256)]])
    with pytest.raises(
        TrainingError, match=r"outlines of s03: '\w+' in the checkpoint, '\w+' asked"
    ) as caught:
        train.run(train_config(cohort, tmp_path, **how, resume=True))
    assert "s05" not in str(caught.value)
    (outlines / "s03.xml").write_bytes(before)
    manifest = tmp_path / "changed.csv"
    manifest.write_text((cohort / "cohort.csv").read_text().replace("s02.tif,0,train", "s02.tif,1,train"))
    splits = (tmp_path / "both" / "splits.csv").read_bytes()
    with pytest.raises(TrainingError, match="label of s02: 0 in the checkpoint, 1 asked"):
        train.run(train_config(cohort, tmp_path, **how, resume=True, manifest=str(manifest)))
    assert (tmp_path / "both" / "splits.csv").read_bytes() == splits


def test_missing_features_are_named_with_the_place_and_the_remedy(tmp_path: Path):
    with pytest.raises(MissingDataError, match="270 of 270 slides have no features") as caught:
        train.run(TrainConfig(features=str(tmp_path), runs=str(tmp_path / "runs")))
    assert "wsi-vmamba extract" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_evaluate_without_a_run_says_what_to_do(tmp_path: Path):
    with pytest.raises(TrainingError, match="wsi-vmamba train"):
        evaluate.run(EvaluateConfig(runs=str(tmp_path)))

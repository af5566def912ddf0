"""train and evaluate on features made by hand: the answer is known."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from wsi_vmamba.pipelines import evaluate, train

from wsi_vmamba.config import EvaluateConfig, TrainConfig
from wsi_vmamba.errors import MissingDataError, TrainingError, UsageError
from wsi_vmamba.store import FeatureMeta, FeatureWriter

DIM = 8


def write_slide(folder: Path, slide_id: str, *, tumour: bool, seed: int) -> None:
    """Forty cells of noise; in a tumour slide four of them are shifted along the first feature."""
    features = np.random.default_rng(seed).normal(size=(40, DIM)).astype(np.float32)
    if tumour:
        features[:4, 0] += 6
    coords = np.stack(np.meshgrid(np.arange(8), np.arange(5)), axis=-1).reshape(-1, 2).astype(np.int64) * 256
    meta = FeatureMeta(
        slide_id=slide_id, slide_path=f"{slide_id}.tif", reader="tiff", mpp=0.5, mpp_source="override",
        target_mpp=0.5, cell_px=256, cell_l0=256.0, plan={}, segmenter="otsu", model="null", weights_hash="0",
        precision="fp32", versions={},
    )  # fmt: skip
    with FeatureWriter(folder / f"{slide_id}.zarr", meta, DIM) as writer:
        writer.append(features, coords)
        writer.commit()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    rows = ["slide_id,path,label,split"]
    for index in range(32):
        tumour, split = index % 2 == 1, "test" if index >= 20 else "train"
        write_slide(folder / "features", f"s{index:02d}", tumour=tumour, seed=index)
        rows.append(f"s{index:02d},s{index:02d}.tif,{int(tumour)},{split}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
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
    assert train.run(train_config(cohort, tmp_path)) == 0
    assert evaluate.run(EvaluateConfig(runs=str(tmp_path))) == 0
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


def test_a_run_is_never_replaced_by_accident(cohort: Path, tmp_path: Path):
    assert train.run(train_config(cohort, tmp_path, epochs=1)) == 0
    with pytest.raises(UsageError, match="overwrite"):
        train.run(train_config(cohort, tmp_path, epochs=1))
    assert train.run(train_config(cohort, tmp_path, epochs=1, overwrite=True)) == 0


def test_missing_features_are_named_with_the_place_and_the_remedy(tmp_path: Path):
    with pytest.raises(MissingDataError, match="270 of 270 slides have no features") as caught:
        train.run(TrainConfig(features=str(tmp_path), runs=str(tmp_path / "runs")))
    assert "wsi-vmamba extract" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_evaluate_without_a_run_says_what_to_do(tmp_path: Path):
    with pytest.raises(TrainingError, match="wsi-vmamba train"):
        evaluate.run(EvaluateConfig(runs=str(tmp_path)))

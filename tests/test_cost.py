"""What train, extract and evaluate took is recorded, and by whom it was spent."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from wsi_vmamba.config import EvaluateConfig, TrainConfig
from wsi_vmamba.cost import COST, Stopwatch, processor, total
from wsi_vmamba.extraction.front import extract
from wsi_vmamba.pipelines import evaluate, train
from wsi_vmamba.provenance import add_to_record


def test_sleep_is_wall_time_and_work_is_both():
    watch = Stopwatch()
    time.sleep(0.3)
    asleep = watch.cost(device="cpu")
    until_s = time.process_time() + 0.4
    while time.process_time() < until_s:
        pass
    awake = watch.cost(device="cpu")
    assert asleep["wall_s"] >= 0.3
    assert asleep["cpu_s"] < 0.2
    assert 0.3 <= awake["cpu_s"] <= awake["wall_s"] + 0.1
    assert awake["processor"] == processor("cpu")
    assert processor("cpu").endswith("cores")
    assert watch.cost(device="cpu", in_this_process=False)["cpu_s"] is None


def test_sums():
    one = {"wall_s": 1.5, "cpu_s": 1.0, "device": "cpu", "processor": "x"}
    assert total([one, one]) == {**one, "wall_s": 3.0, "cpu_s": 2.0}
    assert total([one, {**one, "cpu_s": None}])["cpu_s"] is None
    assert total([]) is None


def test_a_record_of_another_run_is_left_alone(tmp_path):
    path = tmp_path / "extract.run.json"
    path.write_text(json.dumps({"command": "extract"}))
    mine = path.read_bytes()
    add_to_record(tmp_path, "extract", {COST: 1}, of=mine)
    assert json.loads(path.read_text()) == {"command": "extract", COST: 1}
    add_to_record(tmp_path, "extract", {COST: 2}, of=mine)
    assert json.loads(path.read_text())[COST] == 1
    path.unlink()
    add_to_record(tmp_path, "extract", {COST: 2}, of=mine)
    assert not path.exists()


def recorded(path: Path) -> dict[str, object]:
    return json.loads(path.read_text())[COST]


@pytest.mark.slow
def test_train_extract_and_evaluate_record_it(tmp_path, tiny_slides, write_cohort):
    began = time.perf_counter()
    assert extract(tiny_slides, out=tmp_path / "e", backbone="null", segmenter="all", patch_px=64).ok
    generator = np.random.default_rng(0)
    write_cohort(
        tmp_path,
        lambda _, tumour: generator.normal(tumour, 1, (4, 4, 8)).astype(np.float32),
        slides=12,
        train=8,
    )
    common = {
        "dataset": "csv",
        "manifest": str(tmp_path / "cohort.csv"),
        "features": str(tmp_path / "features"),
    }
    settings = {**common, "runs": str(tmp_path / "runs"), "epochs": 2, "hidden_dim": 8}
    assert train.run(TrainConfig(**settings, name="one"))
    assert train.run(TrainConfig(**settings, name="folds", folds=2))
    runs = tmp_path / "runs"
    assert evaluate.run(EvaluateConfig(run=str(runs / "one"), bootstrap=100))
    took = time.perf_counter() - began
    parts = [recorded(runs / "folds" / f"fold-{number}" / "train.run.json") for number in (1, 2)]
    found = [
        recorded(tmp_path / "e" / "extract.run.json"), recorded(runs / "one" / "train.run.json"),
        recorded(runs / "folds" / "train.run.json"), recorded(runs / "one" / "evaluation" / "evaluate.run.json"),
    ]  # fmt: skip
    assert found[2]["wall_s"] == pytest.approx(sum(part["wall_s"] for part in parts), abs=1e-3)
    assert all(one["device"] == "cpu" and one["processor"] == processor("cpu") for one in found)
    assert all(one["wall_s"] > 0 and one["cpu_s"] > 0 for one in found)
    assert sum(one["wall_s"] for one in found) <= took

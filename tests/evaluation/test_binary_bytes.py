"""Runs of labels 0 and 1 leave the bytes that they left before there were classes with names."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_vmamba.config import EvaluateConfig, TrainConfig
from wsi_vmamba.pipelines import evaluate, train
from wsi_vmamba.training.checkpoint import Checkpoint

FILES = (
    "checkpoint.pt", "best.safetensors", "model.json", "metrics.csv", "splits.csv", "evaluation/slides.csv",
)  # fmt: skip


def draw(index: int, tumour: bool) -> np.ndarray:
    patches = np.random.default_rng(index).normal(size=(2, 4, 6)).astype(np.float32)
    patches[1, :2, 0] += 4 * tumour
    return patches


def leave(folder: Path, write_cohort: Callable[..., None]) -> Path:
    """Train and evaluate a run of a made-up cohort; return its folder."""
    write_cohort(folder, draw, slides=14, train=10)
    config = TrainConfig(
        dataset="csv", manifest=str(folder / "cohort.csv"), features=str(folder / "features"), epochs=2, hidden_dim=8,
        runs=str(folder / "runs"), name="a", aggregator="clam_mb",
    )  # fmt: skip
    train.run(config, log_epochs=False)
    run = folder / "runs" / "a"
    evaluate.run(EvaluateConfig(run=str(run), bootstrap=100))
    return run


def where() -> dict[str, str]:
    """What the last bits of a training depend on, beside the program."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.is_file() else []
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    model = " ".join(known.get(name, "?") for name in ("model name", "cpu family", "model", "stepping"))
    return {
        "torch": str(torch.__version__), "kernels": torch.backends.cpu.get_cpu_capability(), "processor": model,
        "machine": platform.machine(), "numpy": np.__version__,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., None]) -> Path:
    torch.set_num_threads(1)
    return leave(tmp_path_factory.mktemp("binary"), write_cohort)


def test_files_have_the_same_bytes(run: Path, golden: Path) -> None:
    kept = json.loads((golden / "binary_run.json").read_text())
    if kept["where"] != where():
        pytest.skip(
            f"the bytes are those of {kept['where']}, here is {where()}; the other tests hold anywhere"
        )
    found = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in FILES}
    assert found == kept["sha256"]


def test_files_say_nothing_of_classes(run: Path) -> None:
    content = json.loads((run / "model.json").read_text())
    assert list(content["spec"]) == ["aggregator", "patch_head", "in_dim", "hidden_dim", "dropout", "source"]
    checkpoint = Checkpoint.load(run / "checkpoint.pt")
    assert list(checkpoint.identity) == [
        "settings", "spec", "training slides", "validation slides", "label", "outlines",
    ]  # fmt: skip
    assert checkpoint.identity["spec"] == content["spec"]
    assert list(checkpoint.identity["settings"]) == [
        "supervision", "epochs", "patience", "learning_rate", "weight_decay", "warmup_epochs", "hidden_dim", "dropout",
        "gradient_clip", "ema_decay", "class_weights", "validation_fraction", "seed", "aggregator", "precision",
    ]  # fmt: skip
    header, *rows = (run / "evaluation" / "slides.csv").read_text().splitlines()
    assert header == "slide_id,patient_id,label,probability,called,group,patches"
    assert {row.split(",")[2] for row in rows} == {row.split(",")[4] for row in rows} | {"0", "1"}
    assert not (run / "evaluation" / "patients.csv").exists()


def test_scores_are_those_of_before(run: Path, golden: Path) -> None:
    """On other machines the last digits differ, not more."""
    kept = json.loads((golden / "binary_run.json").read_text())["scores"]
    rows = [row.split(",") for row in (run / "evaluation" / "slides.csv").read_text().splitlines()[1:]]
    assert {row[0]: float(row[3]) for row in rows} == pytest.approx(kept, abs=1e-4)

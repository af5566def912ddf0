"""endtoend as a user meets it: a run in, weights out that `extract` takes, and a run that `evaluate` takes."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_vmamba.bags import load_bag
from wsi_vmamba.config import EvaluateConfig, TrainConfig
from wsi_vmamba.config.endtoend import EndToEndConfig
from wsi_vmamba.encode import build_encoder
from wsi_vmamba.end_to_end.job import prepare
from wsi_vmamba.end_to_end.slides import LearnedFeatures, planned_pixels
from wsi_vmamba.errors import IncompatibleStoreError, MissingDataError, TrainingError, UsageError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import read_state
from wsi_vmamba.ops import cpu
from wsi_vmamba.pipelines import endtoend, evaluate, extract, train
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.slide import open_slide
from wsi_vmamba.store import open_features
from wsi_vmamba.stream import read_target

pytestmark = [
    pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}"),
]

#: Slides of 128 x 96 px in two regions of 64 px wide, three patches of 32 px high.
SPLITS = ("train", "train", "validation", "validation", "test", "test")


@pytest.fixture(scope="module")
def cohort(
    tmp_path_factory: pytest.TempPathFactory, write_tiny_slide: Callable[..., Path], extract_config: Callable
) -> Path:
    """A folder of slides, their features and a run."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cohort")
    rows = ["slide_id,path,label,split"]
    for index, split in enumerate(SPLITS):
        write_tiny_slide(folder / "slides" / f"s{index}.tif", index, width=128, height=96)
        rows.append(f"s{index},slides/s{index}.tif,{index % 2},{split}")
    (folder / "slides.csv").write_text("\n".join(rows) + "\n")
    asked = extract_config(folder / "slides", folder / "features", **EXTRACT)
    assert extract.run(asked)
    assert train.run(
        TrainConfig(
            dataset="csv", manifest=str(folder / "slides.csv"), features=str(folder / "features"),
            runs=str(folder / "runs"), name="first", epochs=2, hidden_dim=16, device="cpu",
        )
    )  # fmt: skip
    return folder


EXTRACT = {"backbone": "vmamba_pico", "precision": "fp32", "device": "cpu", "region_px": 96, "patch_px": 32}


def config(cohort: Path, runs: Path, **changes: object) -> EndToEndConfig:
    values = {"run": str(cohort / "runs" / "first"), "runs": str(runs), "epochs": 2, "learning_rate": 1e-3}
    return EndToEndConfig.model_validate({**values, **changes})


def pico() -> VMamba:
    backbone = build_backbone("vmamba_pico", weights=resolve_weights("vmamba_pico", "auto").path)
    assert isinstance(backbone, VMamba)
    return backbone


def test_features_and_gradients_are_those_of_all_regions_at_once(cohort: Path):
    pixels = planned_pixels("s0", cohort / "features")
    assert len(pixels.plan.regions) > 1
    backbone = pico()
    with pixels.open() as slide:
        learned = LearnedFeatures(backbone, slide, pixels.plan)
        stored = load_bag(SlideRecord(slide_id="s0"), cohort / "features")
        assert (
            np.abs(learned.features.detach().numpy() - stored.features).max()
            < 2e-3 * np.abs(stored.features).max()
        )
        np.testing.assert_array_equal(pixels.places.numpy(), stored.coords_grid)
        weights = torch.randn(learned.features.shape, generator=torch.Generator().manual_seed(0))
        learned.backward((learned.features * weights).square().sum())
        got = {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}
        # The same from plain autograd, all regions in one graph.
        backbone.zero_grad()
        parts = []
        for region in pixels.plan.regions:
            rgb = read_target(
                slide, pixels.plan, x_px=region.x_px, y_px=region.y_px, width_px=region.width_px,
                height_px=region.height_px,
            )  # fmt: skip
            image = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
            mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (backbone.mean, backbone.std))
            tokens = backbone.forward_features((image - mean) / std)[0].flatten(1).t()
            at = (region.patches - region.patches.min(axis=0)) @ [1, region.width_px // 32]
            parts.append(tokens[torch.from_numpy(at)])
        (torch.cat(parts) * weights).square().sum().backward()
    for name, parameter in backbone.named_parameters():
        if parameter.grad is not None:
            scale = parameter.grad.abs().max()
            assert (got[name] - parameter.grad).abs().max() <= 2e-4 * scale, name
    assert "patch_embed.0.weight" in got


@pytest.mark.slow
def test_the_weights_go_to_extract_and_the_run_to_evaluate(
    cohort: Path, tmp_path: Path, extract_config, capsys
):
    assert endtoend.run(config(cohort, tmp_path))
    said = capsys.readouterr().out
    folder = tmp_path / "first-endtoend"
    weights = folder / "backbone.safetensors"
    assert f"--weights {weights}" in said
    with (folder / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    record = json.loads((folder / "endtoend.run.json").read_text())
    assert record["largest_region_px"] == [64, 96]
    assert 0 <= record["at_start"]["auc"] <= 1
    before, after = pico().state_dict(), read_state(weights)
    assert before.keys() == after.keys()
    for name in ("patch_embed.0.weight", "layers.3.blocks.1.mlp.fc1.weight", "layers.0.blocks.0.op.A_logs"):
        assert not torch.equal(before[name], after[name]), name
    assert extract.run(
        extract_config(cohort / "slides", folder / "features", **{**EXTRACT, "weights": str(weights)})
    )
    made = open_features(folder / "features" / "s0.zarr").meta
    spec = json.loads((folder / "model.json").read_text())["spec"]
    assert (
        spec["source"]["weights_hash"]
        == made.weights_hash
        == build_encoder("vmamba_pico", weights=weights, precision="fp32", device="cpu").weights_hash
    )
    assert evaluate.run(EvaluateConfig(run=str(folder)))
    with pytest.raises(IncompatibleStoreError, match="other settings"):
        evaluate.run(EvaluateConfig(run=str(folder), features=str(cohort / "features")))


@pytest.mark.slow
def test_stopped_and_resumed_gives_the_same_bytes(cohort: Path, tmp_path: Path):
    assert endtoend.run(config(cohort, tmp_path, name="whole"))

    class KilledError(Exception):
        pass

    def kill(_: object) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        prepare(config(cohort, tmp_path, name="parts")).fit(on_start=lambda _: None, on_epoch=kill)
    assert not (tmp_path / "parts" / "train.run.json").exists()
    with pytest.raises(UsageError, match="--resume"):
        endtoend.run(config(cohort, tmp_path, name="parts"))
    with pytest.raises(TrainingError, match="backbone_rate"):
        endtoend.run(config(cohort, tmp_path, name="parts", resume=True, backbone_rate=0.5))
    assert endtoend.run(config(cohort, tmp_path, name="parts", resume=True))
    for name in ("backbone.safetensors", "best.safetensors", "metrics.csv", "model.json", "splits.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


#: `wsi-vmamba` that dies within a step, behind the gradients of a slide and before what they change, the n-th time.
KILLED = """
import os, signal, sys
from wsi_vmamba.cli import main
from wsi_vmamba.end_to_end.slides import LearnedFeatures
backward, lives = LearnedFeatures.backward, iter(range(int(sys.argv.pop(1))))
def deadly(*values):
    backward(*values)
    if next(lives, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
LearnedFeatures.backward = deadly
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.timeout(900)  # five processes on what may be a busy machine
def test_killed_in_the_middle_of_an_epoch_and_resumed_gives_the_same_bytes(cohort: Path, tmp_path: Path):
    def run(name: str, steps: int, *more: str) -> int:
        words = [
            "endtoend",
            str(cohort / "runs" / "first"),
            "--runs",
            str(tmp_path),
            "--name",
            name,
            "--epochs",
            "3",
        ]
        command = [sys.executable, "-c", KILLED, str(steps), *words, "--learning-rate", "0.001", *more]
        return subprocess.run(command, check=False).returncode

    assert run("whole", 100) == 0
    # In this process, with one thread as there, the same is trained: nothing else that a process holds counts.
    assert endtoend.run(config(cohort, tmp_path, name="here", epochs=3))
    for name in ("backbone.safetensors", "best.safetensors", "metrics.csv"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    # Two slides an epoch: on the second of the first epoch, of the second and, resumed behind that, of the third.
    for steps, done in ((1, 0), (3, 1), (3, 2)):
        assert run("parts", steps, *(["--resume"] if done else [])) == -signal.SIGKILL
        metrics = tmp_path / "parts" / "metrics.csv"
        assert (len(metrics.read_text().splitlines()) - 1 if metrics.exists() else 0) == done
        assert not (tmp_path / "parts" / "train.run.json").exists()
    assert run("parts", 100, "--resume") == 0
    for name in ("backbone.safetensors", "best.safetensors", "metrics.csv", "model.json", "splits.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }


def test_what_it_cannot_train_is_refused_by_name(cohort: Path, tmp_path: Path):
    other = tmp_path / "other.pth"
    torch.save(build_backbone("vmamba_pico", seed=5).state_dict(), other)
    with pytest.raises(IncompatibleStoreError, match="--weights"):
        prepare(config(cohort, tmp_path, weights=str(other)))
    with pytest.raises(TrainingError, match="no trained run"):
        prepare(config(cohort, tmp_path, run=str(tmp_path / "nothing")))
    of_patients = TrainConfig(
        dataset="csv", manifest=str(cohort / "slides.csv"), features=str(cohort / "features"), runs=str(tmp_path),
        name="patients", bag="patient", epochs=1, hidden_dim=8, device="cpu",
    )  # fmt: skip
    assert train.run(of_patients)
    with pytest.raises(UsageError, match="tells 2 classes of patients apart"):
        prepare(config(cohort, tmp_path, run=str(tmp_path / "patients")))
    (cohort / "slides" / "s0.tif").rename(tmp_path / "away.tif")
    try:
        with pytest.raises(MissingDataError, match=r"s0.*slides/s0\.tif"):
            prepare(config(cohort, tmp_path))
    finally:
        (tmp_path / "away.tif").rename(cohort / "slides" / "s0.tif")
    with open_slide(cohort / "slides" / "s0.tif") as slide:
        assert slide.levels[0].width_px == 128

"""A pretraining from settings to files: what it writes, how it goes on, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from wsi_vmamba.errors import TrainingError, UsageError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.pretraining.log import read_lines
from wsi_vmamba.pretraining.ranks import Ranks
from wsi_vmamba.pretraining.run import begin


def run(config, source, *, stop_after=None):
    made = 0
    for report in begin(config, source(config), ranks=Ranks(), device="cpu").reports:
        made = report.step
        if made == stop_after:
            return


def files_of(out: Path):
    lines = [{k: v for k, v in line.items() if k != "images_per_s"} for line in read_lines(out / "log.jsonl")]
    weights = {file.name: file.read_bytes() for file in out.glob("weights*.safetensors")}
    return lines, weights


def test_a_resumed_training_ends_in_the_same_bytes(config, fake_source, tmp_path):
    whole = config.changed(out=str(tmp_path / "whole"), export_steps=3)
    parts = config.changed(out=str(tmp_path / "parts"), export_steps=3)
    run(whole, fake_source)
    run(parts, fake_source, stop_after=4)
    with (tmp_path / "parts" / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')  # killed in the middle of a line
    run(parts.changed(resume=True), fake_source)
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    assert sorted(files_of(tmp_path / "whole")[1]) == [
        "weights-3.safetensors", "weights-6.safetensors", "weights.safetensors",
    ]  # fmt: skip
    assert [line["step"] for line in read_lines(tmp_path / "whole" / "log.jsonl")] == [2, 4, 6]


def test_what_differs_from_the_checkpoint_is_named(config, fake_source):
    run(config, fake_source, stop_after=2)
    with pytest.raises(UsageError, match=r"holds a run already; go on with --resume"):
        run(config, fake_source)
    changed = config.changed(resume=True, seed=3, dino=config.dino.changed(hidden=32))
    with pytest.raises(
        TrainingError, match=r"dino\.hidden: 16 in the checkpoint, 32 asked; seed: 0 .* 3 asked"
    ):
        run(changed, fake_source)
    run(config.changed(resume=True, log_steps=1), fake_source)  # how often it is logged may change


def test_a_share_of_the_weights_it_began_with_is_kept(config, fake_source, tmp_path):
    """On the line between the first and the learned weights, at the start, at the end, and in the middle."""
    whole = config.changed(steps=1, log_steps=1)
    written = {}
    for share in (0.0, 0.5, 1.0):
        settings = whole.changed(init_share=share, out=str(tmp_path / f"share{share}"))
        run(settings, fake_source)
        written[share] = load_file(tmp_path / f"share{share}" / "weights.safetensors")
    first = build_backbone("vmamba_pico", num_classes=1, seed=0).state_dict()
    moved = 0
    for name, value in written[1.0].items():
        if not name.startswith("classifier.head"):
            assert torch.equal(value, first[name].half()), name
        middle = (written[0.0][name].float() + value.float()) / 2
        torch.testing.assert_close(written[0.5][name].float(), middle, rtol=2e-3, atol=1e-6)
        moved += not torch.equal(written[0.0][name], value)
    assert moved > 50


def test_the_weights_are_the_average_backbone_in_half_precision(config, fake_source):
    begun = begin(config, fake_source(config), ranks=Ranks(), device="cpu")
    list(begun.reports)
    file = Path(config.out) / "weights.safetensors"
    loaded = build_backbone("vmamba_pico", weights=file)
    state = torch.load(Path(config.out) / "checkpoint.pt", weights_only=True)["average"]
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, state[f"backbone.{key}"].half().float()), key
    with safe_open(file, "pt") as opened:
        facts = opened.metadata()
    assert (facts["objective"], facts["steps"], json.loads(facts["slides"])) == ("dino", "6", ["a", "b"])


def test_a_divergence_stops_the_training_and_names_its_layer(config, fake_source):
    begun = begin(config.changed(log_steps=1), fake_source(config), ranks=Ranks(), device="cpu")
    reports = iter(begun.reports)
    next(reports)
    backbone = reports.gi_frame.f_locals["self"].loop.student.backbone
    with torch.no_grad():
        backbone.layers[2].blocks[1].mlp.fc2.weight.fill_(1e30)
    with pytest.raises(
        TrainingError, match=r"step 1: .* begins in backbone\.layers\.2\.blocks\.1\.mlp\.fc2, .*lower"
    ):
        next(reports)


@pytest.mark.slow
def test_a_collapse_is_said_and_then_stops_the_training(config, fake_source):
    source = fake_source(config)

    def same(first, last):
        for step, crops in source.crops(first, last):
            views = [tuple(torch.full_like(v, 128) for v in group) for group in (crops.large, crops.small)]
            yield step, type(crops)(*views)

    grey = type(source)(slide_ids=("a",), crops=same)
    asked = config.changed(log_steps=1, warmup_steps=1)
    found = []

    def follow():
        for report in begin(asked, grey, ranks=Ranks(), device="cpu").reports:
            found.append((report.step, bool(report.warning), report.stop))  # noqa: PERF401, it ends in an error

    with pytest.raises(
        TrainingError, match=r"step 4: .*collapsed, for 3 lines .*nearly the same .*: warn goes"
    ):
        follow()
    assert found == [(1, False, False), (2, True, False), (3, True, False), (4, True, True)]
    assert [line["step"] for line in read_lines(Path(config.out) / "log.jsonl")] == [1, 2, 3, 4]
    warned = asked.changed(on_collapse="warn", overwrite=True)
    assert [r.stop for r in begin(warned, grey, ranks=Ranks(), device="cpu").reports] == [False] * 6

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from wsi_vmamba.config import (
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    ExtractConfig,
    FinetuneConfig,
    RunConfig,
    TrainConfig,
    dump_config,
    resolve_config,
)
from wsi_vmamba.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
KINDS: dict[str, type[RunConfig]] = {
    "extract": ExtractConfig,
    "train": TrainConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "demo": DemoConfig,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_file_lists_every_key_with_its_default(kind: str):
    shipped = yaml.safe_load((ROOT / "configs" / f"{kind}.yaml").read_text())
    assert shipped == KINDS[kind]().model_dump(mode="json")


@pytest.mark.parametrize("kind", KINDS)
def test_a_dumped_configuration_reads_back_equal(kind: str, tmp_path: Path):
    change = "seed=7" if "seed" in KINDS[kind].model_fields else "overwrite=true"
    original = resolve_config(KINDS[kind], assignments=[change])
    (tmp_path / "c.yaml").write_text(dump_config(original))
    assert resolve_config(KINDS[kind], file=tmp_path / "c.yaml") == original


def test_precedence_is_file_then_set_then_option(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("cell_px: 64\nregion_px: 640\nseed: 1\n")
    config = resolve_config(
        ExtractConfig, file=file, assignments=["region_px=1280", "seed=2"], options={"seed": 3, "out": None}
    )
    assert (config.cell_px, config.region_px, config.seed, config.out) == (64, 1280, 3, "features")


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("target_mp=0.5", "did you mean 'target_mpp'"),
        ("cell_px=100", "multiple of 32"),
        ("cell_px='256'", "valid integer"),
        ("target_mpp=40", "less than or equal to 4"),
        ("backbone=vmamba_pic0", "did you mean 'vmamba_pico'"),
        ("reader=openslid", "choose from"),
        ("precision=fp16", "'fp32'"),
        ("region_px", "key=value"),
        ("region_px=[", "not valid YAML"),
    ],
)
def test_a_bad_assignment_is_refused_by_name(assignment: str, words: str):
    with pytest.raises(ConfigError, match=words):
        resolve_config(ExtractConfig, assignments=[assignment])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- 1\n", "expected 'key: value'"),
        ("a: [\n", "not valid YAML"),
        ("backbones: x\n", "did you mean 'backbone'"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(content: str, words: str, tmp_path: Path):
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        resolve_config(ExtractConfig, file=file)
    assert "broken.yaml" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        resolve_config(ExtractConfig, file=tmp_path / "none.yaml")


def test_dense_supervision_takes_no_aggregator():
    with pytest.raises(ConfigError, match="supervision dense trains no aggregator, got abmil"):
        resolve_config(TrainConfig, assignments=["supervision=dense", "aggregator=abmil"])
    assert resolve_config(TrainConfig, assignments=["supervision=dense"]).aggregator is None

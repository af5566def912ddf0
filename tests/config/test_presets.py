from __future__ import annotations

from pathlib import Path

import pytest

from wsi_vmamba.config import COMMANDS, resolve_config
from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_valid_and_says_what_its_file_says(name: str):
    preset = PRESETS[name]
    model = COMMANDS[preset.command].load_model()
    config = resolve_config(model, file=ROOT / "configs" / f"{name}.yaml")
    for key, value in preset.values.items():
        found = getattr(config, key)
        if isinstance(found, RunConfig):
            for inner, number in value.items():
                assert getattr(found, inner) == number, f"{key}.{inner}"
        else:
            assert found == value, key


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_how_it_is_started_and_what_it_costs(name: str):
    text = (ROOT / "configs" / f"{name}.yaml").read_text()
    assert f"pretrain --config configs/{name}.yaml" in text or f"slides/ --config configs/{name}.yaml" in text
    assert "not measured" in text or "took" in text or "Measured" in text

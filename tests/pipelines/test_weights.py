"""`wsi-vmamba weights` as a user meets it: list, add, verify."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from wsi_vmamba.cli import app
from wsi_vmamba.config import WeightsConfig
from wsi_vmamba.errors import ConfigError, UsageError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.releases import RELEASES
from wsi_vmamba.model.shipped import shipped_files
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.pipelines import weights


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WSI_VMAMBA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "weights"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(
        {"model": build_backbone("vmamba_pico", num_classes=3, seed=7).state_dict()}, tmp_path / "mine.pth"
    )
    return tmp_path / "mine.pth"


def run(capsys: pytest.CaptureFixture[str], **settings: object) -> tuple[bool, str, str]:
    done = weights.run(WeightsConfig.model_validate(settings))
    said = capsys.readouterr()
    return done, said.out, said.err


def table(text: str) -> dict[str, list[str]]:
    return {line.split("\t")[0]: line.split("\t")[1:] for line in text.splitlines() if "\t" in line}


def test_all_weights_in_one_table(checkpoint: Path, capsys: pytest.CaptureFixture[str], home: Path) -> None:
    rows = table(run(capsys)[1])
    shipped = set(shipped_files())
    assert rows.keys() == {"name", *shipped, *RELEASES}
    assert rows["vssm1_tiny_0230s"] == [
        "vmamba_tiny_s1l8", "~120", "82.6 (theirs)", "MIT", "not here: wsi-vmamba weights add vssm1_tiny_0230s",
    ]  # fmt: skip
    done, said, warned = run(capsys, action="add", source=str(checkpoint))
    assert done
    assert "mine: vmamba_pico, " in said
    assert "next: wsi-vmamba extract SLIDES --backbone vmamba_pico --weights mine" in said
    assert "no licence is stated" in warned
    size_mb = (home / "mine.safetensors").stat().st_size / 1e6
    row = table(run(capsys)[1])["mine"]
    assert row == ["vmamba_pico", f"{size_mb:.1f}", "", "not stated", str(home / "mine.safetensors")]


def test_a_file_that_calls_itself_as_published_has_no_published_accuracy(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, action="add", source=str(checkpoint), name="vssm1_tiny_0230s")
    assert table(run(capsys)[1])["vssm1_tiny_0230s"][:3] == ["vmamba_pico", "10.5", ""]


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_one_changed_bit_is_found(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], home: Path, share: float
) -> None:
    run(capsys, action="add", source=str(checkpoint))
    run(capsys, action="add", source=str(checkpoint), name="other")
    done, said, _ = run(capsys, action="verify")
    assert done
    assert {"mine: sound", "other: sound", "vmamba_pico_synthetic: sound"} <= set(said.splitlines())
    file = home / "mine.safetensors"
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 4
    file.write_bytes(content)
    done, said, warned = run(capsys, action="verify")
    assert not done
    assert "mine: damaged: " in warned
    assert "other: sound" in said.splitlines()
    assert run(capsys, action="verify", source="other")[0]
    assert run(capsys, action="verify", source="mine")[0] is False


def test_cut_files_and_files_of_others_are_found(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    run(capsys, action="add", source=str(checkpoint))
    os.truncate(home / "mine.safetensors", 4_000_000)
    save_file(
        build_backbone("vmamba_pico").state_dict(), home / "foreign.safetensors", {"backbone": "vmamba_pico"}
    )
    (home / "empty.safetensors").write_bytes(b"")
    done, _, warned = run(capsys, action="verify")
    assert not done
    for words in (
        "mine: damaged: its sha256 is", "foreign: damaged: its header holds no sha256", "empty: damaged: ",
    ):  # fmt: skip
        assert words in warned
    assert table(run(capsys)[1])["empty"][0] == "damaged"


def test_verify_names_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UsageError, match="are published but not on this machine; here are vmamba_pico_synthetic"
    ):
        run(capsys, action="verify", source="vssm_tiny_0230")
    with pytest.raises(UsageError, match="weights zebra are not in the list"):
        run(capsys, action="verify", source="zebra")


def test_options_of_another_action_are_refused() -> None:
    for settings, words in (
        ({"action": "add"}, "needs a published name, a URL or a file"),
        ({"action": "list", "source": "x"}, "list takes no name"),
        ({"action": "verify", "licence": "MIT"}, "licence: of add only, not of verify"),
        ({"action": "add", "source": "x", "sha256": "12"}, "sha256: "),
    ):
        with pytest.raises(ConfigError, match=words):
            WeightsConfig(**settings)


def test_every_published_checkpoint_is_of_a_variant_and_every_published_variant_has_one() -> None:
    ours = {"vmamba_pico", "vmamba_large"}
    assert {release.variant for release in RELEASES.values()} == VARIANTS.keys() - ours
    for name, release in RELEASES.items():
        assert release.url.endswith(f"/{release.file}")
        assert release.file.startswith(f"{name}_ckpt_epoch_")


def test_exit_codes_on_the_command_line(checkpoint: Path, home: Path) -> None:
    call = CliRunner()
    assert call.invoke(app, ["weights"]).exit_code == 0
    assert call.invoke(app, ["weights", "add", str(checkpoint), "--licence", "MIT"]).exit_code == 0
    (home / "mine.safetensors").write_bytes(b"\x08" + bytes(15))
    assert call.invoke(app, ["weights", "verify"]).exit_code == 1

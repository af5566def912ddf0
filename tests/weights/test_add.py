"""Importing weights: recognised, every key accounted for, kept with where they are from, the same numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wsi_vmamba.encode import build_encoder
from wsi_vmamba.errors import DownloadError, UnknownNameError, UsageError, WeightsError
from wsi_vmamba.model import build_backbone, releases
from wsi_vmamba.model.releases import RELEASES, Release
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.stored import digest_of, read_header
from wsi_vmamba.model.weights import weights_hash
from wsi_vmamba.weights import web as web_module
from wsi_vmamba.weights.add import add
from wsi_vmamba.weights.web import download

State = dict[str, Tensor]
Save = Callable[..., Path]


def features(weights: str | Path) -> Tensor:
    model = build_backbone("vmamba_pico", weights=resolve_weights("vmamba_pico", weights).path).eval()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found: Tensor = model.forward_features(image)
    return found


def plain_features(state: State) -> Tensor:
    model = build_backbone("vmamba_pico", num_classes=3)
    model.load_state_dict(state)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found: Tensor = model.eval().forward_features(image)
    return found


def test_a_checkpoint_becomes_weights_with_a_name(pico: State, saved: Save, home: Path) -> None:
    file = saved({"model": {f"module.{key}": value for key, value in pico.items()}, "epoch": 9})
    added = add(str(file), licence="CC BY 4.0")
    assert added.name == "my_model_best_"
    assert added.file == home / "my_model_best_.safetensors"
    header = read_header(added.file)
    assert header["backbone"] == "vmamba_pico"
    assert header["source"] == str(file)
    assert header["source_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert header["licence"] == "CC BY 4.0"
    assert header["imported"].startswith("20")
    assert json.loads(header["changes"]) == []
    blank = added.file.read_bytes().replace(header["sha256"].encode(), b"0" * 64)
    assert header["sha256"] == hashlib.sha256(blank).hexdigest() == digest_of(added.file)
    assert torch.equal(features("my_model_best_"), plain_features(pico))
    assert build_encoder("vmamba_pico", weights="my_model_best_").weights_hash == weights_hash(
        build_backbone("vmamba_pico", weights=added.file)
    )
    assert file.exists()


def test_old_names_and_convolutions_are_said(pico: State, saved: Save) -> None:
    old = {
        key.replace(".op.", ".self_attention.").replace("classifier.", ""): (
            value[..., None, None] if key.endswith("fc1.weight") else value
        )
        for key, value in pico.items()
    }
    added = add(str(saved(old)), name="old")
    blocks = 2 + 2 + 4 + 2
    renamed = sum(".op." in key or key.startswith("classifier.") for key in pico)
    assert added.converted.changes == (
        f"{renamed} keys of {len(pico)} given today's names",
        f"{blocks} weights of 1x1 convolutions made those of linear layers",
    )
    assert torch.equal(features("old"), plain_features(pico))


def test_half_precision_stays_half(pico: State, saved: Save) -> None:
    half = {key: value.half() for key, value in pico.items()}
    added = add(str(saved({"model": half})), name="half")
    assert {value.dtype for value in added.converted.tensors.values()} == {torch.float16}
    assert torch.equal(features("half"), plain_features({key: value.float() for key, value in half.items()}))


def test_the_backbone_of_a_detector_without_a_head(pico: State, saved: Save) -> None:
    content = {f"backbone.{key}": value for key, value in pico.items() if not key.startswith("classifier.")}
    for stage, width in enumerate((32, 64, 128)):
        content |= {f"backbone.outnorm{stage}.{end}": torch.ones(width) for end in ("weight", "bias")}
    for end in ("weight", "bias"):
        content[f"backbone.outnorm3.{end}"] = pico[f"classifier.norm.{end}"] + 0.5
    content |= {"decode_head.conv_seg.weight": torch.zeros(2, 4, 1, 1), "neck.0.bias": torch.zeros(4)}
    added = add(str(saved({"state_dict": content, "meta": {"epoch": 3}})), name="detector")
    assert added.converted.changes == (
        "'backbone.' taken off the keys",
        "outnorm3 taken for classifier.norm",
        "no classifier in the checkpoint: its place is filled with zeros, which no feature depends on",
        "left out: decode_head (1 tensors), neck (1 tensors), outnorm0 (2 tensors), outnorm1 (2 tensors), "
        "outnorm2 (2 tensors)",
    )
    moved = {key: value + 0.5 if key.startswith("classifier.norm.") else value for key, value in pico.items()}
    assert torch.equal(features("detector"), plain_features(moved))


def test_of_several_models_one_is_named(pico: State, saved: Save) -> None:
    other = {key: value + 1 for key, value in pico.items()}
    file = saved(
        {f"student.{k}": v for k, v in other.items()} | {f"teacher.net.{k}": v for k, v in pico.items()}
    )
    with pytest.raises(
        WeightsError, match=r"several models, in its parts 'student', 'teacher\.net'; .*--part"
    ):
        add(str(file), name="x")
    with pytest.raises(WeightsError, match=r"no VMamba in its part 'head'; it has 'student', 'teacher\.net'"):
        add(str(file), name="x", part="head")
    add(str(file), name="x", part="teacher.net")
    assert torch.equal(features("x"), plain_features(pico))


def test_of_a_model_and_its_average_one_is_named(pico: State, saved: Save) -> None:
    file = saved({"model": {k: v + 1 for k, v in pico.items()}, "model_ema": pico})
    with pytest.raises(WeightsError, match="several state dicts that differ: 'model', 'model_ema'"):
        add(str(file), name="x")
    add(f"{file}#model_ema", name="x")
    assert torch.equal(features("x"), plain_features(pico))


def test_keys_that_do_not_fit_are_named_and_nothing_is_kept(pico: State, saved: Save, home: Path) -> None:
    wrong = dict(pico)
    del wrong["layers.1.blocks.0.norm2.bias"]
    wrong["layers.0.gate"] = torch.zeros(2)
    wrong["layers.2.blocks.3.op.Ds"] = torch.zeros(9)
    with pytest.raises(WeightsError) as caught:
        add(str(saved(wrong)), name="x")
    for words in (
        r"1 missing: layers.1.blocks.0.norm2.bias", "1 unexpected: layers.0.gate", "Ds is (9,), the model has (512,)",
    ):  # fmt: skip
        assert words in str(caught.value)
    with pytest.raises(WeightsError, match="holds no weights of a VMamba"):
        add(str(saved({"conv1.weight": torch.zeros(3)})), name="x")
    assert not home.exists()


def test_names_that_cannot_be(pico: State, saved: Save) -> None:
    file = str(saved(pico))
    for name in ("auto", "random", "a/b", "x.pth", "-x", "a b"):
        with pytest.raises(UsageError, match="cannot be a name of weights"):
            add(file, name=name)
    with pytest.raises(UsageError, match="come with the package"):
        add(file, name="vmamba_pico_synthetic")
    add(file, name="mine")
    with pytest.raises(UsageError, match=r"there are weights mine already .*--overwrite"):
        add(file, name="mine")
    add(str(saved({key: value + 1 for key, value in pico.items()})), name="mine", overwrite=True)
    assert not torch.equal(features("mine"), plain_features(pico))


def test_what_is_asked_for_is_found_or_the_nearest_named(pico: State, saved: Save, tmp_path: Path) -> None:
    add(str(saved(pico)), name="mine")
    with pytest.raises(
        UnknownNameError, match=r"unknown weights 'mime' \(did you mean 'mine'\?\); choose from auto"
    ):
        resolve_weights("vmamba_pico", "mime")
    with pytest.raises(
        UsageError, match="are of vmamba_pico, not of vmamba_tiny_s1l8; give --backbone vmamba_pico"
    ):
        resolve_weights("vmamba_tiny_s1l8", "mine")
    with pytest.raises(
        UsageError, match="not on this machine; `wsi-vmamba weights add vssm1_tiny_0230s` downloads"
    ):
        resolve_weights("vmamba_tiny_s1l8", "vssm1_tiny_0230s")
    with pytest.raises(UsageError, match=r"no weights file at .*nowhere\.pth; .*`wsi-vmamba weights list`"):
        resolve_weights("vmamba_pico", "nowhere.pth")
    with pytest.raises(UnknownNameError, match="did you mean 'vssm1_tiny_0230s'"):
        add("vssm1_tiny_0230")
    with pytest.raises(
        UsageError, match=r"no weights file at .*nowhere\.pth; give a file, a URL, or one of vssm1"
    ):
        add(str(tmp_path / "nowhere.pth"))


def test_a_file_of_that_name_is_meant_before_the_list(
    pico: State, saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(str(saved(pico)), name="mine")
    saved({key: value + 1 for key, value in pico.items()}, "mine")
    monkeypatch.chdir(tmp_path)
    assert resolve_weights("vmamba_pico", "mine").note == "weights from mine"


# --- downloads ---


def test_a_published_name_is_downloaded_from_its_url(
    pico: State, saved: Save, web, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "_RELEASES", web.url)
    release = Release(
        variant="vmamba_pico", top1_percent=50.0, parameters_m=3, tag="v2cls", file="pico_ckpt_epoch_9.pth"
    )
    monkeypatch.setitem(RELEASES, "pico_9", release)
    web.files["/#v2cls/pico_ckpt_epoch_9.pth"] = saved({"model": pico}).read_bytes()
    lines: list[str] = []
    added = add("pico_9", say=lines.append)
    assert lines == [f"downloading {web.url}/%23v2cls/pico_ckpt_epoch_9.pth"]
    header = read_header(added.file)
    assert (header["source"], header["licence"]) == (release.url, "MIT")
    assert torch.equal(features("pico_9"), plain_features(pico))
    assert list((home / "downloads").iterdir()) == []


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("tag", ['"v1/2"', None])
def test_a_download_that_breaks_goes_on_where_it_was(
    web, tmp_path: Path, ranges: bool, tag: str | None
) -> None:
    content = bytes(range(256)) * 9000
    web.files["/w.pth"], web.ranges, web.tag = content, ranges, tag
    web.cut = [100_000, 1_200_000, 0] if ranges else [100_000, 1_500_000, 200_000]
    assert download(f"{web.url}/w.pth", tmp_path, wait_s=0).read_bytes() == content
    assert web.starts == ([0, 100_000, 1_300_000, 1_300_000] if ranges else [0, 0, 0, 0])
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_a_download_goes_on_in_the_next_call_unless_the_file_is_another(web, tmp_path: Path) -> None:
    web.files["/w.pth"], web.cut = b"old" * 1000, [300, *[0] * 9]
    with pytest.raises(DownloadError):
        download(f"{web.url}/w.pth", tmp_path, wait_s=0)
    web.cut, web.starts = [], []
    assert download(f"{web.url}/w.pth", tmp_path, wait_s=0).read_bytes() == b"old" * 1000
    assert web.starts == [300]
    (tmp_path / "w.pth").unlink()
    web.cut = [300, *[0] * 9]
    with pytest.raises(DownloadError):
        download(f"{web.url}/w.pth", tmp_path, wait_s=0)
    web.files["/w.pth"], web.tag, web.cut, web.starts = b"new" * 1000, '"two"', [], []
    assert download(f"{web.url}/w.pth", tmp_path, wait_s=0).read_bytes() == b"new" * 1000
    assert web.starts == [0]


def test_what_the_server_refuses_is_said(web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DownloadError, match=r"/absent\.pth: the server answers 404"):
        download(f"{web.url}/absent.pth", tmp_path)
    with pytest.raises(UsageError, match="ends in no name of a file"):
        download(f"{web.url}/", tmp_path)
    monkeypatch.setattr(web_module, "TIMEOUT_S", 1.0)
    with pytest.raises(DownloadError, match="refused"):
        download("http://127.0.0.1:9/w.pth", tmp_path)


def test_a_checksum_that_does_not_match(pico: State, saved: Save, web, home: Path) -> None:
    file = saved({"model": pico})
    web.files["/w.pth"] = file.read_bytes()
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(
        DownloadError, match=f"its sha256 is {right}, expected 0000.*the download was removed"
    ):
        add(f"{web.url}/w.pth", sha256="0" * 64)
    assert list((home / "downloads").iterdir()) == []
    with pytest.raises(WeightsError, match="it is another file, or damaged"):
        add(str(file), sha256="0" * 64)
    assert file.exists()
    assert add(f"{web.url}/w.pth", sha256=right.upper()).name == "w"

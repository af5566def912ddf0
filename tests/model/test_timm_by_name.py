"""``timm:NAME`` and ``hf-hub:ORG/NAME``: input, tokens, windows, weights and errors; timm itself is a stand-in."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import safetensors.torch
import torch

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.config.encoder_spec import parse_encoder
from wsi_vmamba.encode import WindowEncoder, build_encoder, facts_of
from wsi_vmamba.errors import ConfigError, UnknownNameError, UsageError, WeightsError
from wsi_vmamba.model import BACKBONES, build_backbone, stride_px
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.weights import weights_hash
from wsi_vmamba.model.window_names import Given, parse_window_name
from wsi_vmamba.regions import Region

SCALE = {"scale": torch.tensor([2.0, 3.0, 4.0]), "cls_token": torch.zeros(1)}


@pytest.fixture
def install(install_timm):
    def install(*arguments, **options):
        module = install_timm(*arguments, **options)
        module.state = dict(SCALE)
        return module

    return install


def encoder(name="timm:fake", *, weights="auto", **options) -> WindowEncoder:
    return build_encoder(name, weights=weights, device="cpu", precision="fp32", **options)


def normal(colours) -> np.ndarray:
    return (np.asarray(colours, np.float64) / 255 - 0.5) / np.array([0.25, 0.5, 1.0])


def quartered(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A window with a colour in each quarter, and the colours, row by row."""
    colours = np.random.default_rng(0).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return colours.repeat(side // 2, axis=0).repeat(side // 2, axis=1), colours.reshape(4, 3)


def test_a_name_is_taken_apart():
    found = parse_window_name("hf-hub:MahmoodLab/UNI2-h@main:class+mean:448px")
    assert (found.model, found.repository) == ("hf-hub:MahmoodLab/UNI2-h@main", "MahmoodLab/UNI2-h")
    assert (found.tokens, found.input_px) == ("class+mean", 448)
    plain = parse_window_name("timm:vit_small_patch14_dinov2.lvd142m")
    assert (plain.model, plain.repository) == ("vit_small_patch14_dinov2.lvd142m", None)
    assert (plain.tokens, plain.input_px) == (None, None)


@pytest.mark.parametrize(
    "name",
    ["timm:", "timm: a", "timm:a/b", "hf-hub:uni", "hf-hub:a/b/c", "timm:a:cls", "timm:a:224px:class",
     "timm:a:224", "timm:a:class:class", "timm:a:0px"],
)  # fmt: skip
def test_a_name_of_another_form_is_refused_wherever_it_is_given(name):
    with pytest.raises(UsageError):
        parse_window_name(name)
    with pytest.raises((UsageError, ConfigError)):
        ExtractConfig(backbone=name)
    with pytest.raises(UsageError):
        parse_encoder(name)


def test_the_table_knows_such_names_and_lists_how_they_look():
    assert "timm:resnet50" in BACKBONES
    assert "hf-hub:paige-ai/Virchow2" in BACKBONES
    assert "timm:resnet50" not in list(BACKBONES)
    assert stride_px("timm:resnet50") is None
    with pytest.raises(UnknownNameError, match=r"hf-hub:ORG/NAME.*timm:NAME"):
        BACKBONES.check("hf_hub:paige-ai/Virchow2")
    assert ExtractConfig(backbone="timm:resnet50", patch_px=224).patch_px == 224


def test_probe_takes_a_name_with_weights_and_size_and_no_function_of_timm():
    spec = parse_encoder("hf-hub:paige-ai/Virchow2:class+mean=w.safetensors@224")
    assert (spec.name, spec.weights) == ("hf-hub:paige-ai/Virchow2:class+mean", "w.safetensors")
    assert (spec.resize_px, spec.is_own) == (224, False)
    assert parse_encoder("timm:resnet50").weights == "auto"
    assert not parse_encoder("timm:resnet50").is_own


@pytest.mark.parametrize(
    ("behind", "pool", "rule"),
    [
        ("", "token", "class"),
        ("", "avg", "mean"),
        ("", "", "class+mean"),
        (":class", "avg", "class"),
        (":mean", "token", "mean"),
        (":class+mean", "token", "class+mean"),
    ],
)
def test_the_feature_is_what_the_model_pools_or_what_is_asked_for_and_registers_are_never_in_it(
    install, behind, pool, rule
):
    install(pool=pool)
    found = encoder(f"timm:fake{behind}")
    window, colours = quartered(32)
    parts = {"class": normal(colours).mean(axis=0) * [2, 3, 4], "mean": normal(colours).mean(axis=0) * 10}
    wanted = np.concatenate([parts[part] for part in rule.split("+")])
    np.testing.assert_allclose(found.encode_windows(window[None])[0], wanted, rtol=1e-5)
    assert (found.dim, facts_of(found)["tokens"]) == (len(wanted), rule)


def test_without_a_class_token_the_mean_is_taken_and_none_is_made_up(install):
    module = install(pool="", class_token=False)
    module.state = {"scale": torch.ones(3)}
    window, colours = quartered(32)
    found = encoder().encode_windows(window[None])[0]
    np.testing.assert_allclose(found, normal(colours).mean(axis=0) * 10, rtol=1e-5)
    with pytest.raises(UsageError, match=r"has no class token; ask for :mean"):
        encoder("timm:fake:class")


def test_size_and_normalisation_are_those_of_the_model_and_the_window_is_the_patch(install):
    install(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), input_size=(3, 48, 48), interpolation="bicubic")
    found = encoder(patch_px=64)
    assert (found.stride_px, found.dim) == (64, 3)
    colour = np.array([10, 100, 200], np.uint8)
    features = found.encode(np.broadcast_to(colour, (64, 128, 3)).copy())
    assert features.shape == (1, 2, 3)
    wanted = (colour / 255 - [0.1, 0.2, 0.3]) / 0.5 * [2, 3, 4]
    np.testing.assert_allclose(features[0, 1], wanted, rtol=1e-4)
    assert found._windows.model.model.seen[-1] == (2, 3, 48, 48)
    assert facts_of(found) == {
        "timm": "9.8.7", "architecture": "fake_vit.in1k", "tokens": "class", "input_px": 48,
        "interpolation": "bicubic", "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5],
    }  # fmt: skip


def test_a_size_that_is_asked_for_is_given_to_timm_and_seen_by_the_model(install):
    module = install()
    found = encoder("timm:fake:64px")
    found.encode_windows(np.zeros((1, 64, 64, 3), np.uint8))
    assert module.asked[-1][2]["pretrained_cfg_overlay"] == {"input_size": (3, 64, 64)}
    assert found._windows.model.model.seen[-1] == (1, 3, 64, 64)


def test_bicubic_windows_are_never_whiter_than_white(install):
    """A black and white edge overshoots when it is resized; the mean of the clipped picture is known from Pillow."""
    from PIL import Image

    install(interpolation="bicubic", mean=(0.0,) * 3, std=(1.0,) * 3)
    module = sys.modules["timm"]
    module.state = {"scale": torch.ones(3), "cls_token": torch.zeros(1)}
    window = np.zeros((24, 24, 3), np.uint8)
    window[:, 9:] = 255
    resized = np.asarray(Image.fromarray(window).resize((32, 32), Image.Resampling.BICUBIC))
    found = encoder().encode_windows(window[None])[0]
    np.testing.assert_allclose(found, resized.mean(axis=(0, 1)) / 255, atol=2e-3)


def test_patches_are_encoded_each_for_itself_in_batches_and_nothing_else(install):
    install()
    found = encoder(patch_px=32)
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (20, 9, 3), dtype=np.uint8)
    pixels = colours.repeat(32, axis=0).repeat(32, axis=1)
    rows, columns = np.nonzero(rng.random((20, 9)) < 0.6)
    region = Region(
        index=0, x_px=96, y_px=64, width_px=9 * 32, height_px=20 * 32,
        patches=np.stack([columns + 3, rows + 2], axis=1),
    )  # fmt: skip
    features = found.encode_patches(pixels, region, patch_px=32)
    np.testing.assert_allclose(features, normal(colours[rows, columns]) * [2, 3, 4], rtol=1e-4)
    assert sum(shape[0] for shape in found._windows.model.model.seen[1:]) == len(rows)
    np.testing.assert_allclose(found.encode(pixels)[rows, columns], features, rtol=1e-5)


def test_weights_are_those_that_timm_finds_or_a_file_or_random(install, tmp_path):
    module = install()
    assert resolve_weights("timm:fake", "auto").source is Given.BY_TIMM
    hashes = {which: encoder(weights=which).weights_hash for which in ("auto", "random")}
    assert [asked[:2] for asked in module.asked] == [("fake", True), ("fake", False)]
    assert hashes["random"] == encoder(weights="random").weights_hash != hashes["auto"]
    assert hashes["random"] != encoder(weights="random", seed=1).weights_hash
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file({**SCALE, "head.weight": torch.zeros(2, 3)}, file)
    assert encoder(weights=file).weights_hash == hashes["auto"]
    safetensors.torch.save_file({"scale": torch.zeros(3)}, file)
    with pytest.raises(WeightsError, match="cls_token"):
        encoder(weights=file)


def test_weights_that_come_back_out_of_the_model_go_into_it_again(install, tmp_path):
    install()
    backbone = build_backbone("timm:fake", weights=Given.BY_TIMM)
    safetensors.torch.save_file(backbone.state_dict(), tmp_path / "w.safetensors")
    assert encoder(weights=tmp_path / "w.safetensors").weights_hash == weights_hash(backbone)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"scale": torch.ones(3)}, r"1 missing, 0 left over \(cls_token\)"),
        ({**SCALE, "blocks.0.ls1.gamma": torch.ones(3)}, r"0 missing, 1 left over \(blocks.0.ls1.gamma\)"),
        ({**SCALE, "scale": torch.ones(4)}, r"weights of timm:fake do not fit the model.*scale"),
        (None, "timm has no weights for timm:fake"),
    ],
)
def test_weights_that_fill_the_model_in_part_are_refused_though_timm_takes_them(install, state, words):
    module = install()
    module.state = state
    with pytest.raises(WeightsError, match=words):
        encoder()
    assert torch.nn.Module.load_state_dict.__qualname__ == "Module.load_state_dict"


def _hub_error(kind: str, *bases: str) -> BaseException:
    """An error with the name that huggingface_hub gives it."""
    parents: tuple[type, ...] = (OSError,)
    for base in bases:
        parents = (type(base, parents, {}),)
    return type(kind, parents, {})("a long text\nof several lines")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_hub_error("GatedRepoError", "HfHubHTTPError", "RepositoryNotFoundError"),
         r"accept their licence.*https://huggingface.co/MahmoodLab/UNI2-h .*hf auth login"),
        (_hub_error("RepositoryNotFoundError", "HfHubHTTPError"), r"no such repository.*hf auth login"),
        (_hub_error("RevisionNotFoundError", "HfHubHTTPError"), "no such revision"),
        (_hub_error("LocalEntryNotFoundError", "EntryNotFoundError"), r"not in the hub's cache.*HF_HOME"),
        (_hub_error("OfflineModeIsEnabled"), r"HF_HUB_OFFLINE forbids"),
        (_hub_error("EntryNotFoundError"), r"lacks a file that timm needs"),
        (_hub_error("HfHubHTTPError"), "the hub refused"),
        (RuntimeError("Hugging Face hub model specified but package not installed."), "package not installed"),
    ],
)  # fmt: skip
def test_what_the_hub_says_becomes_one_line_with_a_remedy(install, error, words):
    install(error=error)
    with pytest.raises(UsageError, match=words) as caught:
        encoder("hf-hub:MahmoodLab/UNI2-h")
    assert "\n" not in str(caught.value)


def test_an_unknown_model_names_the_nearest(install):
    install(error=RuntimeError("Unknown model (vit_tiny_patch16)"))
    with pytest.raises(UsageError, match=r"9.8.7 knows no such model \(did you mean vit_tiny_patch16_224"):
        encoder("timm:vit_tiny_patch16.augreg")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"mean": None}, "should say mean as three numbers"),
        ({"input_size": (1, 32, 32)}, "windows are RGB squares"),
        ({"input_size": (3, 32, 64)}, "windows are RGB squares"),
        ({"interpolation": "lanczos"}, "bilinear and bicubic"),
    ],
)
def test_a_configuration_that_does_not_say_enough_is_refused(install, config, words):
    install(**config)
    with pytest.raises(UsageError, match=words):
        encoder()


def test_model_cards_add_what_their_configurations_lack(install):
    module = install(pool="")
    encoder("hf-hub:MahmoodLab/UNI2-h")
    name, pretrained, arguments = module.asked[-1]
    assert (name, pretrained) == ("hf-hub:MahmoodLab/UNI2-h", True)
    assert (arguments["reg_tokens"], arguments["embed_dim"], arguments["num_classes"]) == (8, 1536, 0)
    assert (arguments["mlp_layer"], arguments["act_layer"]) == ("the layer SwiGLUPacked", torch.nn.SiLU)
    optimus = encoder("hf-hub:bioptimus/H-optimus-1")
    assert facts_of(optimus)["mean"] == [0.707223, 0.578729, 0.703617]
    assert facts_of(encoder("hf-hub:paige-ai/Virchow2"))["tokens"] == "class+mean"


def test_other_input_gives_another_hash_and_another_release_of_timm_does_not(install):
    install()
    first = encoder().weights_hash
    install(version="10.0")
    assert encoder().weights_hash == first
    assert facts_of(encoder())["timm"] == "10.0"
    install(mean=(0.4, 0.5, 0.5))
    assert encoder().weights_hash != first
    install()
    assert encoder("timm:fake:mean").weights_hash != first


def test_a_teacher_sees_a_view_as_one_window_and_no_white_around_it(install):
    from wsi_vmamba.config.pretrain import DistilSettings
    from wsi_vmamba.pretraining.teachers import build_teacher

    install()
    teacher = build_teacher(DistilSettings(teacher="timm:fake", teacher_px=None), seed=0)
    window, colours = quartered(224)
    found = teacher.features(torch.from_numpy(window)[None])[0]
    np.testing.assert_allclose(found, normal(colours).mean(axis=0) * [2, 3, 4], rtol=1e-3, atol=1e-3)

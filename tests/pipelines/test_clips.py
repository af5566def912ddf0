"""finetune on clips as a user meets it: folders of clips in, a classifier of clips out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import wsi_vmamba as wv
from wsi_vmamba.config import FinetuneConfig
from wsi_vmamba.crop import middle_square, random_square
from wsi_vmamba.errors import DatasetError, WeightsError
from wsi_vmamba.model import VMambaConfig
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.pipelines import finetune
from wsi_vmamba.training.clips import find_clips, read_clip
from wsi_vmamba.training.finetune import judge
from wsi_vmamba.training.finetune_weights import packed
from wsi_vmamba.training.tiles import TileSet
from wsi_vmamba.volume.classify import ClipClassifier
from wsi_vmamba.volume.pixels import as_picture


def drifting(rng: np.random.Generator, *, frames: int = 4, side: int = 32) -> NDArray[np.uint8]:
    """A random texture that drifts to the right."""
    texture = np.kron(rng.integers(0, 256, (side // 4, side // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    return np.stack([np.roll(texture, 4 * t, axis=1) for t in range(frames)])


def write_clips(folder: Path, *, each: int, seed: int) -> None:
    """To the left is to the right played backwards, so the two classes have the very same frames."""
    rng = np.random.default_rng(seed)
    for name in ("left", "right"):
        (folder / name).mkdir(parents=True)
    for index in range(each):
        clip = drifting(rng)
        np.save(folder / "right" / f"{index}.npy", clip)
        np.savez_compressed(folder / "left" / f"{index}.npz", clip[::-1])


@pytest.mark.slow
def test_direction_of_motion_is_learnt_and_no_single_frame_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    write_clips(tmp_path / "train", each=96, seed=1)
    write_clips(tmp_path / "validation", each=6, seed=2)
    small = VMambaConfig(depths=(1, 1), dims=(16, 32))
    monkeypatch.setattr("wsi_vmamba.volume.build.VARIANTS", {"vmamba_pico": small})
    values = {
        "tiles": str(tmp_path), "out": str(tmp_path / "tuned"), "weights": "random", "clip_frames": 4,
        "frames_per_token": 2, "epochs": 2, "warmup_epochs": 0, "batch": 8, "learning_rate": 4e-3,
        "layer_decay": 1.0, "turns": "none",
    }  # fmt: skip
    assert finetune.run(FinetuneConfig.model_validate(values))
    said = capsys.readouterr().out
    assert "on 192 clips of 4 frames of 2 classes; 12 for validation" in said
    assert "load_clip_classifier" in said
    classify = wv.load_clip_classifier(tmp_path / "tuned" / "weights.safetensors", device="cpu")
    assert classify.classes == ("left", "right")
    rng = np.random.default_rng(3)
    right = [drifting(rng) for _ in range(16)]
    in_order = [classify(clip)["right"] > 0.5 for clip in right]
    backwards = [classify(clip[::-1])["left"] > 0.5 for clip in right]
    assert np.mean(in_order + backwards) >= 0.95
    # A clip whose frames are all one frame is the same in both classes, so whatever is said of it is chance.
    still = [classify(np.repeat(clip[:1], 4, axis=0))["right"] > 0.5 for clip in right]
    still_backwards = [classify(np.repeat(clip[::-1][3:], 4, axis=0))["left"] > 0.5 for clip in right]
    assert np.mean(still + still_backwards) == 0.5


def test_weights_of_pictures_are_no_classifier_of_clips(tmp_path: Path):
    with pytest.raises(WeightsError, match="not of a fine-tuning on clips"):
        wv.load_clip_classifier(resolve_weights("vmamba_pico", "auto").path)
    (tmp_path / "x").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="cannot be read"):
        wv.load_clip_classifier(tmp_path / "x")
    with pytest.raises(ValueError, match="must be a multiple of frames_per_token"):
        FinetuneConfig(clip_frames=5, frames_per_token=2)
    with pytest.raises(ValueError, match="give clip_frames too"):
        FinetuneConfig(frames_per_token=2)


def test_shipped_weights_are_inflated(tmp_path: Path):
    config = FinetuneConfig(tiles=str(tmp_path), clip_frames=2)
    deep, note = finetune.start(config, n_classes=2)
    flat, same_note = finetune.start(FinetuneConfig(tiles=str(tmp_path)), n_classes=2)
    assert note == same_note
    own, its = deep.state_dict(), flat.state_dict()
    for name in (
        "patch_embed.0.weight",
        "layers.2.blocks.1.mlp.fc1.weight",
        "layers.3.blocks.0.op.conv2d.weight",
    ):
        assert own[name].equal(its[name]), name
    assert own["layers.3.blocks.0.op.x_proj_weight"][:4].equal(its["layers.3.blocks.0.op.x_proj_weight"])
    assert own["layers.3.blocks.0.op.Ds"][4 * 256 :].count_nonzero() == 0


def test_clips_that_are_folders_of_pictures(tmp_path: Path):
    for frame in range(12):
        path = tmp_path / "clip" / f"frame{frame}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8, 3), frame, np.uint8))
    assert list(find_clips(tmp_path)) == [tmp_path / "clip"]
    picture = read_clip(tmp_path / "clip", frames=4)
    assert picture[0, 0].tolist() == [1, 1, 1, 4, 4, 4, 7, 7, 7, 10, 10, 10]


def test_clips_that_cannot_be_taken_are_named(tmp_path: Path):
    def refused(name: str, content: object, words: str) -> None:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif name.endswith(".npz"):
            np.savez(path, **content)
        else:
            np.save(path, content)
        with pytest.raises(DatasetError, match=words) as raised:
            read_clip(path, frames=4)
        assert str(path) in str(raised.value)

    frames = np.zeros((3, 8, 8, 3), np.uint8)
    refused("short.npy", frames, r"has 3 frames, fewer than clip_frames \(4\)")
    refused("float.npy", frames.astype(float), r"expected uint8 RGB frames \(T, H, W, 3\), found float64")
    refused("grey.npy", frames[..., 0], r"found uint8 \(3, 8, 8\)")
    refused("two.npz", {"a": frames, "b": frames}, "expected one array of frames, found 2")
    refused("cut.npy", b"\x93NUMPY", "cannot be read")
    refused("cut.npz", b"PK\x03\x04", "cannot be read")
    refused("objects.npy", np.array([None]), "cannot be read")


def test_crops_of_a_clip_are_alike_in_all_frames():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (7, 40, 50, 3), dtype=np.uint8)
    cut = random_square(np.random.default_rng(5), as_picture(frames), side_px=16)
    for number, frame in enumerate(frames):
        alone = random_square(np.random.default_rng(5), frame, side_px=16)
        np.testing.assert_array_equal(cut[..., 3 * number : 3 * number + 3], alone)


@pytest.mark.parametrize("crop_px", [None, 32])
def test_a_clip_is_classified_as_it_was_judged_in_training(tmp_path: Path, crop_px: int | None):
    """Its middle, resized, where training cropped: the loss of the validation clips is that of its probabilities."""
    config = FinetuneConfig(
        tiles=str(tmp_path), weights="random", clip_frames=4, frames_per_token=2, crop_px=crop_px
    )
    model, _ = finetune.start(config, n_classes=2)
    model.eval()
    (tmp_path / "tuned.safetensors").write_bytes(packed(model, config, ["left", "right"]))
    rng = np.random.default_rng(4)
    clips = {name: rng.integers(0, 256, (4, 64, 96, 3), dtype=np.uint8) for name in ("left", "right")}
    for name, clip in clips.items():
        (tmp_path / "validation" / name).mkdir(parents=True)
        np.save(tmp_path / "validation" / name / "0.npy", clip)
    tiles = TileSet.find(tmp_path / "validation", clip_frames=4)
    loss, _ = judge(model, tiles, batch=2, crop_px=crop_px)
    classify = wv.load_clip_classifier(tmp_path / "tuned.safetensors", device="cpu")
    assert classify.crop_px == crop_px
    shares = [classify(clip)[name] for name, clip in clips.items()]
    assert -np.log(shares).mean() == pytest.approx(loss, abs=1e-5)
    if crop_px is not None:
        middle = [middle_square(as_picture(clip), side_px=crop_px) for clip in clips.values()]
        alone = ClipClassifier(classify.model, classes=classify.classes, clip_frames=4, device="cpu")
        frames = [np.stack(np.split(picture, 4, axis=2)) for picture in middle]
        assert [alone(clip)[name] for clip, name in zip(frames, clips, strict=True)] == shares
        assert [alone(clip)[name] for name, clip in clips.items()] != shares

"""Fine-tuning a backbone: each layer at its own rate, tiles read as they are, the same bits for the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from wsi_vmamba.errors import DatasetError, MissingDataError, TrainingError
from wsi_vmamba.model import VMambaConfig
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.training.finetune import FinetuneEpoch, FinetuneSettings, finetune, judge
from wsi_vmamba.training.optimise import rate_share
from wsi_vmamba.training.tiles import TileSet, turn

ONE_STEP = FinetuneSettings(
    epochs=1, warmup_epochs=0, batch=8, learning_rate=1e-3, layer_decay=0.5, weight_decay=0.0, gradient_clip=1.0,
    seed=0,
)  # fmt: skip
SMALL = VMambaConfig(depths=(1, 1, 2, 1), dims=(8, 16, 16, 16), num_classes=2)


def write_tiles(folder: Path, *, each: int = 4, side_px: int = 64, seed: int = 0) -> Path:
    """Noise around pink for ``a``, around violet for ``b``."""
    rng = np.random.default_rng(seed)
    for name, rgb in (("a", (220, 150, 180)), ("b", (150, 120, 200))):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            pixels = np.clip(rng.normal(rgb, 25, (side_px, side_px, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / name / f"{index}.png"), pixels[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return TileSet.find(write_tiles(tmp_path_factory.mktemp("tiles") / "train"))


def small_model() -> VMamba:
    torch.manual_seed(2)
    return VMamba(SMALL)


def tune(model: VMamba, tiles: TileSet, settings: FinetuneSettings) -> list[FinetuneEpoch]:
    return finetune(model, tiles, tiles, settings, on_epoch=lambda report, model: None)


def test_each_layer_moves_by_its_own_rate(tiles: TileSet):
    """The first step of Adam is the learning rate wherever the gradient is well above its epsilon."""
    model = small_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    tune(model, tiles, ONE_STEP)
    moved = {name: (p.detach() - before[name]).abs().max().item() for name, p in model.named_parameters()}
    depth_of = {
        "classifier.head.weight": 0, "layers.3.blocks.0.mlp.fc2.weight": 1, "layers.2.blocks.1.mlp.fc2.weight": 2,
        "layers.2.blocks.0.mlp.fc2.weight": 3, "layers.1.downsample.1.weight": 4, "layers.0.downsample.1.weight": 5,
        "layers.0.blocks.0.op.in_proj.weight": 5, "patch_embed.0.weight": 6,
    }  # fmt: skip
    for name, depth in depth_of.items():
        assert moved[name] == pytest.approx(1e-3 * 0.5**depth, rel=0.02), name


def test_it_learns_and_the_same_seed_gives_the_same_bits(tiles: TileSet, tmp_path: Path):
    validation = TileSet.find(write_tiles(tmp_path / "validation", seed=9))
    settings = replace(ONE_STEP, epochs=12, batch=4, learning_rate=3e-3, layer_decay=0.8)
    histories, models = [], []
    for seed in (0, 0, 1):
        model = small_model()
        histories.append(
            finetune(model, tiles, validation, replace(settings, seed=seed), on_epoch=lambda *_: None)
        )
        models.append(model.state_dict())
    assert histories[0] == histories[1]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())
    assert histories[0] != histories[2]
    assert max(report.validation_accuracy for report in histories[0]) == 1.0
    assert histories[0][-1].train_loss < 0.5 * histories[0][0].train_loss


def test_the_best_epoch_has_the_highest_accuracy_then_the_lowest_loss(tiles: TileSet, monkeypatch):
    found = iter([(0.9, 0.5), (0.7, 0.8), (0.6, 0.8), (0.6, 0.8), (0.1, 0.7), (2.0, 0.9)])
    monkeypatch.setattr("wsi_vmamba.training.finetune.judge", lambda *values, **options: next(found))
    history = tune(small_model(), tiles, replace(ONE_STEP, epochs=6))
    assert [report.is_best for report in history] == [True, True, True, False, False, True]


def test_accuracy_counts_each_class_the_same(tmp_path: Path):
    write_tiles(tmp_path)
    for path in (tmp_path / "b").glob("[1-3].png"):
        path.unlink()
    uneven = TileSet.find(tmp_path)
    model = small_model()
    with torch.no_grad():
        model.classifier.get_submodule("head").weight.zero_()
        model.classifier.get_submodule("head").bias.copy_(torch.tensor([1.0, 0.0]))  # always a
    loss, accuracy = judge(model, uneven, batch=3)
    assert accuracy == 0.5
    right, wrong = np.log1p(np.exp(-1)), np.log1p(np.exp(1))
    assert loss == pytest.approx((4 * right + wrong) / 5, rel=1e-6)


def test_a_step_that_is_not_finite_names_its_tiles(tiles: TileSet):
    with pytest.raises(
        TrainingError,
        match=r"epoch \d, the batch with .*\.png.*: the .* is (nan|inf)\. it(s| begins)",
    ):
        tune(small_model(), tiles, replace(ONE_STEP, epochs=4, batch=4, learning_rate=1e30))


def test_tiles_turn_as_a_whole_and_lose_nothing():
    pixels = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)
    turned = turn(np.random.default_rng(0), pixels)
    assert turned.shape == pixels.shape
    assert not np.array_equal(turned, pixels)
    for image, source in zip(turned, pixels, strict=True):
        ways = [np.rot90(view, k) for view in (source, source[:, ::-1]) for k in range(4)]
        assert any(np.array_equal(image, way) for way in ways)
    oblong = np.zeros((20, 2, 4, 3), np.uint8)
    assert turn(np.random.default_rng(0), oblong).shape == oblong.shape


def test_colours_and_labels_are_those_of_the_files(tiles: TileSet):
    assert tiles.classes == ("a", "b")
    ((members, pixels),) = tiles.batches([0, 4], size=8)
    assert [(tile.path.parent.name, tile.label) for tile in members] == [("a", 0), ("b", 1)]
    np.testing.assert_allclose(pixels.mean(axis=(1, 2)), [(220, 150, 180), (150, 120, 200)], atol=3)


def test_rates_rise_and_fall():
    rates = [rate_share(step, warmup=4, total=12) for step in range(13)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[8] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0.0, abs=1e-12)


def test_folders_and_tiles_that_do_not_fit_are_refused(tmp_path: Path):
    with pytest.raises(MissingDataError, match="no folder"):
        TileSet.find(tmp_path / "none")
    (tmp_path / "one" / "a").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"found no tiles in a"):
        TileSet.find(tmp_path / "one")
    train = TileSet.find(write_tiles(tmp_path / "train"))
    other = write_tiles(tmp_path / "other")
    (other / "b").rename(other / "c")
    with pytest.raises(DatasetError, match="only one of them has b, c"):
        finetune(small_model(), train, TileSet.find(other), ONE_STEP, on_epoch=lambda *_: None)
    large = TileSet.find(write_tiles(tmp_path / "large", side_px=96))
    with pytest.raises(DatasetError, match=r"\(64, 64\).*\(96, 96\)"):
        finetune(small_model(), train, large, ONE_STEP, on_epoch=lambda *_: None)
    (tmp_path / "large" / "b" / "2.png").replace(tmp_path / "train" / "b" / "2.png")
    with pytest.raises(DatasetError, match=r"2\.png has 96 x 96 px, the first tile 64 x 64"):
        tune(small_model(), train, ONE_STEP)
    (tmp_path / "train" / "b" / "2.png").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match=r"2\.png: the tile cannot be decoded"):
        tune(small_model(), train, ONE_STEP)


# --- the supervised recipe ---

RECIPE = replace(
    ONE_STEP, batch=4, drop_path=0.3, label_smoothing=0.1, mixup=0.8, cutmix=1.0, erase=0.25, ema_decay=0.9, crop_px=32,
    turns="mirror",
)  # fmt: skip


def test_the_recipe_learns_and_the_same_seed_gives_the_same_bits(tiles: TileSet, tmp_path: Path):
    validation = TileSet.find(write_tiles(tmp_path / "validation", seed=9))
    settings = replace(RECIPE, epochs=6, learning_rate=3e-3, layer_decay=1.0)
    histories = [
        finetune(small_model(), tiles, validation, replace(settings, seed=seed), on_epoch=lambda *_: None)
        for seed in (0, 0, 1)
    ]
    assert histories[0] == histories[1]
    assert histories[0] != histories[2]
    assert histories[0][-1].validation_accuracy == 1.0


def test_the_callers_random_stream_is_left_alone(tiles: TileSet):
    model = small_model()
    before = torch.get_rng_state()
    tune(model, tiles, RECIPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_average_of_the_weights_is_what_is_judged_and_handed_out(tiles: TileSet):
    """Two steps: the average is 2/11 of the way behind at the second update, as its decay rises from 1/10."""
    seen: list[dict[str, torch.Tensor]] = []
    model = small_model()
    settings = replace(ONE_STEP, batch=4, ema_decay=0.99)
    finetune(model, tiles, tiles, settings, on_epoch=lambda _, kept: seen.append(kept.state_dict()))
    after_two = model.state_dict()
    first = small_model()

    steps = []
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *values: object) -> object:
        found = original(self, *values)
        steps.append({key: value.detach().clone() for key, value in first.state_dict().items()})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        tune(first, tiles, replace(settings, ema_decay=0.0))
    assert len(steps) == 2
    for key, value in after_two.items():
        assert torch.equal(value, steps[1][key])
        share = 2 / 11  # torch copies at the first update and averages from the second on
        torch.testing.assert_close(seen[0][key], share * steps[0][key] + (1 - share) * steps[1][key])


def test_pictures_of_many_sizes_are_cropped(tmp_path: Path):
    folder = write_tiles(tmp_path / "all", side_px=40)
    for path in (folder / "a").glob("*.png"):
        cv2.imwrite(str(path), np.full((50 + len(path.name), 70, 3), 90, np.uint8))
    odd = TileSet.find(folder)
    with pytest.raises(DatasetError, match="all tiles must be of one size"):
        tune(small_model(), odd, ONE_STEP)
    (report,) = tune(small_model(), odd, replace(ONE_STEP, crop_px=32))
    assert np.isfinite(report.train_loss)

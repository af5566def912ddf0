from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_vmamba.bags import Bag, FeatureSource
from wsi_vmamba.config import TrainConfig
from wsi_vmamba.errors import (
    ConfigError,
    DatasetError,
    IncompatibleStoreError,
    TrainingError,
    UsageError,
    WeightsError,
)
from wsi_vmamba.mil import AGGREGATORS
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.training import EpochReport, TrainSettings, load_run, predict, train
from wsi_vmamba.training.model import feature_moments
from wsi_vmamba.training.slides import class_weights

SOURCE = FeatureSource(model="null", weights_hash="00", target_mpp=0.5, patch_px=256)
QUICK = TrainSettings(epochs=6, hidden_dim=16, patience=6, learning_rate=5e-4)


class Cohort:
    """Slides whose positives have a few patches shifted along one direction; a stand-in for a BagLoader."""

    def __init__(
        self,
        n_slides: int,
        *,
        dim: int = 256,
        n_patches: int = 300,
        lesion_patches: int = 15,
        shift: float = 1.0,
    ):
        generator = np.random.default_rng(7)
        direction = generator.normal(size=dim).astype(np.float32)
        offset = 30 * generator.normal(size=dim).astype(np.float32)
        scale = np.exp(2 * generator.normal(size=dim)).astype(np.float32)
        self.records = [SlideRecord(slide_id=f"s{i:02}", label=i % 2) for i in range(n_slides)]
        self.bags = {}
        for record in self.records:
            features = generator.normal(size=(n_patches, dim)).astype(np.float32)
            features[: lesion_patches * record.label] += shift * direction
            self.bags[record.slide_id] = Bag(
                slide_id=record.slide_id,
                features=features * scale + offset,
                coords_l0=np.stack([np.arange(n_patches) % 20, np.arange(n_patches) // 20], axis=1) * 512,
                patch_l0=512.0,
                source=SOURCE,
            )

    def __call__(self, record: SlideRecord) -> Bag:
        return self.bags[record.slide_id]


@pytest.fixture(scope="module")
def small() -> Cohort:
    return Cohort(14, dim=24, n_patches=60, lesion_patches=8)


def plain(value):
    """Tensors as bytes, so that states compare by == and to the bit."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.numpy().tobytes())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def files(run_dir: Path) -> dict:
    """All files by their bytes; the checkpoint by its values, as the pickle inside counts shared strings."""
    found = {file.name: file.read_bytes() for file in run_dir.iterdir()}
    found["checkpoint.pt"] = plain(torch.load(run_dir / "checkpoint.pt", weights_only=True))
    return found


class StopHere(Exception):  # noqa: N818
    pass


def read_metrics(run_dir: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run_dir / "metrics.csv").read_text().splitlines()))


def stop_after(epoch: int):
    def callback(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise StopHere

    return callback


# --- it learns ---


def test_default_abmil_learns_a_few_marked_patches_and_attends_to_them(tmp_path):
    cohort = Cohort(48)
    train_records = [replace(r, split="train" if i < 24 else "test") for i, r in enumerate(cohort.records)]
    result = train(train_records, cohort, TrainSettings(epochs=30), tmp_path)
    held_out = [r for r in train_records if r.split == "test"]
    predictions = {r.slide_id: predict(result.model, cohort(r)) for r in held_out}
    right = [(predictions[r.slide_id].probability > 0.5) == bool(r.label) for r in held_out]
    assert np.mean(right) >= 0.9
    lesion_share = [predictions[r.slide_id].attention[:15].sum() for r in held_out if r.label]
    assert np.mean(lesion_share) > 3 * 15 / 300
    assert result.best.validation_auc == 1.0


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name == "transmil" else name for name in AGGREGATORS],
)
def test_every_aggregator_trains_and_comes_back(name, tmp_path):
    cohort = Cohort(16, dim=24, n_patches=60, lesion_patches=30, shift=2.0)
    settings = TrainSettings(aggregator=name, epochs=30, hidden_dim=32, learning_rate=2e-3)
    result = train(cohort.records, cohort, settings, tmp_path)
    assert result.best.validation_auc == 1.0
    assert result.best.validation_loss < 0.5
    run = load_run(tmp_path)
    for record in cohort.records[:4]:
        before, after = predict(result.model, cohort(record)), predict(run.model, cohort(record))
        assert after.probability == before.probability
        if before.attention is not None:
            np.testing.assert_array_equal(after.attention, before.attention)
            assert after.attention.sum() == pytest.approx(1.0, abs=1e-5)


# --- the same bits ---


def test_same_call_gives_the_same_bytes_and_leaves_the_global_generator_alone(small, tmp_path):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    train(small.records, small, QUICK, tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    train(small.records, small, QUICK, tmp_path / "b")
    a, b = files(tmp_path / "a"), files(tmp_path / "b")
    assert set(a) == {"checkpoint.pt", "best.safetensors", "model.json", "metrics.csv", "splits.csv"}
    assert a == b


def test_another_seed_gives_another_model(small, tmp_path):
    first = train(small.records, small, QUICK, tmp_path / "a")
    other = train(small.records, small, QUICK.changed(seed=1), tmp_path / "b")
    assert first.history != other.history


@pytest.mark.parametrize(("name", "epoch"), [*((name, 4) for name in AGGREGATORS), ("abmil", 1)])
def test_stopped_and_resumed_equals_uninterrupted_to_the_bit(small, tmp_path, name, epoch):
    settings = QUICK.changed(aggregator=name, dropout=0.4)
    whole = train(small.records, small, settings, tmp_path / "whole")
    with pytest.raises(StopHere):
        train(small.records, small, settings, tmp_path / "parts", on_epoch=stop_after(epoch))
    assert len(read_metrics(tmp_path / "parts")) == epoch
    torch.manual_seed(99)  # whatever the process drew in between must not matter
    seen = []
    resumed = train(small.records, small, settings, tmp_path / "parts", resume=True, on_epoch=seen.append)
    assert [report.epoch for report in seen] == list(range(epoch + 1, 7))
    assert resumed.history == whole.history
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_death_between_best_model_and_checkpoint_is_repaired_by_resuming(small, tmp_path, monkeypatch):
    whole = train(small.records, small, QUICK, tmp_path / "whole")
    with monkeypatch.context() as patched:
        calls = []

        def dying_save(self, path):
            calls.append(path)
            if len(calls) == 3:
                raise StopHere
            original(self, path)

        from wsi_vmamba.training.checkpoint import Checkpoint

        original = Checkpoint.save
        patched.setattr(Checkpoint, "save", dying_save)
        with pytest.raises(StopHere):
            train(small.records, small, QUICK, tmp_path / "parts")
    resumed = train(small.records, small, QUICK, tmp_path / "parts", resume=True)
    assert resumed.history == whole.history
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(small, tmp_path):
    train(small.records, small, QUICK, tmp_path)
    before = files(tmp_path)
    result = train(small.records, small, QUICK, tmp_path, resume=True, on_epoch=stop_after(1))
    assert files(tmp_path) == before
    assert len(result.history) == QUICK.epochs


def test_resume_without_a_checkpoint_starts(small, tmp_path):
    assert len(train(small.records, small, QUICK, tmp_path, resume=True).history) == QUICK.epochs


def test_resume_refuses_other_settings_and_other_slides(small, tmp_path):
    with pytest.raises(StopHere):
        train(small.records, small, QUICK, tmp_path, on_epoch=stop_after(2))
    with pytest.raises(TrainingError, match=r"learning_rate: 0\.0005 in the checkpoint, 0\.1 asked"):
        train(small.records, small, QUICK.changed(learning_rate=0.1), tmp_path, resume=True)
    with pytest.raises(TrainingError, match=r"training slides differ: .*s\d\d"):
        train(small.records[:-2], small, QUICK, tmp_path, resume=True)


def test_existing_run_is_refused_or_replaced(small, tmp_path):
    train(small.records, small, QUICK, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"--resume.*--overwrite.*--name"):
        train(small.records, small, QUICK, tmp_path)
    result = train(small.records, small, QUICK.changed(epochs=2), tmp_path, overwrite=True)
    assert len(result.history) == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_damaged_checkpoint_is_named(small, tmp_path):
    train(small.records, small, QUICK, tmp_path)
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"not a checkpoint"):
        (tmp_path / "checkpoint.pt").write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"checkpoint\.pt is damaged or no checkpoint"):
            train(small.records, small, QUICK, tmp_path, resume=True)


class Evil:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_checkpoint_never_runs_pickled_code(small, tmp_path):
    train(small.records, small, QUICK, tmp_path)
    torch.save({"history": [Evil(tmp_path / "mark")]}, tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingError, match="damaged or no checkpoint"):
        train(small.records, small, QUICK, tmp_path, resume=True)
    assert not (tmp_path / "mark").exists()


# --- early stopping and the best model ---


def outcome(tmp_path, monkeypatch, small, epochs: list[tuple[float, float]], *, patience: int) -> list[bool]:
    """Train with invented (auc, loss) of the validation and return which epochs counted as best."""
    from wsi_vmamba.training.loop import _Loop

    monkeypatch.setattr(_Loop, "_validate", lambda self, epoch: (epochs[epoch - 1][1], epochs[epoch - 1][0]))
    settings = QUICK.changed(epochs=len(epochs), patience=patience)
    result = train(small.records, small, settings, tmp_path)
    best = max(result.history, key=lambda report: (report.validation_auc, -report.validation_loss))
    assert result.best == best
    return [report.is_best for report in result.history]


def test_best_is_by_auc_and_ties_by_loss(tmp_path, monkeypatch, small):
    epochs = [(0.5, 0.9), (0.8, 0.7), (0.8, 0.6), (0.8, 0.6), (0.7, 0.1), (0.9, 2.0)]
    assert outcome(tmp_path, monkeypatch, small, epochs, patience=9) == [True, True, True, False, False, True]


def test_stops_when_patience_runs_out(tmp_path, monkeypatch, small):
    epochs = [(0.5, 0.9), (0.8, 0.7), (0.7, 0.5), (0.8, 0.8), (0.1, 0.1), (1.0, 0.1)]
    assert outcome(tmp_path, monkeypatch, small, epochs, patience=2) == [True, True, False, False]


def test_kept_model_is_the_one_of_the_best_epoch(small, tmp_path):
    result = train(small.records, small, QUICK, tmp_path)
    validation = [r for r in small.records if load_run(tmp_path).splits[r.slide_id] == "validation"]
    scores = [predict(result.model, small(r)).probability for r in validation]
    weights = class_weights([r for r in small.records if r not in validation], balanced=True)
    losses = [
        -weights[r.label] * np.log(score if r.label else 1 - score)
        for r, score in zip(validation, scores, strict=True)
    ]
    assert result.best.validation_loss == pytest.approx(np.mean(losses), rel=1e-5)


# --- what goes wrong ---


def poisoned(cohort: Cohort, slide_id: str, value: float) -> Cohort:
    bad = Cohort.__new__(Cohort)
    bad.records = cohort.records
    features = cohort.bags[slide_id].features.copy()
    features[3, 5] = value
    bad.bags = {**cohort.bags, slide_id: replace(cohort.bags[slide_id], features=features)}
    return bad


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_not_a_number_stops_the_run_naming_the_slide(small, tmp_path, value, split):
    train(small.records, small, QUICK.changed(epochs=1), tmp_path / "good")
    slide_id = next(name for name, found in load_run(tmp_path / "good").splits.items() if found == split)
    with pytest.raises(TrainingError, match=slide_id):
        train(small.records, poisoned(small, slide_id, value), QUICK, tmp_path / "bad")


def test_not_a_number_in_the_middle_keeps_the_checkpoint_before(small, tmp_path):
    loader = poisoned(small, "s00", 0.0)

    def poison(report: EpochReport) -> None:
        if report.epoch == 2:
            for record in small.records:
                loader.bags[record.slide_id] = replace(
                    small(record), features=np.full_like(small(record).features, np.nan)
                )

    with pytest.raises(
        TrainingError, match=r"epoch 3, slide s\d\d: the loss is nan; the checkpoint of the epoch before"
    ):
        train(small.records, loader, QUICK, tmp_path, on_epoch=poison)
    assert len(read_metrics(tmp_path)) == 2
    repaired = train(small.records, poisoned(small, "s00", 0.0), QUICK, tmp_path, resume=True)
    assert len(repaired.history) == 6


def test_leaked_patient_and_missing_labels_are_refused(small, tmp_path):
    leaky = [
        replace(r, patient_id="p", split="test" if i == 0 else "train") if i < 2 else r
        for i, r in enumerate(small.records)
    ]
    with pytest.raises(DatasetError, match=r"several: p \(test, train\)"):
        train(leaky, small, QUICK, tmp_path)
    undecided = [
        replace(r, patient_id="p", split="test" if i == 0 else None) if i < 2 else r
        for i, r in enumerate(small.records)
    ]
    with pytest.raises(DatasetError, match=r"several: p \(test, train\)"):
        train(undecided, small, QUICK, tmp_path)
    with pytest.raises(
        DatasetError,
        match="s00: a slide for training needs the label 0 or 1, or the name of a class, got None",
    ):
        train([replace(small.records[0], label=None), *small.records[1:]], small, QUICK, tmp_path)
    one_sided = [
        replace(r, split="validation" if r.label and i < 4 else "train") for i, r in enumerate(small.records)
    ]
    with pytest.raises(DatasetError, match="the validation slides need both labels"):
        train(one_sided, small, QUICK, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_given_validation_split_is_kept_and_test_slides_are_never_loaded(small, tmp_path):
    splits = ["validation"] * 4 + ["test"] * 2 + ["train"] * 8
    records = [replace(r, split=split) for r, split in zip(small.records, splits, strict=True)]
    loaded = set()

    def load(record: SlideRecord) -> Bag:
        loaded.add(record.slide_id)
        return small(record)

    train(records, load, QUICK, tmp_path)
    assert loaded == {r.slide_id for r in records if r.split != "test"}
    assert load_run(tmp_path).splits == {r.slide_id: r.split for r in records}


# --- standardisation, weights, schedule ---


def test_standardisation_is_learned_on_the_training_slides_only(small, tmp_path):
    shifted = Cohort.__new__(Cohort)
    shifted.records = [
        replace(r, split="validation" if i < 4 else "train") for i, r in enumerate(small.records)
    ]
    shifted.bags = {
        r.slide_id: replace(small(r), features=small(r).features + 1000.0 * (r.split == "validation"))
        for r in shifted.records
    }
    model = train(shifted.records, shifted, QUICK, tmp_path).model
    patches = np.concatenate([small(r).features for r in shifted.records if r.split == "train"]).astype(
        np.float64
    )
    np.testing.assert_allclose(model.feature_mean.numpy(), patches.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(model.feature_std.numpy(), patches.std(axis=0), rtol=1e-4)
    loaded = load_run(tmp_path).model
    assert torch.equal(loaded.feature_mean, model.feature_mean)
    assert torch.equal(loaded.feature_std, model.feature_std)


def test_each_slide_counts_the_same_and_a_constant_feature_is_only_centred():
    def bag(values: list[float]) -> Bag:
        features = np.stack([values, np.full(len(values), 5.0)], axis=1).astype(np.float32)
        return Bag(
            slide_id="s", features=features, coords_l0=np.zeros((len(values), 2), np.int64), patch_l0=1.0
        )

    bags = {"a": bag([0.0]), "b": bag([2.0] * 99)}
    mean, std = feature_moments([SlideRecord(slide_id=name) for name in bags], lambda r: bags[r.slide_id])
    assert mean.tolist() == [1.0, 5.0]
    assert std.tolist() == [1.0, 1.0]


def test_class_weights_balance_the_labels():
    records = [SlideRecord(slide_id=str(i), label=int(i < 3)) for i in range(12)]
    assert class_weights(records, balanced=True) == [12 / 18, 2.0]
    assert class_weights(records, balanced=False) == [1.0, 1.0]


def test_settings_have_the_defaults_of_the_command():
    config, settings = TrainConfig(), TrainSettings()
    shared = set(TrainSettings.model_fields) & set(TrainConfig.model_fields)
    assert {"learning_rate", "epochs", "patience", "dropout", "seed"} <= shared
    # The command chooses these two by what is supervised and by the device.
    for name in shared - {"aggregator", "precision"}:
        assert getattr(settings, name) == getattr(config, name), name


def test_learning_rate_rises_then_falls_to_zero():
    settings = TrainSettings(epochs=10, warmup_epochs=2, learning_rate=1.0)
    rates = [settings.rate_at(step, steps_per_epoch=5) for step in range(51)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[30] == pytest.approx(0.5)
    assert rates[50] == pytest.approx(0.0)
    assert all(a > b for a, b in pairwise(rates[10:]))
    only_fall = TrainSettings(epochs=1, warmup_epochs=2, learning_rate=1.0)
    assert only_fall.rate_at(0, steps_per_epoch=5) == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, r"epochs: .* greater than or equal to 1 \(got 0\)"),
        ({"epochs": True}, "epochs: Input should be a valid integer"),
        ({"dropout": 1.0}, r"dropout: .* less than 1 \(got 1\.0\)"),
        ({"learning_rate": float("nan")}, "learning_rate: Input should be"),
        ({"validation_fraction": 0.0}, "validation_fraction: Input should be greater than 0"),
        ({"weight_decay": -1.0}, "weight_decay: Input should be greater than"),
    ],
)
def test_settings_are_checked_at_birth(changes, message):
    with pytest.raises(UsageError, match=message):
        TrainSettings(**changes)


def test_unknown_aggregator_is_refused_by_listing():
    with pytest.raises(ConfigError, match=r"unknown aggregator.*abmil, clam_mb, .*mean"):
        TrainSettings(aggregator="abmill")


# --- the run's folder ---


def test_metrics_csv_and_model_json_hold_what_was_reported(small, tmp_path):
    seen: list[EpochReport] = []
    result = train(small.records, small, QUICK, tmp_path, on_epoch=seen.append)
    assert tuple(seen) == result.history
    rows = read_metrics(tmp_path)
    assert [float(row["validation_loss"]) for row in rows] == [report.validation_loss for report in seen]
    assert [row["is_best"] for row in rows] == [str(report.is_best) for report in seen]
    run = load_run(tmp_path)
    assert run.settings == QUICK
    assert run.best == result.best
    assert run.model.spec.source == SOURCE
    assert not run.model.training


def test_load_run_says_what_is_wrong(small, tmp_path):
    with pytest.raises(TrainingError, match=r"no trained run at .*wsi-vmamba train"):
        load_run(tmp_path / "none")
    train(small.records, small, QUICK, tmp_path)
    model_json, weights = tmp_path / "model.json", tmp_path / "best.safetensors"
    content = json.loads(model_json.read_text())
    content["spec"]["hidden_dim"] = 32
    model_json.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"best\.safetensors"):
        load_run(tmp_path)
    model_json.write_text(model_json.read_text()[:40])
    with pytest.raises(TrainingError, match="damaged"):
        load_run(tmp_path)
    content["spec"]["hidden_dim"] = 16
    model_json.write_text(json.dumps(content))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(WeightsError, match=r"best\.safetensors"):
        load_run(tmp_path)


def test_predict_refuses_features_of_another_kind(small, tmp_path):
    model = train(small.records, small, QUICK, tmp_path).model
    bag = small(small.records[0])
    with pytest.raises(IncompatibleStoreError, match=r"s00: .*target_mpp: 0\.5 and 1\.0"):
        predict(model, replace(bag, source=replace(SOURCE, target_mpp=1.0)))
    with pytest.raises(IncompatibleStoreError, match="expects features of length 24, got 20"):
        predict(model, replace(bag, features=bag.features[:, :20]))


def test_predict_takes_read_only_features(small, tmp_path):
    model = train(small.records, small, QUICK, tmp_path).model
    bag = small(small.records[0])
    locked = bag.features.copy()
    locked.flags.writeable = False
    assert predict(model, replace(bag, features=locked)).probability == predict(model, bag).probability

"""Training from outlines: what the patches learn, and what the slides gain from it."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.bags import Bag
from wsi_vmamba.errors import ConfigError, UsageError
from wsi_vmamba.mil import SUPERVISIONS
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.training import TrainSettings, load_run, predict, train

LESION = 6


class Outlined:
    """Slides with six tumour patches among two hundred, shifted in one feature of twelve; targets are known."""

    def __init__(self, slides: int = 20):
        generator = np.random.default_rng(5)
        places = np.stack([np.arange(200) % 20, np.arange(200) // 20], axis=1).astype(np.int64)
        self.records, self.bags, self.targets = [], {}, {}
        for index in range(slides):
            name, label = f"s{index:02}", index % 2
            features = generator.normal(size=(200, 12)).astype(np.float32)
            tumor = generator.permutation(200)[: LESION * label]
            features[tumor, 3] += 4.0
            self.records.append(
                SlideRecord(slide_id=name, label=label, split="test" if index >= 14 else None)
            )
            self.bags[name] = Bag(
                slide_id=name, features=features, coords_l0=places * 256, patch_l0=256.0, label=label
            )
            self.targets[name] = np.isin(np.arange(200), tumor).astype(np.float32)

    def __call__(self, record: SlideRecord) -> Bag:
        return self.bags[record.slide_id]

    def load_targets(self, record: SlideRecord, bag: Bag):
        return self.targets[record.slide_id]


@pytest.fixture(scope="module")
def cohort() -> Outlined:
    return Outlined()


def settings_of(supervision: str) -> TrainSettings:
    aggregator = "abmil" if SUPERVISIONS.resolve(supervision).slides else None
    return TrainSettings(
        aggregator=aggregator, supervision=supervision, epochs=25, hidden_dim=16, learning_rate=3e-3
    )


@pytest.mark.parametrize("supervision", ["dense", "both"])
def test_patches_learn_from_outlines_and_come_back(cohort, tmp_path, supervision):
    train(cohort.records, cohort, settings_of(supervision), tmp_path, load_targets=cohort.load_targets)
    run = load_run(tmp_path)
    scores = []
    for record in cohort.records[14:]:
        found = predict(run.model, cohort(record))
        truth = cohort.targets[record.slide_id] == 1
        assert found.patches.shape == truth.shape
        assert found.patches.dtype == np.float32
        assert found.patches[~truth].mean() < 0.2
        if record.label:
            assert found.patches[truth].mean() > 0.7
        assert (found.attention is None) == (supervision == "dense")
        if supervision == "dense":
            assert found.probability == pytest.approx(found.patches.max(), rel=1e-6)
        scores.append((record.label, found.probability))
    positive = [score for label, score in scores if label]
    assert min(positive) > max(score for label, score in scores if not label)


def test_slide_supervision_asks_for_no_targets_and_gives_no_patches(cohort, tmp_path):
    def never(record, bag):
        raise AssertionError("targets were asked for")

    result = train(cohort.records, cohort, settings_of("slide"), tmp_path, load_targets=never)
    assert predict(result.model, cohort(cohort.records[0])).patches is None


def test_aggregator_gives_no_gradient_to_the_patch_head(cohort, tmp_path):
    result = train(
        cohort.records,
        cohort,
        settings_of("both").changed(epochs=1),
        tmp_path,
        load_targets=cohort.load_targets,
    )
    model = result.model.train()
    model.forward_bag(cohort(cohort.records[1])).logits[1].backward()
    assert all(p.grad is None for p in model.patch_head.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.aggregator.parameters())


def test_unknown_patches_teach_nothing(cohort, tmp_path):
    """Only features of patches known to be tumour or not are ever looked at by the loss of a training slide."""

    def none_known(record, bag):
        return np.full(len(bag.features), np.nan, dtype=np.float32)

    settings = settings_of("dense").changed(epochs=3, weight_decay=0.0)
    result = train(cohort.records, cohort, settings, tmp_path, load_targets=none_known)
    assert [report.train_loss for report in result.history] == [0.0] * 3
    assert len({report.validation_auc for report in result.history}) == 1  # nothing moved


def test_average_and_bf16_train_and_differ_from_plain(cohort, tmp_path):
    plain = settings_of("slide").changed(epochs=8)
    histories = []
    for name, changes in (("plain", {}), ("ema", {"ema_decay": 0.9}), ("bf16", {"precision": "bf16"})):
        result = train(cohort.records, cohort, plain.changed(**changes), tmp_path / name)
        assert result.history[-1].train_loss < result.history[0].train_loss
        histories.append([report.validation_loss for report in result.history])
    assert histories[0] != histories[1]
    assert histories[0] != histories[2]
    assert histories[2] == pytest.approx(histories[0], rel=0.2)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="'dense' has no aggregator, got 'abmil'"):
        TrainSettings(supervision="dense")
    with pytest.raises(UsageError, match="'both' needs aggregator, got None"):
        TrainSettings(supervision="both", aggregator=None)
    with pytest.raises(ConfigError, match=r"unknown supervision 'pixels'.*both, dense, slide"):
        TrainSettings(supervision="pixels")
    with pytest.raises(ConfigError, match=r"precision: unknown precision 'fp16'.*choose from bf16, fp32"):
        TrainSettings(precision="fp16")
    with pytest.raises(UsageError, match="ema_decay: Input should be less than 1"):
        TrainSettings(ema_decay=1.0)

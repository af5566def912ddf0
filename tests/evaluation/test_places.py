"""`evaluate --shuffle-places`: what places are worth to a model, by values known beforehand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import wsi_vmamba as wv
from wsi_vmamba.bags import Bag
from wsi_vmamba.config import EvaluateConfig, TrainConfig
from wsi_vmamba.errors import IncompatibleStoreError, MissingDataError, UsageError
from wsi_vmamba.evaluation import run_scores
from wsi_vmamba.evaluation.places import PlaceTest, shuffle_places
from wsi_vmamba.pipelines import evaluate, train
from wsi_vmamba.store import FeatureWriter, open_features
from wsi_vmamba.training import Prediction

DIM = 4


def draw(index: int, tumour: bool) -> np.ndarray:
    """Forty patches; four stand out in every slide, side by side in those of a tumour."""
    patches = np.random.default_rng(index).normal(size=(5, 8, DIM)).astype(np.float32)
    rows, columns = ([1, 1, 1, 1], [0, 1, 2, 3]) if tumour else ([0, 1, 3, 4], [0, 4, 1, 6])
    patches[rows, columns, 0] = 9
    return patches


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., None]) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, draw, slides=20, train=10)
    values = {
        "dataset": "csv", "manifest": str(folder / "cohort.csv"), "features": str(folder / "features"),
        "runs": str(folder / "runs"), "epochs": 1,
    }  # fmt: skip
    for aggregator in ("abmil", "ss2d"):
        train.run(TrainConfig(**values, aggregator=aggregator, name=aggregator))
    train.run(TrainConfig(**values, aggregator="abmil", name="folds", folds=2))
    return folder


def asked(cohort: Path, run: str = "abmil", **changes: object) -> EvaluateConfig:
    values = {"run": str(cohort / "runs" / run), "bootstrap": 200, "shuffle_places": True, "shuffles": 2}
    return EvaluateConfig.model_validate({**values, **changes})


@pytest.fixture
def neighbours_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that knows the answer, and only by places: how many patches that stand out have one to their left."""

    def predict(model: object, bag: Bag) -> Prediction:
        del model
        places = {tuple(place) for place in bag.coords_grid[bag.features[:, 0] > 8].tolist()}
        found = sum((column - 1, row) in places for column, row in places)
        return Prediction(probability=found / 4, attention=None)

    monkeypatch.setattr(run_scores, "predict", predict)


def test_patches_are_on_the_same_places_in_another_order():
    rng = np.random.default_rng(0)
    coords = np.stack(np.meshgrid(np.arange(6), np.arange(5)), axis=-1).reshape(-1, 2) * 256
    bag = Bag(
        slide_id="a", features=rng.normal(size=(30, 2)).astype(np.float32), coords_l0=coords, patch_l0=256.0
    )
    moved = shuffle_places(bag, seed=0, turn=0)
    assert moved.features is bag.features
    assert (moved.coords_l0 != coords).any()
    assert {tuple(c) for c in moved.coords_l0.tolist()} == {tuple(c) for c in coords.tolist()}
    again = shuffle_places(bag, seed=0, turn=0).coords_l0
    np.testing.assert_array_equal(again, moved.coords_l0)
    for other in (shuffle_places(bag, seed=0, turn=1), shuffle_places(bag, seed=1, turn=0),
                  shuffle_places(replace(bag, slide_id="b"), seed=0, turn=0)):  # fmt: skip
        assert (other.coords_l0 != moved.coords_l0).any()


@pytest.mark.parametrize(("run", "split"), [("abmil", "test"), ("folds", "test"), ("folds", "validation")])
def test_a_model_without_places_is_told_so_to_the_last_bit(cohort: Path, run: str, split: str):
    (test,) = wv.evaluate(
        cohort / "runs" / run, split=split, bootstrap=100, shuffle_places=True, shuffles=3, progress=False
    ).places
    assert (test.difference, test.ci95, test.largest_change) == (0.0, (0.0, 0.0), 0.0)
    assert test.auc == test.auc_shuffled
    assert test.n_slides == 10
    assert test.verdict() == "No score changes by a bit: this model does not use places."


@pytest.mark.usefixtures("neighbours_decide")
def test_a_model_that_lives_on_places_loses_its_auc(cohort: Path, tmp_path: Path, capsys):
    assert evaluate.run(asked(cohort, out=str(tmp_path)))
    (test,) = json.loads((tmp_path / "metrics.json").read_text())["places"]
    assert test["auc"] == 1.0
    assert test["difference"] == pytest.approx(test["auc_shuffled"] - 1.0)
    assert -0.75 < test["difference"] < -0.25
    assert -1 <= test["ci95"][0] < test["difference"] < test["ci95"][1] < 0
    assert test["shuffles"] == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "coordinates of the patches of each slide shuffled (2 times): AUC" in shown
    assert "The AUC falls: this model uses places" in shown


def test_the_interval_is_that_of_pairs(cohort: Path, monkeypatch: pytest.MonkeyPatch):
    """The shuffled scores rank the slides alike but for one positive, which falls from the top to the bottom."""
    order = {f"s{index:02d}": index for index in range(20)}

    def predict(model: object, bag: Bag) -> Prediction:
        del model
        index = order[bag.slide_id]
        moved = bag.coords_l0[0].any()  # the first patch is elsewhere
        score = (index + 100 * (index % 2)) / 200
        return Prediction(probability=0.0 if moved and index == 19 else score, attention=None)

    monkeypatch.setattr(run_scores, "predict", predict)
    (test,) = wv.evaluate(
        cohort / "runs" / "abmil", bootstrap=500, shuffle_places=True, shuffles=1, progress=False
    ).places
    assert test.auc == 1.0
    assert test.difference == pytest.approx(-0.2)  # one of five positives below all negatives
    # Drawn k of five times, that slide costs k / 5: the interval is that of a binomial, not that of two AUCs apart.
    assert test.ci95[0] == pytest.approx(-0.6)
    assert test.ci95[1] == 0.0
    assert "does not move beyond chance" in test.verdict()


def test_ss2d_sees_the_shuffle(cohort: Path):
    (test,) = wv.evaluate(cohort / "runs" / "ss2d", bootstrap=100, shuffle_places=True, progress=False).places
    assert test.largest_change > 0  # its gains are no longer zero after the first step
    assert test.shuffles == 5


def with_pixels_shuffled(features: Path, out: Path, shuffle_px: int | None = 256) -> Path:
    """The features, each slide's patches in another order, as if their pixels had been."""
    for path in features.glob("*.zarr"):
        file = open_features(path)
        spec = {} if shuffle_px is None else {"spec": {"shuffle_px": shuffle_px}}
        meta = replace(file.meta, plan={**file.meta.plan, **spec})
        order = np.random.default_rng(7).permutation(file.n_patches)
        with FeatureWriter(out / path.name, meta, DIM) as writer:
            writer.append(np.asarray(file.features)[order], file.coords_l0)
            writer.commit()
    return out


@pytest.mark.usefixtures("neighbours_decide")
def test_features_of_shuffled_pixels_are_judged_beside_the_run_s_own(cohort: Path, tmp_path: Path):
    shuffled = with_pixels_shuffled(cohort / "features", tmp_path / "shuffled")
    found = wv.evaluate(
        cohort / "runs" / "abmil", bootstrap=100, shuffled_features=str(shuffled), progress=False
    )
    (test,) = found.places
    assert test.auc == 1.0
    assert test.difference < -0.25
    assert "in blocks of 256 px before they were encoded" in test.shuffled
    assert found.auc == 1.0
    assert test.shuffled in found._repr_html_()


@pytest.mark.slow
def test_features_that_are_not_what_they_should_be_are_refused(cohort: Path, tmp_path: Path):
    features, run = cohort / "features", cohort / "runs" / "abmil"
    with pytest.raises(IncompatibleStoreError, match="blocks of None px"):
        wv.evaluate(run, shuffled_features=str(features), progress=False)
    with pytest.raises(MissingDataError, match="have no features"):
        wv.evaluate(run, shuffled_features=str(tmp_path / "nowhere"), progress=False)
    shuffled = with_pixels_shuffled(features, tmp_path / "shuffled")
    with pytest.raises(IncompatibleStoreError, match="shuffled pixels already"):
        wv.evaluate(run, features=str(shuffled), shuffled_features=str(shuffled), progress=False)


@pytest.mark.parametrize(
    "changes",
    [{"scores": "a.csv", "score_column": "p"}, {"compare": ["a", "b"]}, {"masks": "m", "detections": "d"}],
)
def test_only_runs_can_be_scored_again(changes: dict[str, object]):
    with pytest.raises(ValueError, match="score the slides of a run again"):
        EvaluateConfig.model_validate({"shuffle_places": True, **changes})


def test_rows_of_numbers_have_no_places(tmp_path: Path):
    lines = ["slide_id,label,split,a,b"]
    lines += [f"s{i},{i % 2},{'train' if i < 24 else 'test'},{i % 2 + i / 99},{i}" for i in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    train.run(
        TrainConfig(dataset="csv_features", manifest=str(tmp_path / "rows.csv"), runs=str(tmp_path), name="r",
                    features=str(tmp_path / "rows.csv"), classifier="logistic_regression")
    )  # fmt: skip
    with pytest.raises(UsageError, match="rows of numbers"):
        wv.evaluate(tmp_path / "r", shuffle_places=True, progress=False)


@pytest.mark.parametrize(
    ("ci95", "largest", "words"),
    [
        ((0.0, 0.0), 0.0, "does not use places"),
        (
            (-0.1, 0.1),
            0.3,
            "a model whose AUC does not move does not use places, though scores change by up to 0.3",
        ),
        ((-0.2, -0.1), 0.3, "The AUC falls: this model uses places"),
        ((0.1, 0.2), 0.3, "misleads it"),
        ((math.nan, math.nan), 0.3, "too few slides to say"),
    ],
)
def test_the_verdict_is_that_of_the_interval(ci95: tuple[float, float], largest: float, words: str):
    test = PlaceTest(
        shuffled="x", shuffles=1, auc=0.9, auc_shuffled=0.8, difference=-0.1, ci95=ci95, largest_change=largest,
        n_slides=9, resamples=100, seed=0,
    )  # fmt: skip
    assert words in test.verdict()
    assert ("interval" in test.in_words()[0]) == (not math.isnan(ci95[0]))
    assert test.to_dict()["ci95"] == [None if math.isnan(end) else end for end in ci95]

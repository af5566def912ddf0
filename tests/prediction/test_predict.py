"""New slides and their features by a trained run: the same numbers as by hand, whatever goes wrong on the way."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import zarr

import wsi_vmamba as wv
from wsi_vmamba.bags import load_bag
from wsi_vmamba.errors import (
    DatasetError,
    IncompatibleStoreError,
    MissingMppError,
    StoreError,
    TrainingError,
    UsageError,
)
from wsi_vmamba.metrics.thresholds import choose_threshold
from wsi_vmamba.prediction.slide_prediction import read_prediction
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.tabular.folder import DESCRIPTION
from wsi_vmamba.training import load_run, predict
from wsi_vmamba.training.reference import REFERENCE, read_reference

LESION = (203, 117, 391, 309)


def assert_outside_names_are_refused(file, forged):
    """Heatmaps are named after the slide, so its name must not lead out of their folder."""
    with safetensors.safe_open(file, "np") as opened:
        header, tensors = json.loads(opened.metadata()["wsi_vmamba"]), safetensors.numpy.load_file(file)
    for name in ("../../x", "/etc/x"):
        text = json.dumps({**header, "slide_id": name})
        forged.write_bytes(safetensors.numpy.save(tensors, {"wsi_vmamba": text}))
        with pytest.raises(StoreError, match="no name of a file"):
            read_prediction(forged)


def read_table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "predictions.csv").open() as file:
        return {row["slide_id"]: row for row in csv.DictReader(file)}


def test_features_get_the_probability_of_the_model_and_the_threshold_of_its_validation_slides(
    tmp_path, run, cohort, invoke
):
    assert invoke("predict", run.path, cohort / "features", "--out", tmp_path / "p").exit_code == 0
    rows = read_table(tmp_path / "p")
    trained = load_run(run.path)
    labels = {f"s{index:02d}": index % 2 for index in range(12)}
    held_out = [name for name, split in trained.splits.items() if split == "validation"]
    by_hand = {
        name: predict(trained.model, load_bag(SlideRecord(slide_id=name), cohort / "features")).probability
        for name in labels
    }
    threshold = choose_threshold([labels[name] for name in held_out], [by_hand[name] for name in held_out])
    # Sums may round otherwise from one call to the next.
    assert {name: float(row["probability"]) for name, row in rows.items()} == pytest.approx(by_hand, rel=1e-6)
    (said,) = {float(row["threshold"]) for row in rows.values()}
    assert said == pytest.approx(threshold, rel=1e-6)
    for name, row in rows.items():
        assert row["decision"] == ("positive" if float(row["probability"]) >= said else "negative")
        kept = read_prediction(tmp_path / "p" / "patches" / f"{name}.safetensors")
        assert_outside_names_are_refused(
            tmp_path / "p" / "patches" / f"{name}.safetensors", tmp_path / "forged"
        )
        assert kept.probability == pytest.approx(by_hand[name], rel=1e-6)
        assert np.array_equal(
            kept.coords_l0, wv.open_features(cohort / "features" / f"{name}.zarr").coords_l0
        )
        assert kept.attention.sum() == pytest.approx(1, abs=1e-5)
    assert run.evaluate(split="test").slides.slides.threshold.value == pytest.approx(threshold, rel=1e-6)


def test_a_slide_is_extracted_as_the_training_slides_were(tmp_path, run, cohort):
    """Region, patch size, segmenter and share of tissue are not the defaults; the same slide gives the same bits."""
    slide = tmp_path / "again.tif"
    shutil.copy(cohort / "slides" / "s01.tif", slide)
    found = run.predict(slide)
    assert found.probability == run.predict(cohort / "features" / "s01.zarr").probability
    assert len(found.coords_l0) == 320
    assert found.patch_px == 32


def test_folds_are_averaged_with_their_spread(tmp_path, folds, cohort):
    found = folds.predict_all(cohort / "features", out=tmp_path / "p", progress=False)
    runs = [load_run(folds.path / f"fold-{number}").model for number in (1, 2, 3)]
    row = read_table(tmp_path / "p")["s10"]
    bag = load_bag(SlideRecord(slide_id="s10"), cohort / "features")
    each = [predict(model, bag) for model in runs]
    probabilities = [one.probability for one in each]
    assert float(row["probability"]) == pytest.approx(np.mean(probabilities), abs=1e-12)
    assert float(row["probability_sd"]) == pytest.approx(np.std(probabilities, ddof=1), abs=1e-12)
    assert (float(row["probability_min"]), float(row["probability_max"])) == (
        min(probabilities), max(probabilities),
    )  # fmt: skip
    assert row["models"] == "3"
    assert np.allclose(found["s10"].attention, np.mean([one.attention for one in each], axis=0))


def test_one_bad_slide_stops_no_other_and_a_second_run_goes_on(
    tmp_path, run, make_slide, invoke, monkeypatch
):
    for index in range(3):
        make_slide(tmp_path / "new" / f"n{index}.tif", seed=index, lesion=LESION if index else None)
    sound = (tmp_path / "new" / "n1.tif").read_bytes()
    (tmp_path / "new" / "n1.tif").write_bytes(sound[: len(sound) // 3])
    words = ("predict", run.path, tmp_path / "new", "--out", tmp_path / "p")
    first = invoke(*words)
    assert first.exit_code == 1
    rows = read_table(tmp_path / "p")
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "n0": "done",
        "n1": "failed",
        "n2": "done",
    }
    assert "cut short" in rows["n1"]["detail"]
    assert "n1" in first.output
    (tmp_path / "new" / "n1.tif").write_bytes(sound)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "p" / "patches").iterdir()}
    assert invoke(*words).exit_code == 0
    assert {name: row["outcome"] for name, row in read_table(tmp_path / "p").items()} == dict.fromkeys(
        rows, "done"
    )
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_interrupted_predictions_keep_their_table_and_go_on(tmp_path, run, cohort, monkeypatch):
    from wsi_vmamba.prediction.predictor import Predictor

    plain, done = Predictor.predict, []

    def stop_at_the_fourth(self, meta, *arrays):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(meta.slide_id)
        return plain(self, meta, *arrays)

    monkeypatch.setattr(Predictor, "predict", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run.predict_all(cohort / "features", out=tmp_path / "p", progress=False)
    assert list(read_table(tmp_path / "p")) == done == ["s00", "s01", "s02"]
    monkeypatch.setattr(Predictor, "predict", plain)
    assert run.predict_all(cohort / "features", out=tmp_path / "p", progress=False).ok
    whole = run.predict_all(cohort / "features", out=tmp_path / "q", progress=False)
    assert whole.ok
    assert (tmp_path / "p" / "predictions.csv").read_bytes() == (
        tmp_path / "q" / "predictions.csv"
    ).read_bytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_no_negative_slide(tmp_path, run, cohort, invoke, value):
    for name in ("s01", "s02"):
        shutil.copytree(cohort / "features" / f"{name}.zarr", tmp_path / "f" / f"{name}.zarr")
    array = zarr.open_array(tmp_path / "f" / "s01.zarr" / "features", mode="r+")
    array[3, 0] = value
    assert invoke("predict", run.path, tmp_path / "f", "--out", tmp_path / "p").exit_code == 1
    rows = read_table(tmp_path / "p")
    assert (rows["s01"]["outcome"], rows["s01"]["decision"], rows["s01"]["probability"]) == ("failed", "", "")
    assert "features of 1 of its 320 patches are not finite; extract the slide again" in rows["s01"]["detail"]
    assert rows["s02"]["outcome"] == "done"
    with pytest.raises(DatasetError, match="s01: features of 1 of its 320 patches are not finite"):
        run.predict(tmp_path / "f" / "s01.zarr")


def test_a_threshold_of_ones_own(run, cohort):
    feature_file = cohort / "features" / "s01.zarr"
    assert run.predict(feature_file, threshold=0.0).decision == "positive"
    assert run.predict(feature_file, threshold=1.0).decision == "negative"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target_mpp": 1.0}, r"target_mpp: expected 0\.5, got 1\.0"),
        ({"patch_px": 64}, "patch_px: expected 32, got 64"),
        ({"backbone": "vmamba_pico"}, "model: expected null, got vmamba_pico"),
    ],
)
def test_features_of_another_kind_are_refused_by_name(tmp_path, run, make_slide, changes, words):
    slide = make_slide(tmp_path / "new.tif")
    settings = {"backbone": "null", "segmenter": "all", "patch_px": 32, "target_mpp": 0.5, "region_px": 320}
    assert wv.extract(slide, out=tmp_path / "f", **{**settings, **changes}).ok
    with pytest.raises(
        IncompatibleStoreError, match=rf"new\.zarr.*not of the kind that .*{words}.*give the slide"
    ):
        run.predict(tmp_path / "f" / "new.zarr")
    both = run.predict_all(tmp_path / "f", progress=False)
    assert [row.remedy for row in both.failures] == ["give the slide, not these features of it"]


def test_other_weights_than_those_of_the_training_are_refused_before_a_slide_is_read(
    tmp_path, run, make_slide
):
    slide = make_slide(tmp_path / "new.tif")
    folder = tmp_path / "run"
    shutil.copytree(run.path, folder)
    reference = read_reference(folder)
    other = replace(reference, origin=replace(reference.origin, weights_hash="0" * 64))
    (folder / REFERENCE).write_bytes(other.to_bytes())
    with pytest.raises(
        IncompatibleStoreError, match=r"weights of SHA-256 000000000000….*give --weights FILE"
    ):
        wv.predict(folder, slide)


def test_the_stain_of_a_slide_is_recorded_and_another_one_is_flagged(tmp_path, run, cohort, painted):
    """The same slide, its red, green and blue thinned as by another stain: three times as far as any training slide."""
    meta = wv.open_features(cohort / "features" / "s00.zarr").meta
    # The painted tissue, by Beer's law; the picture is averaged, so that its noise is gone.
    assert meta.stain["density_mean"] == pytest.approx(-np.log(np.array([205, 130, 175]) / 255), abs=0.02)
    picture = painted.tissue(seed=77, lesion=(150, 110, 310, 250))  # as large as those of the training slides
    same = run.predict(painted.write_tiff(tmp_path / "same.tif", picture))
    assert "stain" not in same.likeness.word
    assert same.likeness.stain_distance < same.likeness.stain_limit
    paler = (255 * (picture / 255.0) ** np.array([0.3, 1.6, 1.0])).astype(np.uint8)
    other = run.predict(painted.write_tiff(tmp_path / "other.tif", paler))
    assert "stain" in other.likeness.word
    assert other.likeness.stain_distance > other.likeness.stain_limit
    assert "its stain lies" in other.likeness.why
    found = run.predict_all(tmp_path / "other.tif", out=tmp_path / "p", progress=False)
    assert next(iter(found)).likeness == other.likeness
    assert "stain" in read_table(tmp_path / "p")["other"]["unlike"]


def test_a_reference_and_features_of_before_stain_was_recorded_are_read(tmp_path, run, cohort):
    reference = read_reference(run.path)
    header, tensors = reference.header(), reference.tensors()
    del tensors["stain"]
    old = type(reference).from_parts(header, tensors, where="x")
    assert np.isnan(old.stain).all()
    shutil.copytree(cohort / "features" / "s01.zarr", tmp_path / "s01.zarr")
    path = tmp_path / "s01.zarr" / "zarr.json"
    content = json.loads(path.read_text())
    assert content["attributes"].pop("stain")
    path.write_text(json.dumps(content))
    found = run.predict(tmp_path / "s01.zarr")
    assert found.probability == run.predict(cohort / "features" / "s01.zarr").probability
    assert found.likeness.why.endswith("its stain was not compared: its features do not record it")


@pytest.mark.parametrize("threshold", ["0.5", float("nan")])
def test_a_threshold_that_is_no_number_is_refused(run, threshold):
    reference = read_reference(run.path)
    header = {**reference.header(), "threshold": threshold}
    with pytest.raises(TrainingError, match=r"x: damaged .*expected a number as threshold, got"):
        type(reference).from_parts(header, reference.tensors(), where="x")


def test_a_run_of_before_looks_at_the_features_it_was_trained_on(tmp_path, run, cohort):
    folder = tmp_path / "run"
    shutil.copytree(run.path, folder)
    (folder / REFERENCE).unlink()
    feature_file = cohort / "features" / "s01.zarr"
    old, new = wv.predict(folder, feature_file), run.predict(feature_file)
    assert old.likeness == new.likeness
    assert (old.probability, old.threshold) == pytest.approx((new.probability, new.threshold), rel=1e-6)
    text = (folder / "train.yaml").read_text().replace(str(cohort / "features"), "/nowhere")
    (folder / "train.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"no threshold is known .*give --threshold X, or --trained-on DIR"):
        wv.predict(folder, feature_file)
    found = wv.predict(folder, feature_file, threshold=0.5)
    assert found.likeness.word == "not checked"
    assert "remembers nothing of its training slides" in found.likeness.why
    assert wv.predict(folder, feature_file, trained_on=cohort / "features").threshold == pytest.approx(
        new.threshold, rel=1e-6
    )
    with pytest.raises(UsageError, match=r"does not say how its features were made .*--trained-on DIR"):
        wv.predict(folder, cohort / "slides" / "s01.tif", threshold=0.5)


def test_what_is_no_run_and_what_is_nothing_to_predict(tmp_path, run, cohort, make_slide, invoke):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no slide")
    with pytest.raises(TrainingError, match="no finished run at"):
        wv.predict(tmp_path / "empty", cohort / "features" / "s01.zarr")
    with pytest.raises(TrainingError, match="no finished run at"):  # the wrong way round
        wv.predict(cohort / "slides", run.path)
    with pytest.raises(UsageError, match="is empty; expected slides, or feature files"):
        run.predict(tmp_path / "empty")
    with pytest.raises(UsageError, match="no such file or folder"):
        run.predict(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds 12 slides, and predict takes one"):
        run.predict(cohort / "features")
    with pytest.raises(MissingMppError):
        run.predict(make_slide(tmp_path / "plain.tif", mpp=None))
    assert run.predict(tmp_path / "plain.tif", mpp_override=0.5).decision


def test_a_folder_with_something_else_is_not_written_into(tmp_path, run, folds, cohort):
    features = cohort / "features"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds no predictions but thesis\.txt"):
        run.predict_all(features, out=tmp_path / "mine", progress=False)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert run.predict_all(features, out=tmp_path / "p", progress=False).ok
    with pytest.raises(UsageError, match="holds predictions of another model"):
        folds.predict_all(features, out=tmp_path / "p", progress=False)
    assert folds.predict_all(features, out=tmp_path / "p", overwrite=True, progress=False).ok
    assert json.loads((tmp_path / "p" / "predict.run.json").read_text())["n_models"] == 3


def test_a_run_that_was_killed_between_its_settings_and_its_record_goes_on(tmp_path, run, cohort):
    """Two runs that begin at once meet the same."""
    features, out = cohort / "features", tmp_path / "p"
    assert run.predict_all(features, out=out, progress=False).ok
    before = {path.name: path.read_bytes() for path in (out / "patches").iterdir()}
    for path in (out / "predict.run.json", out / "predictions.csv", *(out / "patches").iterdir()):
        path.unlink()
    (out / "patches").rmdir()
    assert [path.name for path in out.iterdir()] == ["predict.yaml"]
    assert run.predict_all(features, out=out, progress=False).ok
    assert {path.name: path.read_bytes() for path in (out / "patches").iterdir()} == before


def test_a_classifier_of_rows_is_refused(tmp_path, cohort):
    (tmp_path / DESCRIPTION).write_text("{}")
    with pytest.raises(UsageError, match="a classifier of rows of numbers"):
        wv.predict(tmp_path, cohort / "features" / "s01.zarr")

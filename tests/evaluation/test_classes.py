"""Classes with names, of slides and of patients, from `train` over `evaluate` and `predict` to `report`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score, roc_auc_score

import wsi_vmamba as wv
from wsi_vmamba.bags import BagLoader, load_bag
from wsi_vmamba.config import EvaluateConfig, PackConfig, PredictConfig, TrainConfig
from wsi_vmamba.datasets.camelyon17 import STAGES, stage_of
from wsi_vmamba.errors import DatasetError, MetricError, UsageError
from wsi_vmamba.evaluation.judge import judge_run
from wsi_vmamba.mil import AGGREGATORS
from wsi_vmamba.pipelines import evaluate, predict, train
from wsi_vmamba.prediction.packing import pack
from wsi_vmamba.prediction.slide_prediction import read_prediction
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.training import load_run
from wsi_vmamba.training.model import ModelSpec, SlideClassifier
from wsi_vmamba.view.catalogue import summary
from wsi_vmamba.view.patches import load_columns, load_table
from wsi_vmamba.view.result_sources import prediction_source, run_source
from wsi_vmamba.view.run_model import RunModel

NAMES = ("lusc", "luad", "normal")
DIM = 6


def draw(index: int, number: int) -> np.ndarray:
    """Twelve patches of noise; three of them say which class it is."""
    patches = np.random.default_rng(index).normal(size=(3, 4, DIM)).astype(np.float32)
    patches[1, :3, number] += 5
    return patches


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def trained(folder: Path, name: str, **changes: object) -> Path:
    values = {
        "dataset": "csv", "manifest": str(folder / "cohort.csv"), "features": str(folder / "features"), "epochs": 5,
        "runs": str(folder / "runs"), "learning_rate": 5e-3, "hidden_dim": 16, "name": name, **changes,
    }  # fmt: skip
    train.run(TrainConfig.model_validate(values), log_epochs=False)
    return folder / "runs" / name


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_patches: Callable[..., None]) -> Path:
    """Eighteen patients of two slides and one of three classes each, the last six for testing, and a run."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("classes")
    with (folder / "cohort.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "label", "patient", "split", "center"])
        for index in range(36):
            patient = index // 2
            write_patches(folder / "features", f"s{index:02d}", draw(index, patient % 3))
            split = "train" if patient < 12 else "test"
            writer.writerow(
                [f"s{index:02d}", NAMES[patient % 3], f"p{patient:02d}", split, "AB"[patient // 3 % 2]]
            )
    trained(folder, "clam_mb", aggregator="clam_mb")
    return folder


@pytest.fixture(scope="module")
def judged(cohort: Path) -> Path:
    config = {"run": str(cohort / "runs" / "clam_mb"), "out": str(cohort / "judged"), "bootstrap": 100}
    assert evaluate.run(EvaluateConfig.model_validate(config))
    return cohort / "judged"


def test_a_run_of_three_classes_says_and_keeps_its_classes(cohort: Path) -> None:
    run = load_run(cohort / "runs" / "clam_mb")
    assert run.model.spec.classes == ("luad", "lusc", "normal")
    assert json.loads((run.path / "model.json").read_text())["spec"]["classes"] == ["luad", "lusc", "normal"]
    assert run.best.validation_auc > 0.9
    assert set(run.splits.values()) == {"train", "validation", "test"}
    by_patient = {f"p{index // 2:02d}": run.splits[f"s{index:02d}"] for index in range(36)}
    assert all(run.splits[f"s{index:02d}"] == by_patient[f"p{index // 2:02d}"] for index in range(36))


def test_evaluate_gives_the_probability_of_each_class_and_the_metrics_of_them(judged: Path) -> None:
    rows = read(judged / "slides.csv")
    labels = [row["label"] for row in rows]
    shares = np.array([[float(row[f"probability_{name}"]) for name in sorted(NAMES)] for row in rows])
    assert np.allclose(shares.sum(axis=1), 1)
    assert [row["called"] for row in rows] == [sorted(NAMES)[k] for k in shares.argmax(axis=1)]
    assert [float(row["probability"]) for row in rows] == shares.max(axis=1).tolist()
    found = json.loads((judged / "metrics.json").read_text())
    expected = roc_auc_score(labels, shares / shares.sum(axis=1, keepdims=True), multi_class="ovr")
    assert found["value"] == found["auc"] == pytest.approx(expected, abs=1e-12)
    assert found["n_by_class"] == dict.fromkeys(sorted(NAMES), 4)
    right = np.mean([row["called"] == row["label"] for row in rows])
    assert found["slide_metrics"]["balanced_accuracy"]["accuracy"] == pytest.approx(right)
    assert found["auc"] > 0.9


@pytest.mark.parametrize("renamed", [False, True])
def test_probabilities_made_elsewhere_give_the_figures_of_the_run_to_the_bit(
    cohort: Path, judged: Path, tmp_path: Path, renamed: bool
) -> None:
    """The table that the run wrote is judged by itself; columns are called as labels, or `probability_` and that."""
    lines = (judged / "slides.csv").read_text()
    table = tmp_path / "scores.csv"
    table.write_text(lines.replace("probability_", "") if renamed else lines)
    columns = [f"{'' if renamed else 'probability_'}{name}" for name in sorted(NAMES)]
    values = {"scores": str(table), "score_column": columns, "out": str(tmp_path / "out"), "bootstrap": 100}
    assert evaluate.run(EvaluateConfig.model_validate(values))
    ours, runs = (json.loads((one / "metrics.json").read_text()) for one in (tmp_path / "out", judged))
    assert ours["slide_metrics"] == runs["slide_metrics"]
    assert (ours["value"], ours["ci95"], ours["n_by_class"]) == (
        runs["value"], runs["ci95"], runs["n_by_class"],
    )  # fmt: skip
    for mine, its in zip(read(tmp_path / "out" / "slides.csv"), read(judged / "slides.csv"), strict=True):
        same = ("slide_id", "label", "probability", "called", *(f"probability_{name}" for name in NAMES))
        assert [mine[column] for column in same] == [its[column] for column in same]
    # In the order of the columns: kappa counts steps.
    found = wv.evaluate(metric="kappa", scores=table, score_column=columns, bootstrap=100)
    rows = read(judged / "slides.csv")
    labels, called = ([sorted(NAMES).index(row[key]) for row in rows] for key in ("label", "called"))
    assert found.slides.headline.value == pytest.approx(
        cohen_kappa_score(labels, called, weights="quadratic"), abs=1e-12
    )
    paired = wv.compare(table, table, score_column=columns, bootstrap=100)
    assert paired.test.auc_a == runs["auc"]


def test_what_columns_of_several_classes_cannot_be_is_said(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("slide_id,label,p_a,p_b,p_c\nx,a,0.5,0.25,0.25\ny,b,0.2,0.4,0.4\nz,c,0.1,0.2,0.7\n")
    three = ["p_a", "p_b", "p_c"]

    def refused(error: type[Exception], words: str, **changes: object) -> None:
        values = {"scores": str(path), "score_column": three, "bootstrap": 100, **changes}
        with pytest.raises(error, match=words):
            wv.evaluate(**values)

    refused(UsageError, "of two classes --score-column is one", score_column=three[:2])
    refused(UsageError, "every --score-column counts once, got p_a, p_a", score_column=["p_a", "p_a"])
    refused(UsageError, "none is the positive one; leave out --positive", positive="a")
    refused(UsageError, "of 3 classes the most probable is called", threshold=0.5)
    refused(UsageError, r"unknown column of .* 'p_d' .*choose from", score_column=["p_a", "p_b", "p_d"])
    path.write_text(path.read_text().replace("x,a", "x,d"))
    refused(MetricError, r"line 2: the label 'd' is of no class; the columns of scores are of a, b, c")
    path.write_text(path.read_text().replace("x,d,0.5", "x,a,0.9"))
    refused(MetricError, "1 of 3 rows are no probabilities of classes")
    path.write_text("slide_id,label,p_a,p_b,p_c\nx,a,0.5,0.25,0.25\nx,b,0.2,0.4,0.4\nz,c,0.1,0.2,0.7\n")
    refused(MetricError, r"listed more than once \(x\)")


def test_two_runs_of_three_classes_are_compared_by_macro_auc(cohort: Path, judged: Path) -> None:
    run = str(cohort / "runs" / "clam_mb")
    found = wv.compare(run, run, bootstrap=100)
    macro = json.loads((judged / "metrics.json").read_text())["auc"]
    assert found.to_dict()["classes"] == sorted(NAMES)
    assert (found.test.auc_a, found.test.auc_b) == pytest.approx((macro, macro))
    assert (found.test.difference, *found.test.ci95) == (0, 0, 0)
    assert "difference of macro AUCs +0.0000 (95 % interval" in found.in_words()


def test_patients_and_centres_are_judged_too(judged: Path) -> None:
    slides, patients = read(judged / "slides.csv"), read(judged / "patients.csv")
    assert [row["patient_id"] for row in patients] == [f"p{number}" for number in range(12, 18)]
    of_first = [float(row["probability_luad"]) for row in slides if row["patient_id"] == "p12"]
    assert float(patients[0]["probability_luad"]) == pytest.approx(np.mean(of_first))
    found = json.loads((judged / "metrics.json").read_text())
    assert found["patient_metrics"]["n_patients"] == 6
    assert [site["site"] for site in found["sites"]] == ["A", "B"]
    assert sum(site["n_slides"] for site in found["sites"]) == 12
    for site in found["sites"]:
        here = [row for row in slides if ("AB"[int(row["patient_id"][1:]) // 3 % 2]) == site["site"]]
        shares = [[float(row[f"probability_{name}"]) for name in sorted(NAMES)] for row in here]
        shares = np.array(shares) / np.sum(shares, axis=1, keepdims=True)
        expected = roc_auc_score([row["label"] for row in here], shares, multi_class="ovr")
        assert site["auc"] == pytest.approx(expected, abs=1e-12)


def test_predict_decides_for_the_most_probable_class_as_evaluate_does(cohort: Path, judged: Path) -> None:
    out, run = cohort / "predicted", cohort / "runs" / "clam_mb"
    assert predict.run(PredictConfig(run=str(run), slides=str(cohort / "features"), out=str(out)))
    rows = {row["slide_id"]: row for row in read(out / "predictions.csv")}
    for row in read(judged / "slides.csv"):
        said = rows[row["slide_id"]]
        assert said["decision"] == row["called"]
        for column in ("probability", "probability_luad", "probability_lusc", "probability_normal"):
            assert float(said[column]) == pytest.approx(float(row[column]), abs=1e-6)
    one = read_prediction(out / "patches" / "s30.safetensors")
    assert one.shares is not None
    assert one.class_attention is not None
    called = int(np.argmax(one.shares))
    assert one.decision == one.classes[called] == rows["s30"]["decision"]
    assert one.class_attention.shape == (3, 12)
    assert np.allclose(one.class_attention.sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(one.class_attention[called], one.attention)
    assert set(one.patch_table) >= {"attention", "attention_luad", "attention_lusc", "attention_normal"}
    with pytest.raises(UsageError, match="3 classes apart and decides for the most probable"):
        predict.run(PredictConfig(run=str(run), slides=str(cohort / "features"), out=str(out), threshold=0.5))


def test_a_packed_model_of_three_classes_says_the_same(cohort: Path, tmp_path: Path) -> None:
    packed = pack(
        PackConfig(run=str(cohort / "runs" / "clam_mb"), out=str(tmp_path / "a.wsivm"), without_encoder=True)
    )
    found = wv.predict(str(packed.path), cohort / "features" / "s31.zarr")
    again = wv.predict(cohort / "runs" / "clam_mb", cohort / "features" / "s31.zarr")
    assert found.classes == ("luad", "lusc", "normal")
    assert (found.decision, found.shares) == (again.decision, again.shares)


@pytest.mark.slow
def test_reports_show_every_class(cohort: Path, judged: Path) -> None:
    run = cohort / "runs" / "clam_mb"
    (run / "evaluation").mkdir(exist_ok=True)
    (run / "evaluation" / "evaluate.yaml").write_text("bootstrap: 100\n")
    html = wv.make_report(run, examples=1, progress=False).html
    assert "Confusion of classes" in html
    assert "AUC, lusc against the rest" in html
    assert f"{json.loads((judged / 'metrics.json').read_text())['auc']:.4f}" in html
    assert ">positive<" not in html
    predict.run(PredictConfig(run=str(run), slides=str(cohort / "features"), out=str(cohort / "reported")))
    found = wv.make_report(cohort / "reported", examples=1, progress=False).html
    assert "<dt>luad</dt>" in found
    assert "Positive" not in found


def test_the_viewer_lists_names_of_classes(cohort: Path, judged: Path) -> None:
    folder = cohort / "runs" / "clam_mb"
    (folder / "evaluation").mkdir(exist_ok=True)
    (folder / "evaluation" / "slides.csv").write_bytes((judged / "slides.csv").read_bytes())
    rows = {row.name: row for row in run_source(folder, slides=None, model=RunModel).rows()}
    scored = {row["slide_id"]: row for row in read(judged / "slides.csv")}
    assert rows["s00"].label == "lusc"
    assert rows["s32"].decision == scored["s32"]["called"]
    assert summary(rows["s32"])["wrong"] == (scored["s32"]["called"] != scored["s32"]["label"])
    said = RunModel(folder, cohort / "features")(rows["s32"])
    assert list(said) == ["attention", "Attention for luad", "Attention for lusc", "Attention for normal"]
    out = cohort / "viewed"
    predict.run(PredictConfig(run=str(folder), slides=str(cohort / "features" / "s32.zarr"), out=str(out)))
    (row,) = prediction_source(out, slides=None).rows()
    assert row.decision == scored["s32"]["called"]
    columns = load_columns(row, load_table(row), model=None, threshold=None)
    assert [column.title for column in columns.values()] == [
        "Attention", "Attention for luad", "Attention for lusc", "Attention for normal",
    ]  # fmt: skip
    assert all(name.replace("-", "").isalnum() for name in columns)


@pytest.mark.slow
def test_kappa_of_slides_needs_an_order_that_somebody_gave(cohort: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(metric="kappa", bootstrap=100)
    with pytest.raises(UsageError, match="nobody said in which order luad, lusc, normal are"):
        judge_run(config, cohort / "runs" / "clam_mb", out=None)
    with pytest.raises(
        UsageError, match=r"--metric sensitivity_at_specificity: .* are of 3 classes; choose from auc"
    ):
        judge_run(
            config.model_copy(update={"metric": "sensitivity_at_specificity"}),
            cohort / "runs" / "clam_mb",
            out=None,
        )
    order = ["normal", "luad", "lusc"]
    run = trained(cohort, "ordered", aggregator="mean", classes=order, epochs=1)
    found = judge_run(config, run, out=None)
    assert found.slides is not None
    rows = found.tables["slides"]
    labels, called = ([order.index(row[column]) for row in rows] for column in ("label", "called"))
    assert found.value == pytest.approx(
        cohen_kappa_score(labels, called, weights="quadratic", labels=range(3))
    )


@pytest.mark.slow
def test_two_classes_with_names_are_judged_as_two_classes(cohort: Path, tmp_path: Path) -> None:
    rows = [row for row in read(cohort / "cohort.csv") if row["label"] != "normal"]
    path = tmp_path / "two.csv"
    path.write_text("slide_id,label,patient,split\n" + "".join(
        f"{row['slide_id']},{row['label']},{row['patient']},{row['split']}\n" for row in rows
    ))  # fmt: skip
    run = trained(cohort, "two", aggregator="mean", manifest=str(path), classes=["lusc", "luad"])
    found = judge_run(EvaluateConfig(bootstrap=100), run, out=None)
    slides = found.tables["slides"]
    assert {row["label"] for row in slides} == {row["called"] for row in slides} == {"lusc", "luad"}
    positive = [row["label"] == "luad" for row in slides]
    assert found.auc == pytest.approx(roc_auc_score(positive, [row["probability"] for row in slides]))
    one = wv.predict(run, cohort / "features" / "s27.zarr")
    assert one.decision in {"lusc", "luad"}
    assert one.threshold is not None


def test_a_patient_is_one_bag_whose_slides_see_nothing_of_each_other(cohort: Path) -> None:
    slides = tuple(SlideRecord(slide_id=f"s{index:02d}", patient_id="p00") for index in range(3))
    patient = SlideRecord(slide_id="p00", members=slides)
    bag = BagLoader(cohort / "features")(patient)
    parts = [load_bag(slide, cohort / "features") for slide in slides]
    assert np.array_equal(bag.features, np.concatenate([part.features for part in parts]))
    places = np.split(bag.coords_grid, 3)
    for own, part in zip(places, parts, strict=True):
        assert np.array_equal(own - own.min(axis=0), part.coords_grid - part.coords_grid.min(axis=0))
    for before, after in pairwise(places):
        assert (after.min(axis=0) - before.max(axis=0) > 7).all()  # beyond the reach of any convolution


@pytest.mark.parametrize("aggregator", list(AGGREGATORS))
def test_every_aggregator_tells_three_classes_of_patients_apart(cohort: Path, aggregator: str) -> None:
    patient = SlideRecord(
        slide_id="p00", members=tuple(SlideRecord(slide_id=f"s{index:02d}") for index in range(2))
    )
    bag = BagLoader(cohort / "features")(patient)
    spec = ModelSpec(
        aggregator=aggregator,
        patch_head=False,
        in_dim=DIM,
        hidden_dim=8,
        dropout=0.0,
        source=None,
        classes=NAMES,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SlideClassifier(spec).train()
        output = model.forward_bag(bag)
    assert output.logits.shape == (3,)
    loss = torch.nn.functional.cross_entropy(output.logits, torch.tensor(2))
    if output.auxiliary is not None:
        loss = loss + sum(output.auxiliary(label) for label in range(3))
    loss.backward()
    gradients = [parameter.grad for name, parameter in model.named_parameters()]
    assert all(gradient is None or bool(torch.isfinite(gradient).all()) for gradient in gradients)
    if output.class_attention is not None:
        assert torch.equal(output.attention, output.class_attention[int(output.logits.argmax())])


@pytest.mark.slow
def test_a_run_of_patients_scores_patients(cohort: Path) -> None:
    run = trained(cohort, "patients", aggregator="abmil", bag="patient")
    splits = read(run / "splits.csv")
    assert [row["slide_id"] for row in splits] == [f"p{number:02d}" for number in range(18)]
    found = judge_run(EvaluateConfig(bootstrap=100), run, out=None)
    rows = found.tables["slides"]
    assert [row["slide_id"] for row in rows] == [f"p{number}" for number in range(12, 18)]
    assert {row["patches"] for row in rows} == {24}
    assert found.auc > 0.8
    assert "patients" not in found.tables
    lines = [
        f"{row['slide_id']},features/{row['slide_id']}.zarr,{row['patient']}"
        for row in read(cohort / "cohort.csv")
    ]
    (cohort / "new.csv").write_text("\n".join(["slide_id,path,patient", *lines[24:]]) + "\n")
    assert predict.run(
        PredictConfig(run=str(run), slides=str(cohort / "new.csv"), out=str(cohort / "of_patients"))
    )
    said = {row["patient_id"]: row for row in read(cohort / "of_patients" / "patients.csv")}
    for row in rows:
        mine = said[row["slide_id"]]
        assert (mine["slides"], mine["failed"], mine["decision"]) == ("2", "0", row["called"])
        assert float(mine["probability_luad"]) == pytest.approx(row["probability_luad"], abs=1e-6)


def test_a_patient_with_two_labels_is_no_bag(cohort: Path, tmp_path: Path) -> None:
    path = tmp_path / "mixed.csv"
    path.write_text("slide_id,label,patient\ns00,a,p\ns01,b,p\ns02,a,q\ns03,b,r\n")
    with pytest.raises(
        DatasetError, match="p: its slides are one bag with one label and one split, got s00 a, s01 b"
    ):
        trained(cohort, "mixed", bag="patient", manifest=str(path))


def test_outlines_are_learned_only_where_the_class_without_tumour_is_known(cohort: Path) -> None:
    with pytest.raises(
        UsageError, match="learns normal and tumour, and the classes here are luad, lusc, normal"
    ):
        trained(cohort, "outlines", supervision="both")


@pytest.mark.slow
def test_stages_of_patients_and_their_kappa(tmp_path: Path, write_patches: Callable[..., None]) -> None:
    """CAMELYON17 as a protocol: a made-up cohort in its columns, folds by patient, kappa by the organisers' rule."""
    nodes = [
        "negative negative negative", "itc negative negative", "micro itc negative", "macro micro negative",
        "macro macro macro",
    ]  # fmt: skip
    order = ("negative", "itc", "micro", "macro")
    rows = []
    for patient in range(20):
        labels = nodes[patient % 5].split()
        stage = stage_of({name: labels.count(name) for name in order})
        for node, label in enumerate(labels):
            name = f"patient_{patient:03d}_node_{node}"
            write_patches(tmp_path / "features", name, draw(3 * patient + node, order.index(label)))
            rows.append(f"{name},{label},patient_{patient:03d},{patient % 2},{stage},{patient // 10}")
    (tmp_path / "cohort.csv").write_text(
        "\n".join(["slide_id,label,patient,center,stage,fold", *rows]) + "\n"
    )
    run = trained(tmp_path, "c17", dataset="camelyon17", folds=2, epochs=3, aggregator="max")
    out = tmp_path / "judged"
    asked = {"run": str(run), "split": "validation", "metric": "kappa", "out": str(out), "bootstrap": 100}
    assert evaluate.run(EvaluateConfig.model_validate(asked))
    slides, stages = read(out / "slides.csv"), read(out / "stages.csv")
    assert len(slides) == 60
    assert [row["patient"] for row in stages] == [f"patient_{number:03d}" for number in range(20)]
    for row in stages:
        called = [slide["called"] for slide in slides if slide["patient_id"] == row["patient"]]
        assert row["called"] == stage_of({name: called.count(name) for name in order})
    expected = cohen_kappa_score(
        [row["stage"] for row in stages],
        [row["called"] for row in stages],
        labels=STAGES,
        weights="quadratic",
    )
    found = json.loads((out / "metrics.json").read_text())
    assert found["value"] == found["patient_stages"]["kappa"]["value"] == pytest.approx(expected, abs=1e-12)
    assert [site["site"] for site in found["sites"]] == ["0", "1"]

"""`evaluate` on a trained run: threshold from validation, sizes of metastases, FROC of its patches, comparison."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wsi_vmamba.bags import load_bag
from wsi_vmamba.config import EvaluateConfig, TrainConfig
from wsi_vmamba.errors import DatasetError, MetricError
from wsi_vmamba.evaluation.run_lesions import patch_scores
from wsi_vmamba.evaluation.run_scores import Scored
from wsi_vmamba.metrics.lesions import read_mask
from wsi_vmamba.metrics.thresholds import choose_threshold
from wsi_vmamba.pipelines import evaluate, train
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.training import Prediction

DIM = 8


def draw(index: int, tumour: bool) -> np.ndarray:
    """Forty patches of noise; in a tumour slide the first four of the second row stand out."""
    patches = np.random.default_rng(index).normal(size=(5, 8, DIM)).astype(np.float32)
    if tumour:
        patches[1, :4, 0] += 4
    return patches


def write_outline(path: Path) -> None:
    ring = [[0, 256], [1024, 256], [1024, 512], [0, 512], [0, 256]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "Tumor"}},
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., None]) -> Path:
    """Forty slides, sixteen of them test slides with macro and micro metastases, and two trained runs."""
    folder = tmp_path_factory.mktemp("cohort")
    outlines = [f"outlines/s{index:02d}.geojson" if index % 2 else "" for index in range(40)]
    write_cohort(
        folder,
        draw,
        slides=40,
        train=24,
        metastasis=["none", "macro", "none", "micro"] * 10,
        annotation=outlines,
    )
    for outline in filter(None, outlines):
        write_outline(folder / outline)
    for aggregator in ("abmil", "mean"):
        train.run(
            TrainConfig(
                dataset="csv", manifest=str(folder / "cohort.csv"), features=str(folder / "features"),
                runs=str(folder / "runs"), epochs=12, learning_rate=2e-3, aggregator=aggregator, name=aggregator,
            )
        )  # fmt: skip
    return folder


def config(cohort: Path, out: Path, **changes: object) -> EvaluateConfig:
    values = {"run": str(cohort / "runs" / "abmil"), "out": str(out), "bootstrap": 200, **changes}
    return EvaluateConfig.model_validate(values)


def read_slides(folder: Path) -> tuple[np.ndarray, np.ndarray, list[dict[str, str]]]:
    with (folder / "slides.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([int(row["label"]) for row in rows])
    return labels, np.array([float(row["probability"]) for row in rows]), rows


def test_the_threshold_is_the_one_that_validation_slides_suggest(cohort: Path, tmp_path: Path):
    assert evaluate.run(config(cohort, tmp_path / "test"))
    assert evaluate.run(config(cohort, tmp_path / "validation", split="validation"))
    labels, scores, _ = read_slides(tmp_path / "validation")
    wanted = choose_threshold(labels, scores)
    found = json.loads((tmp_path / "test" / "metrics.json").read_text())["slide_metrics"]
    assert found["balanced_accuracy"]["threshold"] == wanted
    assert found["threshold_source"] == f"highest balanced accuracy on {len(labels)} validation slides"
    # Of the slides it was chosen on nothing is claimed.
    own = json.loads((tmp_path / "validation" / "metrics.json").read_text())["slide_metrics"]
    assert own["balanced_accuracy"] is None
    labels, scores, rows = read_slides(tmp_path / "test")
    assert [row["called"] for row in rows] == [str(int(score >= wanted)) for score in scores]
    called = scores >= wanted
    sizes = np.array([row["group"] for row in rows])
    for one in found["recall_by_group"]:
        assert one["recall"] == called[sizes == one["group"]].mean()
        assert one["n"] == 4
    assert {one["group"] for one in found["recall_by_group"]} == {"macro", "micro"}


def test_froc_of_a_run_draws_masks_and_detections_that_give_the_same_score_again(
    cohort: Path, tmp_path: Path
):
    asked = config(cohort, tmp_path / "run", metric="all", annotations=str(cohort / "outlines"))
    assert evaluate.run(asked)
    content = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert content["auc"] > 0.9
    assert content["froc_score"] > 0.5
    assert content["lesion_metrics"]["froc"]["n_slides"] == 16
    assert content["lesion_metrics"]["froc"]["n_lesions"] == 8
    # The outline covers columns 0 to 31 and rows 8 to 15 of level 5.
    mask = read_mask(tmp_path / "run" / "masks" / "s25.png")
    wanted = np.zeros((40, 64), dtype=np.uint8)
    wanted[8:16, :32] = 255
    np.testing.assert_array_equal(mask, wanted)
    files = {"run": None, "masks": str(tmp_path / "run" / "masks"),
             "detections": str(tmp_path / "run" / "detections")}  # fmt: skip
    assert evaluate.run(config(cohort, tmp_path / "again", metric="froc", **files))
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again["froc_score"] == content["froc_score"]


def test_outlines_that_the_manifest_names_need_no_option(cohort: Path, tmp_path: Path):
    assert evaluate.run(config(cohort, tmp_path / "named", metric="froc"))
    given = config(cohort, tmp_path / "given", metric="froc", annotations=str(cohort / "outlines"))
    assert evaluate.run(given)
    first, second = (json.loads((tmp_path / f / "metrics.json").read_text()) for f in ("named", "given"))
    assert first == second
    assert first["froc_score"] == first["value"]
    assert "auc" not in first


def test_a_tumour_slide_without_outline_is_no_normal_slide(cohort: Path, tmp_path: Path):
    (tmp_path / "outlines").mkdir()
    for file in (cohort / "outlines").iterdir():
        (tmp_path / "outlines" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "outlines" / "s27.geojson").unlink()
    asked = {"metric": "froc", "annotations": str(tmp_path / "outlines")}
    with pytest.raises(MetricError, match=r"1 tumour slides have no lesions on file \(s27\)"):
        evaluate.run(config(cohort, tmp_path / "out", **asked))
    assert evaluate.run(config(cohort, tmp_path / "out", **asked, exclude=["s27"]))
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["lesion_metrics"]["froc"]
    assert (found["n_slides"], found["n_lesions"]) == (15, 7)


def test_an_aggregator_without_attention_has_no_detections(cohort: Path, tmp_path: Path):
    asked = {"metric": "froc", "annotations": str(cohort / "outlines"), "run": str(cohort / "runs" / "mean")}
    with pytest.raises(MetricError, match="no score of their own"):
        evaluate.run(config(cohort, tmp_path / "out", **asked))


def test_a_patches_own_probability_goes_before_attention(cohort: Path):
    record = SlideRecord(slide_id="s25", label=1)
    bag = load_bag(record, cohort / "features")
    attention = np.arange(40, dtype=np.float32)
    scored = Scored(record, 40, Prediction(0.5, attention))
    np.testing.assert_allclose(patch_scores(scored, bag), 0.5 * attention / 39)
    patches = np.linspace(0, 1, 40, dtype=np.float32)
    scored = Scored(record, 40, Prediction(0.5, attention, patches))
    np.testing.assert_array_equal(patch_scores(scored, bag), patches.astype(np.float64))


def test_two_runs_are_compared_on_the_same_slides(cohort: Path, tmp_path: Path):
    runs = [str(cohort / "runs" / name) for name in ("abmil", "mean")]
    out = tmp_path / "out.json"
    assert evaluate.run(EvaluateConfig(compare=runs, json_out=str(out)))
    found = json.loads(out.read_text())
    for name, side in (("abmil", "a"), ("mean", "b")):
        evaluate.run(config(cohort, tmp_path / name, run=str(cohort / "runs" / name)))
        assert json.loads((tmp_path / name / "metrics.json").read_text())["auc"] == found[f"auc_{side}"]
    assert 0 <= found["p_value"] <= 1


def test_another_metric_of_the_table_is_the_headline(cohort: Path, tmp_path: Path, capsys):
    assert evaluate.run(config(cohort, tmp_path, metric="average_precision"))
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["value"] == content["slide_metrics"]["average_precision"]["value"]
    assert f"average_precision {content['value']:.4f}" in capsys.readouterr().out


def test_slides_that_were_renamed_since_the_training_do_not_pass_for_new_ones(cohort: Path, tmp_path: Path):
    """A slide of the training would be a test slide under its new name."""
    manifest = (cohort / "cohort.csv").read_text()
    try:
        (cohort / "cohort.csv").write_text(manifest.replace("s03,", "S03,").replace("s05,", "s05.tif,"))
        with pytest.raises(
            DatasetError, match=r"'S03' is not 's03', they differ in case; 's05.tif' is not 's05'"
        ):
            evaluate.run(config(cohort, tmp_path))
    finally:
        (cohort / "cohort.csv").write_text(manifest)


def test_lesions_of_a_split_are_not_judged_by_detections_of_another(cohort: Path, tmp_path: Path, capsys):
    """Both evaluations go into the same folder unless told otherwise."""
    asked = {"metric": "froc", "annotations": str(cohort / "outlines")}
    assert evaluate.run(config(cohort, tmp_path / "both", **asked))
    for folder in ("both", "alone"):
        capsys.readouterr()
        assert evaluate.run(config(cohort, tmp_path / folder, split="validation", **asked))
    assert "of another evaluation" not in capsys.readouterr().out
    both, alone = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("both", "alone"))
    assert both == alone
    n = both["lesion_metrics"]["froc"]["n_slides"]
    assert 0 < n < 16

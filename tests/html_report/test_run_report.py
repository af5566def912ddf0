"""The report of a run has the numbers of `evaluate`, the curves' own points, and the pictures of its slides."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wsi_vmamba as wv
from wsi_vmamba.errors import UsageError
from wsi_vmamba.evaluation import tables
from wsi_vmamba.html_report.curves import froc_figure
from wsi_vmamba.metrics.auc import precision_recall_points, roc_points
from wsi_vmamba.metrics.delong import delong_paired
from wsi_vmamba.metrics.detections import Detections, FrocSlide
from wsi_vmamba.metrics.froc import RATES, froc
from wsi_vmamba.metrics.lesions import find_lesions


@pytest.fixture(scope="module")
def found(run: wv.Run) -> wv.Evaluation:
    return run.evaluate(metric="all", progress=False)


@pytest.fixture(scope="module")
def html(run: wv.Run) -> str:
    return wv.make_report(run, progress=False).html


def test_numbers_are_those_of_evaluate(html: str, found: wv.Evaluation, parse):
    page = parse(html)
    (screen,) = tables.screens(found.slides, found.lesions)
    assert page.table("Slides")[1:] == [list(row) for row in screen.rows]
    cards = [div.text for div in page.root.all("dl")[0].all("div")]
    assert f"ROC AUC{found.auc:.4f} 95 % interval {tables.shown_interval(found.ci95)}" in cards
    called = found.slides.panel.at_threshold
    assert page.table("Confusion matrix")[1:] == [
        ["negative", str(called.true_negative), str(called.false_positive)],
        ["positive", str(called.false_negative), str(called.true_positive)],
    ]
    threshold = page.section("threshold").text
    assert f"from a score of {found.slides.panel.threshold.value:.4g} on" in threshold
    assert found.slides.panel.threshold.source in threshold
    shares = {row[0]: row[1] for row in page.table("What the threshold gets right")}
    assert shares["sensitivity"] == f"{called.sensitivity:.4f}"
    assert shares["specificity"] == f"{called.specificity:.4f}"


def test_time_and_cost_are_those_of_the_records(run: wv.Run, html: str, parse):
    record = json.loads((run.path / "train.run.json").read_text())["cost"]
    said = parse(html).section("time-and-cost").text
    words = f"{record['wall_s']:,.1f} s, {record['cpu_s']:,.1f} s of CPU, on cpu ({record['processor']})"
    assert words in said
    assert "not recorded" not in said


def test_every_slide_is_listed_with_its_score(html: str, found: wv.Evaluation, parse):
    page = parse(html)
    listed = {row[0]: row for row in page.table("8 slides, the furthest")[1:]}
    assert set(listed) == set(found.slides.slides.slide_ids)
    for name, score in zip(found.slides.slides.slide_ids, found.slides.slides.scores, strict=True):
        assert listed[name][3] == f"{score:.4f}"


def test_curves_are_the_points_of_the_metrics(html: str, found: wv.Evaluation, parse, points):
    page, slides = parse(html), found.slides.slides
    roc = roc_points(slides.labels, slides.scores)
    drawn = points(page.chart("ROC curve"), place=1)
    np.testing.assert_allclose(drawn, np.stack([roc.x, roc.y], axis=1), atol=1e-6)
    listed = np.array([[float(cell) for cell in row[1:]] for row in page.table("ROC curve")[1:]])
    np.testing.assert_allclose(listed, np.stack([roc.x, roc.y], axis=1), atol=5e-5)
    pr = precision_recall_points(slides.labels, slides.scores)
    corners = set(points(page.chart("Precision and recall"), place=1))
    for x, y in zip(pr.x.tolist(), pr.y.tolist(), strict=True):
        assert any(abs(x - a) < 1e-5 and abs(y - b) < 1e-5 for a, b in corners), (x, y)
    bins = [[one.n for one in found.slides.panel.calibration.bins]]
    assert [[int(row[1]) for row in page.table("Reliability bins")[1:]]] == bins


def test_a_point_lies_where_its_axis_says(parse):
    from wsi_vmamba.html_report.charts import Curve, chart, unit_axis

    drawn = chart(
        [Curve(name="", points=((0.2, 0.4), (1, 1)), dots=True)], title="t", says="s", x=unit_axis("x"),
        y=unit_axis("y"),
    )  # fmt: skip
    svg = parse(drawn).root.all("svg")[0]
    a, _, _, d, e, f = (float(n) for n in svg.all("g")[0].attributes["transform"][7:-1].split())
    ticks = {one.text: one.attributes for one in svg.all("text")}
    dot = svg.all("circle")[0].attributes
    assert float(dot["cx"]) == pytest.approx(a * 0.2 + e, abs=0.02)
    assert float(dot["cx"]) == pytest.approx(float(ticks["0.2"]["x"]), abs=0.02) or "0.2" in ticks
    assert float(dot["cy"]) == pytest.approx(d * 0.4 + f, abs=0.02)
    lines = [one.attributes for one in svg.all("line")]
    assert any(
        one["x1"] == one["x2"] and float(one["x1"]) == pytest.approx(a * 0.2 + e, abs=0.02) for one in lines
    )


def test_the_cohort_is_counted(html: str, parse):
    rows = {row[0]: row[1:] for row in parse(html).table("18 slides of the data set")[1:]}
    assert rows["all"][:4] == ["18", "9", "9", "0"]
    assert rows["test"][0] == "8"
    assert int(rows["train"][0]) + int(rows["validation"][0]) == 10


def test_training_by_epoch(html: str, run: wv.Run, parse, points):
    page = parse(html)
    drawn = points(page.chart("Validation AUC"), place=0)
    np.testing.assert_allclose(drawn, [(one.epoch, one.validation_auc) for one in run.history], atol=1e-5)
    listed = page.table(f"{len(run.history)} epochs")[1:]
    assert [row[2] for row in listed] == [f"{one.train_loss:.4f}" for one in run.history]


def test_slides_show_their_pixels(html: str, slide_picture, parse):
    """The thumbnail has the colours of the slide, the best patch is described by its place."""
    article = next(one for one in parse(html).root.all("article") if one.all("h4")[0].text == "s15")
    images = article.all("img")
    source = images[0].attributes["src"].removeprefix("data:image/jpeg;base64,")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))).astype(float)
    expected = slide_picture(15).astype(float)
    assert pixels.shape == expected.shape
    assert np.abs(pixels[80:140, 110:180].mean((0, 1)) - expected[80:140, 110:180].mean((0, 1))).max() < 4
    assert np.abs(pixels[:50, :80].mean((0, 1)) - expected[:50, :80].mean((0, 1))).max() < 4
    assert images[0].attributes["alt"].startswith("s15, 0.2 × 0.1 mm")
    assert "of 80 patches; highest" in images[1].attributes["alt"]
    assert len(images) == 2 + 4


def test_each_slide_is_shown_once_and_the_worst_first(html: str, found: wv.Evaluation, parse):
    names = [one.all("h4")[0].text for one in parse(html).root.all("article")]
    assert len(names) == len(set(names)) == 8
    slides = found.slides.slides
    error = dict(zip(slides.slide_ids, np.abs(slides.scores - slides.labels), strict=True))
    assert names[0] == max(error, key=error.get)


@pytest.mark.slow
def test_slides_that_are_gone_are_said_and_found_elsewhere(train_run, cohort: Path, tmp_path: Path, parse):
    gone = tmp_path / "cohort.csv"
    text = (cohort / "cohort.csv").read_text()
    gone.write_text(text.replace(str(cohort / "slides"), str(tmp_path / "nowhere")))
    shutil.copytree(cohort / "features", tmp_path / "features")
    for meta in (tmp_path / "features").glob("*.zarr/zarr.json"):
        meta.write_text(meta.read_text().replace(str(cohort / "slides"), str(tmp_path / "nowhere")))
    run = train_run(tmp_path, manifest=gone, features=tmp_path / "features", epochs=2)
    page = parse(wv.make_report(run, examples=1, progress=False).html)
    article = page.root.all("article")[0]
    assert "file is not where it was" in article.text
    assert len(article.all("img")) == 1, "the places of its patches"
    moved = tmp_path / "moved"
    name = article.all("h4")[0].text
    listed = next(line for line in text.splitlines() if line.startswith(name))
    moved.mkdir()
    shutil.copy(listed.split(",")[1], moved / f"{name}.tif")
    again = parse(wv.make_report(run, examples=1, slides=moved, progress=False).html).root.all("article")[0]
    assert len(again.all("img")) == 6


def test_compared_runs_have_delongs_p(
    train_run, run: wv.Run, found: wv.Evaluation, tmp_path: Path, parse, points
):
    other = train_run(tmp_path, name="other", epochs=1, aggregator="mean", seed=3)
    page = parse(wv.make_report(run, compare=[str(other.path)], examples=0, progress=False).html)
    theirs = other.evaluate(progress=False)
    test = delong_paired(found.slides.slides.labels, found.slides.slides.scores, theirs.slides.slides.scores)
    first, second = page.table("AUC on the same 8 slides")[1:]
    assert (first[0], first[1]) == ("run", f"{found.auc:.4f}")
    assert second[1] == f"{theirs.auc:.4f}"
    assert second[3] == f"{theirs.auc - found.auc:+.4f}"
    assert second[5] == f"{test.p_value:.4g}"
    roc = roc_points(theirs.slides.slides.labels, theirs.slides.slides.scores)
    chart = page.section("runs-side-by-side").all("svg")[0]
    np.testing.assert_allclose(points(chart, place=2), np.stack([roc.x, roc.y], axis=1), atol=1e-6)


def test_a_run_is_judged_as_it_was_evaluated(run: wv.Run, tmp_path: Path, parse):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    found = wv.evaluate(copy, threshold=0.123, out=copy / "evaluation", progress=False, metric="all")
    page = parse(wv.make_report(copy, examples=0, progress=False).html)
    assert "from a score of 0.123 on" in page.section("threshold").text
    recorded = json.loads((copy / "evaluation" / "metrics.json").read_text())
    assert page.table("Slides")[1][1] == f"{recorded['auc']:.4f}" == f"{found.auc:.4f}"


@pytest.mark.slow
def test_folds_and_tables_of_numbers(train_run, tmp_path: Path, parse):
    folds = train_run(tmp_path, name="folds", folds=2, epochs=1)
    page = parse(wv.make_report(folds, examples=0, progress=False).html)
    assert "2 folds on their test slides" in page.section("what-the-slides-say").text
    assert [one.text for one in page.section("training").all("h3")] == ["Fold 1", "Fold 2"]
    rows = ["slide_id,label,split,a,b"]
    rows += [f"t{n:02d},{n % 2},{'test' if n >= 24 else 'train'},{n % 2 + n % 3},{n % 5}" for n in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n")
    fitted = wv.train(
        dataset="csv_features", manifest=tmp_path / "rows.csv", runs=tmp_path, name="rows", progress=False
    )
    page = parse(wv.make_report(fitted, progress=False).html)
    assert page.table("Slides")[1][1] == f"{fitted.evaluate(progress=False).auc:.4f}"
    assert not page.root.all("img")


@pytest.mark.slow
def test_lesions_have_their_froc(train_run, cohort: Path, tmp_path: Path, parse):
    outlines = tmp_path / "outlines"
    outlines.mkdir()
    square = [[[96, 64], [192, 64], [192, 160], [96, 160], [96, 64]]]
    for line in (cohort / "cohort.csv").read_text().splitlines()[1:]:
        name = line.rsplit(",", 4)[0].strip('"').replace('""', '"')
        geometry = {"type": "Polygon", "coordinates": square}
        feature = {
            "type": "Feature",
            "geometry": geometry,
            "properties": {"classification": {"name": "tumor"}},
        }
        collection = {"type": "FeatureCollection", "features": [feature]}
        (outlines / f"{name}.geojson").write_text(json.dumps(collection))
    run = train_run(tmp_path, epochs=2)
    run.evaluate(metric="all", annotations=str(outlines), out=run.path / "evaluation", progress=False)
    page = parse(wv.make_report(run, examples=0, progress=False).html)
    # So small a lesion counts for none, and the score is not defined.
    assert page.table("Lesions")[1][1] == "not defined"
    assert page.chart("FROC").all("polyline")
    rates = page.table("Sensitivity at the six rates")
    assert [row[0] for row in rates[1:]] == ["0.25", "0.5", "1", "2", "4", "8"]


def test_the_froc_has_its_curve(parse, points):
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[5:20, 5:35] = mask[25:35, 5:35] = 255
    lesions = find_lesions(mask, name="t")
    said = Detections(probability=np.array([0.9, 0.8, 0.7]), x_l0=np.array([320.0, 1200, 320]),
                      y_l0=np.array([320.0, 1270, 960]))  # fmt: skip
    found = froc([FrocSlide(name="t", lesions=lesions, detections=said)])
    page = parse(froc_figure(found))
    drawn = dict(points(page.chart("FROC"), place=1))
    for rate, value in zip(RATES, found.curve.sensitivity_at_rates, strict=True):
        assert drawn[np.log2(rate)] == pytest.approx(value, abs=1e-5)
    listed = [row[1] for row in page.table("Sensitivity at the six")[1:]]
    assert listed == [f"{value:.4f}" for value in found.curve.sensitivity_at_rates]


def test_what_is_no_result_is_refused(tmp_path: Path, cohort: Path):
    with pytest.raises(UsageError, match="it holds none of them"):
        wv.make_report(tmp_path, progress=False)
    with pytest.raises(UsageError, match="no such folder"):
        wv.make_report(tmp_path / "absent", progress=False)
    with pytest.raises(UsageError, match=r"cohort.csv is a file; give the folder"):
        wv.make_report(cohort / "cohort.csv", progress=False)
    with pytest.raises(UsageError, match="a folder of features; leave it out"):
        wv.make_report(cohort / "features", compare=["x"], progress=False)

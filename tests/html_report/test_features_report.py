"""The report of an extraction names what went wrong, the gravest first; that of predictions has predict's numbers."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wsi_vmamba as wv
from wsi_vmamba.html_report.extracted import Extracted
from wsi_vmamba.html_report.suspicions import Cohort

COLUMNS = ("slide_id", "outcome", "detail", "remedy", "regions", "patches", "left_out", "seconds", "decode_s", "wait_s",
           "stream_s")  # fmt: skip


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory, slide_writer, slide_picture) -> Path:
    """Thirteen slides: one that cannot be read, one of glass, one of another scanner, one green."""
    folder = tmp_path_factory.mktemp("extraction")
    slides = folder / "slides"
    for index in range(9):
        slide_writer(slides / f"a{index}.tif", slide_picture(2 * index))
    green = slide_picture(40)[..., [1, 0, 2]]
    slide_writer(slides / "green.tif", green)
    slide_writer(slides / "scanner.tif", np.tile(slide_picture(42), (2, 2, 1)), mpp=0.25)
    (slides / "broken.tif").write_bytes((slides / "a0.tif").read_bytes()[:3000])
    glass = np.full((256, 320, 3), 244, dtype=np.uint8)
    slide_writer(slides / "glass.tif", glass)
    wv.extract(
        slides, out=folder / "features", backbone="null", segmenter="otsu", patch_px=32, region_px=320, min_tissue=0.2,
        target_mpp=0.5,
    )  # fmt: skip
    return folder / "features"


def test_what_went_wrong_comes_first_with_its_remedy(extraction: Path, parse):
    page = parse(wv.make_report(extraction, progress=False).html)
    with (extraction / "extract.csv").open() as file:
        outcomes = {row["slide_id"]: row for row in csv.DictReader(file)}
    failed = {name for name, row in outcomes.items() if row["outcome"] not in ("done", "already done")}
    assert "broken" in failed
    lead = next(one.text for one in page.root.all("p") if one.attributes.get("class") == "lead")
    assert lead.startswith(f"{len(failed)} of {len(outcomes)} slides have no usable features")
    listed = page.table(f"{len(outcomes)} slides, the most suspicious first")
    head, rows = listed[0], listed[1:]
    assert {row[0] for row in rows[: len(failed)]} == failed
    named = dict(zip(head, next(row for row in rows if row[0] == "broken"), strict=True))
    assert named["what to do"] == outcomes["broken"]["remedy"]
    order = [int(row[1]) for row in rows]
    assert order == sorted(order, reverse=True)
    by_name = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert "0.25 um per pixel" in by_name["scanner"]["what"]
    assert "features unlike the others" in by_name["green"]["what"]
    assert by_name["a1"]["patches"] == outcomes["a1"]["patches"]


def test_distances_are_those_of_likeness(extraction: Path, parse):
    from wsi_vmamba.prediction.likeness import leave_one_out

    page = parse(wv.make_report(extraction, progress=False).html)
    listed = page.table("13 slides, the most suspicious first")
    place = listed[0].index("distance")
    shown = {row[0]: row[place] for row in listed[1:] if row[place]}
    names = sorted(shown)
    means = np.stack(
        [
            wv.open_features(extraction / f"{name}.zarr").features.astype(np.float32).mean(0, dtype=float)
            for name in names
        ]
    )
    for name, value in zip(names, leave_one_out(means), strict=True):
        assert shown[name] == f"{value:.2f}"


def test_features_that_vanished_or_are_damaged_are_named(extraction: Path, tmp_path: Path, parse):
    copy = tmp_path / "features"
    shutil.copytree(extraction, copy)
    shutil.rmtree(copy / "a2.zarr")
    (copy / "a3.zarr" / "features" / "zarr.json").unlink()
    page = parse(wv.make_report(copy, progress=False).html)
    rows = {row[0]: row for row in page.table("13 slides, the most suspicious first")[1:]}
    assert "are not there any more" in rows["a2"][2]
    assert int(rows["a3"][1]) == 95
    assert str(tmp_path) not in page.section("failures-and-what-to-do").text


@pytest.mark.slow
def test_129_slides_stay_small(extraction: Path, tmp_path: Path, parse):
    """Previews of noise, which compress worst."""
    copy = tmp_path / "features"
    (copy / "tissue").mkdir(parents=True)
    generator = np.random.default_rng(0)
    lines = [",".join(COLUMNS)]
    for index in range(129):
        name = f"slide{index:03d}"
        shutil.copytree(extraction / "a1.zarr", copy / f"{name}.zarr")
        noise = generator.integers(0, 256, (420, 500, 3), dtype=np.uint8)
        Image.fromarray(noise).save(copy / "tissue" / f"{name}.jpg", quality=85)
        lines.append(f"{name},done,,,1,80,0,{1 + index / 100},0.1,0.1,1.0")
    (copy / "extract.csv").write_text("\n".join(lines) + "\n")
    html = wv.make_report(copy, progress=False).html
    assert len(html.encode()) <= 15_000_000
    page = parse(html)
    assert len(page.section("tissue-that-was-found").all("img")) == 129
    assert len(page.section("all-slides").all("tr")) == 130


def test_predictions_have_the_numbers_of_the_table(predictions: Path, hostile: str, parse):
    page = parse(wv.make_report(predictions, examples=1, progress=False).html)
    with (predictions / "predictions.csv").open() as file:
        rows = {row["slide_id"]: row for row in csv.DictReader(file)}
    assert hostile in rows
    listed = page.table(f"{len(rows)} slides, highest probability first")
    for row in listed[1:]:
        expected = rows[row[0]]
        assert row[1] == f"{float(expected['probability']):.4f}"
        assert row[2] == expected["decision"]
        assert row[4] == expected["unlike"]
    shown = [float(row[1]) for row in listed[1:]]
    assert shown == sorted(shown, reverse=True)
    articles = page.root.all("article")
    assert [one.all("h4")[0].text for one in articles] == [row[0] for row in listed[1:4]]
    assert all(len(one.all("img")) == 6 for one in articles)


def test_failed_predictions_come_with_their_remedy(predictions: Path, tmp_path: Path, parse):
    copy = tmp_path / "predictions"
    shutil.copytree(predictions, copy)
    with (copy / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    kept = {
        "slide_id": "lost",
        "outcome": "failed",
        "detail": "/data/in/lost.svs: gone",
        "remedy": "copy it again",
    }
    with (copy / "predictions.csv").open("a", newline="") as file:
        csv.DictWriter(file, list(rows[0])).writerow(kept)
    page = parse(wv.make_report(copy, examples=0, progress=False).html)
    assert page.table("Slides without a prediction")[1] == [
        "lost",
        "failed",
        "lost.svs: gone",
        "copy it again",
    ]


def test_one_slide_that_is_no_number_leaves_the_distances_of_the_others():
    def slide(index: int, mean: np.ndarray | None) -> Extracted:
        return Extracted(slide_id=f"s{index}", outcome="done", patches=9, settings="x", mean=mean)

    means = np.random.default_rng(0).normal(size=(8, 4))
    whole = Cohort.of([slide(index, mean) for index, mean in enumerate(means)])
    with_one = Cohort.of([slide(index, mean) for index, mean in enumerate(means)] + [slide(8, None)])
    assert with_one.distances == whole.distances
    assert len(whole.distances) == 8
    assert with_one.limit == whole.limit

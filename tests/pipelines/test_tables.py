"""Every command's tables in the dialects of Excel, R and pandas: the values, not only that they are read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from wsi_vmamba import cli
from wsi_vmamba.bags import BagLoader, SlideRecord
from wsi_vmamba.datasets import camelyon16
from wsi_vmamba.datasets.csv import load
from wsi_vmamba.datasets.csv_features import read_feature_table
from wsi_vmamba.datasets.presence import require_features
from wsi_vmamba.errors import DatasetError, MetricError, MissingDataError, UsageError
from wsi_vmamba.extraction.outcome_table import OutcomeTable
from wsi_vmamba.extraction.outcomes import DONE, FAILED, Outcome
from wsi_vmamba.extraction.sources import find_sources
from wsi_vmamba.metrics.detection_files import read_detections
from wsi_vmamba.metrics.scores import read_scores
from wsi_vmamba.pipelines import extract
from wsi_vmamba.store import open_features
from wsi_vmamba.tabular import run as tabular
from wsi_vmamba.training.run import SPLITS, read_splits


def as_german(text: str) -> bytes:
    """As Excel writes it under a German locale."""
    return b"\xef\xbb\xbf" + text.replace(",", ";").replace(".", ",").replace("\n", "\r\n").encode()


def as_tabs(text: str) -> bytes:
    return text.replace(",", "\t").encode()


def as_padded(text: str) -> bytes:
    """Blanks after the commas, and blank lines at the end as Excel leaves them."""
    return (text.replace(",", ", ") + ",,\n\n").encode()


WRITERS = {"plain": str.encode, "german": as_german, "tabs": as_tabs, "padded": as_padded}


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(WRITERS[request.param](text))
        return path

    return written


@pytest.fixture
def evaluate(monkeypatch):
    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["wsi-vmamba", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0)

    return call


#: AUC 0.75: of the four pairs, 0.35 against 0.4 is in the wrong order.
SCORES = "slide_id,label,p\na,0,0.1\nb,0,0.4\nc,1,0.35\nd,1,0.8\n"


def test_scores(write, evaluate, tmp_path):
    path = write("scores.csv", SCORES)
    assert read_scores(path, score_column="p").scores.tolist() == [0.1, 0.4, 0.35, 0.8]
    out = tmp_path / "found.json"
    assert evaluate("--metric", "auc", "--scores", path, "--score-column", "p", "--json", out) == 0
    assert json.loads(out.read_text())["auc"] == 0.75


def test_compared_scores(write, evaluate, tmp_path):
    first = write("a.csv", SCORES)
    second = write("b.csv", "slide_id,label,q\nd,1,0.9\nc,1,0.8\nb,0,0.2\na,0,0.85\n")
    out = tmp_path / "found.json"
    assert evaluate("--compare", f"{first}:p", f"{second}:q", "--json", out) == 0
    found = json.loads(out.read_text())
    assert (found["auc_a"], found["auc_b"]) == (0.75, 0.75)


def test_decimal_commas_that_nothing_tells_apart_are_refused_by_line(tmp_path, evaluate, capsys):
    (tmp_path / "s.csv").write_text("slide_id,label,p\na,0,0,1\nb,0,0,4\nc,1,0,35\nd,1,0,8\n")
    assert evaluate("--scores", tmp_path / "s.csv", "--score-column", "p") == 1
    assert "line 2: expected 3 cells as in the header, got 4 (a, 0, 0, 1)" in capsys.readouterr().err


def test_an_unknown_column_of_a_table_with_semicolons_lists_those_it_has(tmp_path, evaluate, capsys):
    (tmp_path / "s.csv").write_text("slide_id;label;p\na;0;0,1\nb;1;0,4\n")
    assert evaluate("--scores", tmp_path / "s.csv", "--score-column", "score") == 2
    assert "choose from label, p, slide_id" in capsys.readouterr().err


def test_manifests(write):
    path = write("m.csv", "slide_id,path,mpp,label,split\na,x/a_svs,0.25,1,train\nb,b_svs,0.5,0,test\n")
    found = load(manifest=path)
    assert [(r.slide_id, r.path, r.mpp, r.label, r.split) for r in found] == [
        ("a", path.parent / "x" / "a_svs", 0.25, 1, "train"),
        ("b", path.parent / "b_svs", 0.5, 0, "test"),
    ]
    sources = find_sources(str(path))
    assert [(s.slide_id, s.path, s.mpp) for s in sources] == [
        ("a", path.parent / "x" / "a_svs", 0.25),
        ("b", path.parent / "b_svs", 0.5),
    ]
    assert [s.listed_at for s in sources] == [f"{path}, line 2", f"{path}, line 3"]


def test_manifests_with_the_ending_of_tab_separated_values(tmp_path):
    (tmp_path / "m.tsv").write_text("slide_id\tpath\na\ta.svs\n")
    assert find_sources(str(tmp_path / "m.tsv"))[0].path == tmp_path / "a.svs"
    (tmp_path / "m.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(UsageError, match="is a workbook of a spreadsheet; save its sheet as CSV"):
        find_sources(str(tmp_path / "m.xlsx"))


def test_the_manifest_of_a_public_data_set(write):
    path = write(
        "c.csv", "slide_id,label,split,metastasis,fold,flags\nx,tumor,test,macro,,\ny,normal,test,none,,\n"
    )
    assert [(r.label, r.attributes["metastasis"]) for r in camelyon16.load(manifest=path)] == [
        (1, "macro"),
        (0, "none"),
    ]


FEATURES = "slide_id,label,area,count\n" + "".join(
    f"s{index},{index % 2},{index + 0.5},{index * 2}\n" for index in range(12)
)


def test_tables_of_features(write):
    table = read_feature_table(write("t.csv", FEATURES))
    assert table.names == ("area", "count")
    assert table.values.tolist() == [[index + 0.5, index * 2] for index in range(12)]


def test_row_numbers_of_pandas_are_no_feature(tmp_path):
    """A table sorted by label would hand the label over with them."""
    lines = FEATURES.splitlines()
    numbered = [f",{lines[0]}", *(f"{number},{line}" for number, line in enumerate(lines[1:]))]
    (tmp_path / "t.csv").write_text("\n".join(numbered) + "\n")
    assert read_feature_table(tmp_path / "t.csv").names == ("area", "count")


def test_runs_whose_tables_were_saved_by_excel(write, tmp_path):
    """The tables beside a model may have been looked at, and saved, in another program."""
    write(f"run/{SPLITS}", "slide_id,patient_id,label,split\na,a,1,train\nb,b,0,test\n")
    assert read_splits(tmp_path / "run") == {"a": "train", "b": "test"}
    (tmp_path / "features.csv").write_text(FEATURES)
    fitted = tabular.fit(
        read_feature_table(tmp_path / "features.csv"), classifier="logistic_regression", seed=0
    )
    tabular.save(tmp_path / "table", fitted, classifier="logistic_regression", seed=0)
    saved = (tmp_path / "table" / tabular.VALIDATION).read_text()
    write(f"table/{tabular.VALIDATION}", saved)
    again = tabular.load(tmp_path / "table")
    assert again.validation == fitted.validation
    assert again.validation_labels == fitted.validation_labels


def test_the_table_of_an_extraction_keeps_its_rows(write, tmp_path):
    table = OutcomeTable(tmp_path / "extract.csv")
    table.add(Outcome(slide_id="a", outcome=DONE, patches=7))
    table.save()
    write("extract.csv", (tmp_path / "extract.csv").read_text())
    again = OutcomeTable(tmp_path / "extract.csv")
    again.add(Outcome(slide_id="b", outcome=FAILED))
    again.save()
    lines = (tmp_path / "extract.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["slide_id", "a", "b"]
    assert lines[1].split(",")[5] == "7"


@pytest.mark.parametrize("header", ["", "probability,x,y\n"])
def test_detections(write, header):
    found = read_detections(write("s.csv", f"{header}0.5,10,20\n0.25,30.5,40\n"))
    assert found.probability.tolist() == [0.5, 0.25]
    assert (found.x_l0.tolist(), found.y_l0.tolist()) == ([10, 30.5], [20, 40])


@pytest.mark.parametrize("probability", ["87", "1.0001", "-0.5", "1e300"])
def test_detections_that_are_no_probabilities_are_refused_by_line(probability, tmp_path):
    (tmp_path / "s.csv").write_text(f"probability,x,y\n1,10,10\n0,10,10\n{probability},10,20\n")
    with pytest.raises(
        MetricError, match=r"line 4: expected a probability in 0–1, got .* divide percentages"
    ):
        read_detections(tmp_path / "s.csv")


def test_detections_of_which_some_have_a_comma_and_some_a_point_are_refused(tmp_path):
    (tmp_path / "s.csv").write_text("0,5;1000;2000\n0,25;1.000;2000\n")
    with pytest.raises(
        MetricError, match=r"line 1: probability has a decimal comma .* line 2: x a decimal point"
    ):
        read_detections(tmp_path / "s.csv")


@pytest.mark.parametrize(
    ("column", "known"),
    [("Split", "split"), ("MPP", "mpp"), ("patient id", "patient_id"), ("Label", "label")],
)
def test_a_column_that_is_almost_a_known_one_is_not_passed_over(column, known, tmp_path):
    (tmp_path / "m.csv").write_text(f"slide_id,{column}\na,\n")
    with pytest.raises(DatasetError, match=f"the column '{column}' must be called '{known}'"):
        load(manifest=tmp_path / "m.csv")


def test_an_error_of_a_record_names_its_line(tmp_path):
    (tmp_path / "m.csv").write_text("slide_id,split\n\na,\nb,testing\n")
    with pytest.raises(DatasetError, match=r"m\.csv, line 4: b: split must be one of"):
        load(manifest=tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ("a", "a.tif", "the ending of an image"),
        ("a.ome.tif", "a.svs", "the ending of an image"),
        ("A", "a", "case"),
        ("a  1", "a 1", "the number of blanks"),
        ("Pr\u00e4parat", "Pra\u0308parat", "the Unicode form of a letter"),
    ],
)
def test_one_slide_in_two_spellings_is_no_two_slides(first, second, difference, tmp_path):
    (tmp_path / "m.csv").write_text(f"slide_id,label,p\n{first},0,0.5\n{second},1,0.7\n", encoding="utf-8")
    words = f"'{first}' and '{second}' differ only in {difference}"
    with pytest.raises(DatasetError, match=words):
        load(manifest=tmp_path / "m.csv")
    with pytest.raises(MetricError, match=words):
        read_scores(tmp_path / "m.csv", score_column="p")


@pytest.mark.parametrize(
    ("listed", "there", "difference"),
    [
        ("slide_003.tif", "slide_003", "the ending of an image"),
        ("Slide_003", "slide_003", "case"),
        ("slide 003", "slide_003", "blanks, underscores or hyphens"),
        ("7", "007", "zeros at the head of a number"),
        ("7.0", "7", "the decimals of a number"),
    ],
)
def test_a_slide_without_features_is_told_under_what_name_they_are(listed, there, difference, tmp_path):
    (tmp_path / f"{there}.zarr").mkdir()
    words = f"'{listed}' is not '{there}', they differ in {difference}"
    record = SlideRecord(slide_id=listed)
    with pytest.raises(MissingDataError, match=words):
        require_features([record], tmp_path, dataset="csv")
    with pytest.raises(MissingDataError, match=words):
        BagLoader(tmp_path)(record)


def test_compared_scores_whose_slides_have_other_spellings_say_so(tmp_path, evaluate, capsys):
    (tmp_path / "a.csv").write_text(SCORES)
    (tmp_path / "b.csv").write_text(SCORES.replace("c,", "c.tif,").replace("\nd,", "\nD,"))
    assert evaluate("--compare", f"{tmp_path}/a.csv:p", f"{tmp_path}/b.csv:p") == 1
    said = capsys.readouterr().err
    assert "4 are in only one of" in said
    assert "'c' is not 'c.tif', they differ in the ending of an image" in said
    assert "'d' is not 'D', they differ in case" in said


def test_a_file_that_a_manifest_names_and_is_not_there_is_shown(
    tmp_path, write_tiny_slide, extract_config, read_outcomes, capsys
):
    write_tiny_slide(tmp_path / "in" / "a.tif")
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide_id,path\na,in/a.tif\n\nb,in/b.tif\nc,in\\a.tif\n")
    assert extract.run(extract_config(manifest, tmp_path / "out")) is False
    rows = read_outcomes(tmp_path / "out")
    assert rows["a"]["outcome"] == "done"
    assert rows["b"]["detail"] == f"no such file: {tmp_path / 'in' / 'b.tif'} ({manifest}, line 4)"
    assert rows["b"]["remedy"] == "check the path: was it moved, or is its disk not mounted?"
    assert rows["c"]["detail"].endswith("its folders must be divided by /, not by \\")
    assert str(tmp_path / "in" / "b.tif") in capsys.readouterr().out.replace("\n", "")


def test_features_are_equal_whatever_wrote_the_manifest(write, tmp_path, write_tiny_slide, extract_config):
    write_tiny_slide(tmp_path / "a_tif")
    manifest = write("m.csv", "slide_id,path,mpp\na,a_tif,0.25\n")
    assert extract.run(extract_config(manifest, tmp_path / "out")) is True
    stored = open_features(tmp_path / "out" / "a.zarr")
    assert (stored.meta.mpp, stored.meta.mpp_source) == (0.25, "override")
    assert np.isfinite(stored.features).all()


@pytest.mark.parametrize("name", ["1.23E+11", "9,91214E+15", "5E+20"])
def test_names_that_a_spreadsheet_has_shortened_are_refused(name, tmp_path):
    (tmp_path / "m.csv").write_text(f"slide_id;label;p\n{name};0;0,5\n1E5;1;0,7\n")
    with pytest.raises(DatasetError, match="shortens a long number, and digits of it are lost"):
        load(manifest=tmp_path / "m.csv")
    with pytest.raises(MetricError, match="shortens a long number, and digits of it are lost"):
        read_scores(tmp_path / "m.csv", score_column="p")
    (tmp_path / "m.csv").write_text("slide_id;label;p\n1E5;1;0,7\n")
    assert load(manifest=tmp_path / "m.csv")[0].slide_id == "1E5"


def test_a_slide_is_not_extracted_again_under_another_spelling(tmp_path, write_tiny_slide, extract_config):
    write_tiny_slide(tmp_path / "in" / "slide_003.tif")
    out = tmp_path / "out"
    assert extract.run(extract_config(tmp_path / "in", out)) is True
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide_id,path\nslide_003.tif,in/slide_003.tif\n")
    with pytest.raises(
        UsageError, match=r"'slide_003.tif' is not 'slide_003', they differ in the ending of an image"
    ):
        extract.run(extract_config(manifest, out))
    assert [path.name for path in out.glob("*.zarr")] == ["slide_003.zarr"]
    manifest.write_text("slide_id,path\nslide_003,in/slide_003.tif\n")
    assert extract.run(extract_config(manifest, out)) is True

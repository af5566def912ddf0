"""The reader of every table: equal values from every dialect, and words for what is no table."""

from __future__ import annotations

import pytest

from wsi_vmamba.cells import Cell, read_label, read_numbers
from wsi_vmamba.errors import DatasetError, MetricError
from wsi_vmamba.table import read_table

#: One table of two slides as different programs write it.
DIALECTS = {
    "plain": b"slide_id,label,p\na,0,0.25\nb,1,0.5\n",
    "windows": b"slide_id,label,p\r\na,0,0.25\r\nb,1,0.5\r\n",
    "old mac": b"slide_id,label,p\ra,0,0.25\rb,1,0.5\r",
    "byte order mark": b"\xef\xbb\xbfslide_id,label,p\na,0,0.25\nb,1,0.5\n",
    "byte order mark twice": b"\xef\xbb\xbf\xef\xbb\xbfslide_id,label,p\na,0,0.25\nb,1,0.5\n",
    "semicolons and points": b"slide_id;label;p\na;0;0.25\nb;1;0.5\n",
    "semicolons and commas": b"slide_id;label;p\na;0;0,25\nb;1;0,5\n",
    "tabs": b"slide_id\tlabel\tp\na\t0\t0.25\nb\t1\t0.5\n",
    "tabs and commas": b"slide_id\tlabel\tp\na\t0\t0,25\nb\t1\t0,5\n",
    "Excel's first line": b"sep=;\r\nslide_id;label;p\r\na;0;0,25\r\nb;1;0,5\r\n",
    "Excel's first line, quoted": b'"sep=\t"\nslide_id\tlabel\tp\na\t0\t0,25\nb\t1\t0,5\n',
    "blanks": b" slide_id, label, p \n\ta , 0 , 0.25 \nb,1, 0.5\n",
    "no-break and zero-width blanks": "slide_id,label,p\na\u00a0,0,0.25\n\u200bb,1,0.5\n".encode(),
    "blank lines": b"\n,,\nslide_id,label,p\n\na,0,0.25\n , ,\nb,1,0.5\n,,\n",
    "empty cells to the right": b"slide_id,label,p,,\na,0,0.25,,\nb,1,0.5,,\n",
    "longer by empty cells": b"slide_id,label,p\na,0,0.25,\nb,1,0.5,,\n",
    "quotation marks": b'"slide_id","label","p"\n"a","0","0.25"\n"b","1","0.5"\n',
    "row numbers of pandas": b",slide_id,label,p\n0,a,0,0.25\n7,b,1,0.5\n",
    "row numbers read and written again": b"Unnamed: 0,slide_id,label,p\n1,a,0,0.25\n0,b,1,0.5\n",
    "empty columns of pandas": b"slide_id,label,p,Unnamed: 3\na,0,0.25,\nb,1,0.5,\n",
    "exponents": b"slide_id,label,p\na,0,2.5E-1\nb,1,5e-1\n",
    "labels as decimals": b"slide_id,label,p\na,0.0,0.25\nb,1.0,0.5\n",
    "labels as truth": b"slide_id,label,p\na,FALSE,0.25\nb,TRUE,0.5\n",
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_the_same_values(dialect, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(DIALECTS[dialect])
    table = read_table(path, expects=("slide_id",))
    assert table.columns == ("slide_id", "label", "p")
    assert [row["slide_id"] for row in table.rows] == ["a", "b"]
    assert table.numbers([row.cell("p") for row in table.rows]) == [0.25, 0.5]
    assert [read_label(row.cell("label"), positive=None, error=DatasetError) for row in table.rows] == [0, 1]


def test_lines_are_counted_as_an_editor_does(tmp_path):
    (tmp_path / "t.csv").write_text('sep=;\na;b\n\n1;"two\nlines"\n3;4\n')
    rows = read_table(tmp_path / "t.csv").rows
    assert [(row.line, row["b"]) for row in rows] == [(5, "two\nlines"), (6, "4")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; expected a header"),
        (b"a,b\n1,2\n3,0,4\n", "line 3: expected 2 cells as in the header, got 3 .* semicolons"),
        (b"a,b\n1,2\n3\n", "line 3: expected 2 cells as in the header, got 1 .* its delimiter too"),
        (b"a,a\n1,2\n", "columns come twice in the header: a"),
        (b"a,,b\n1,x,2\n", "column 2 has no name in the header, and its cells are no row numbers"),
        (b"Unnamed: 0,a\n0,1\n0,2\n", "column 1 has no name in the header but 'Unnamed: 0'"),
        (b'a,b\n1,"two\n3,4\n', "line 3: cannot be read as CSV .* quotation mark not closed"),
        ("a,b\n1,2\n".encode("utf-16"), "is text in UTF-16 .* CSV UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), "zero bytes: it is text in UTF-16"),
        ("a,b\n1,2\nPräparat,3\n".encode("cp1252"), "line 3: the byte 0xe4 is not UTF-8"),
        (b"PK\x03\x04...", "is a workbook of a spreadsheet"),
        (b"\x1f\x8b...", "is compressed with gzip"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b"# by me\na,b\n1,2\n", "first line is a comment"),
        (b'"a,b"\n"1,2"\n', "header is one cell in quotation marks"),
    ],
)
def test_what_is_no_table_is_refused_in_words(content, words, tmp_path):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(MetricError, match=words) as caught:
        read_table(tmp_path / "t.csv", error=MetricError)
    assert "t.csv" in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.csv cannot be read \(No such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_table(tmp_path)


def test_missing_columns_are_listed_with_what_there_is(tmp_path):
    (tmp_path / "t.csv").write_text("Slide_ID;prob\na;1\n")
    table = read_table(tmp_path / "t.csv", expects=("slide_id", "p"))
    with pytest.raises(
        DatasetError, match="slide_id, p is missing, the columns are 'Slide_ID', 'prob'"
    ) as caught:
        table.require(("slide_id", "p"))
    assert "expected a header with slide_id, p" in str(caught.value)
    with pytest.raises(DatasetError, match="the column 'Slide_ID' must be called 'slide_id'"):
        table.refuse_near(("slide_id", "label"))


def numbers(*texts: str, comma: bool = False) -> list[float]:
    cells = [Cell(text, "p", f"t.csv, line {line}") for line, text in enumerate(texts, start=2)]
    return read_numbers(cells, decimal_comma=comma, error=DatasetError)


def test_numbers_of_many_hands():
    assert numbers("1", "-.5", "2.", "1e-4", "+3E2", "−0.5") == [1, -0.5, 2, 1e-4, 300, -0.5]
    assert numbers("0,5", "1", "-1,25e2", comma=True) == [0.5, 1, -125]
    assert numbers("inf") == [float("inf")]


@pytest.mark.parametrize(
    ("texts", "comma", "words"),
    [
        (["1", "high"], False, "line 3: p must be a number, got 'high'"),
        (["0,5"], False, "got '0,5'; a decimal comma needs a table with semicolons"),
        (["45%"], False, "got '45%'; write a percentage as a fraction"),
        ([""], False, "got ''"),
        (["1_000"], False, "got '1_000'"),
        (["٣"], False, "must be a number"),
        (["1.234,5"], True, "must be a number, got '1.234,5'"),
        (["1,234,567"], True, "must be a number, got '1,234,567'"),
        (["1,200", "900", "-2,000"], True, r"p is 1,200, and every comma .* not clear"),
        (["0,5", "1.234"], True, r"line 2: p has a decimal comma \(0,5\), and .*line 3: p a decimal point"),
    ],
)
def test_what_is_no_number_is_refused_by_line_and_value(texts, comma, words):
    with pytest.raises(DatasetError, match=words):
        numbers(*texts, comma=comma)


@pytest.mark.parametrize("name", ["Tumor", "TUMOR", "tu mor"])
def test_a_label_that_is_almost_the_positive_one_is_not_the_other_class(name):
    cell = Cell(name, "label", "t.csv, line 7")
    with pytest.raises(
        DatasetError, match=rf"line 7: label '{name}' and the positive class 'tumor' differ in case"
    ):
        read_label(cell, positive="tumor", error=DatasetError)
    assert read_label(cell._replace(text="normal"), positive="tumor", error=DatasetError) == 0
    assert read_label(cell._replace(text="tumor"), positive="tumor", error=DatasetError) == 1
    assert read_label(cell._replace(text=""), positive="tumor", error=DatasetError) is None

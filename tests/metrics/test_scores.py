"""Scores from a CSV, and slides that come twice."""

import subprocess
import sys

import pytest

from wsi_vmamba.errors import MetricError, UnknownNameError
from wsi_vmamba.metrics.auc import roc_auc
from wsi_vmamba.metrics.base import check_binary
from wsi_vmamba.metrics.scores import read_scores

TEXT = "slide_id,label,other,p\na,normal,x,0.1\nb,tumor,x,0.9\nc,normal,y,0.2\n"


def _write(tmp_path, text):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    return path


def test_names_become_labels_by_the_positive_one(tmp_path):
    table = read_scores(_write(tmp_path, TEXT), score_column="p", positive="tumor")
    assert table.slide_ids == ("a", "b", "c")
    assert table.labels.tolist() == [0, 1, 0]
    assert table.scores.tolist() == [0.1, 0.9, 0.2]


def test_lines_stand_for_slides_where_there_is_no_id(tmp_path):
    table = read_scores(_write(tmp_path, "y,p\n0,1\n1,2\n"), score_column="p", label_column="y")
    assert table.slide_ids == ("line 2", "line 3")


@pytest.mark.parametrize(
    ("text", "positive", "message"),
    [
        (
            TEXT,
            None,
            "line 2: the label of a must be 0 or 1, or empty where unknown, got 'normal'; of names, say",
        ),
        (TEXT, "tumour", "no slide is labelled 'tumour'; labels present: normal, tumor"),
        (TEXT.replace("0.9", "high"), "tumor", "line 3: the score of b must be a number, got 'high'"),
        (TEXT.replace("0.9", "nan"), "tumor", r"not finite: b \(nan\)"),
        (TEXT.replace("c,", "a,"), "tumor", r"1 slides are listed more than once \(a\)"),
        (TEXT.replace("c,normal", "c,"), "tumor", "line 4: c has no label; leave it out"),
        ("slide_id,label,p\n", None, "holds no scores"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, positive, message):
    with pytest.raises(MetricError, match=message):
        read_scores(_write(tmp_path, text), score_column="p", positive=positive)


def test_an_unknown_column_lists_the_columns(tmp_path):
    with pytest.raises(UnknownNameError, match="choose from label, other, p, slide_id"):
        read_scores(_write(tmp_path, TEXT), score_column="score")


def test_real_scores(golden):
    path = golden / "scores" / "camelyon16_test_scores.csv"
    table = read_scores(path, score_column="Method_I")
    assert len(table.slide_ids) == 129
    assert roc_auc(table.labels, table.scores) == pytest.approx(0.9155612244897959, abs=1e-12)


def test_repeated_slides_and_wrong_counts_are_refused():
    with pytest.raises(MetricError, match=r"2 slides are listed more than once \(a, b\)"):
        check_binary([0, 1, 0, 1], [1, 2, 3, 4], slide_ids=["a", "b", "a", "b"])
    with pytest.raises(MetricError, match="1 ids and 2 labels"):
        check_binary([0, 1], [1, 2], slide_ids=["a"])


def test_importing_the_tables_loads_neither_numpy_nor_scikit_learn():
    code = (
        "import sys; import wsi_vmamba.metrics as m, wsi_vmamba.datasets as d\n"
        "assert list(m.METRICS) and list(d.DATASETS)\n"
        "assert not {'numpy', 'sklearn', 'torch', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""The confusion matrix as a figure."""

import json

import pytest

from wsi_vmamba.metrics.thresholds import at_threshold
from wsi_vmamba.report import confusion
from wsi_vmamba.report.confusion import plot_confusion

SOURCE = "highest balanced accuracy on 266 validation slides"


@pytest.fixture
def result():
    return at_threshold([0, 0, 0, 1, 1], [0.1, 0.2, 0.9, 0.3, 0.8], threshold=0.5, resamples=100)


def test_the_data_beside_it_are_the_counts(result, tmp_path):
    files = plot_confusion(result, tmp_path, source=SOURCE)
    content = json.loads(files.data.read_text())
    assert content["confusion"] == {"tp": 1, "fp": 1, "tn": 2, "fn": 1}
    assert content["threshold_source"] == SOURCE
    assert files.png.read_bytes().startswith(b"\x89PNG")


def test_rows_are_the_truth_and_all_text_lies_inside(result, tmp_path, monkeypatch):
    kept = []
    real = confusion.save
    monkeypatch.setattr(
        confusion, "save", lambda figure, *a, **k: (kept.append(figure), real(figure, *a, **k))[1]
    )
    plot_confusion(result, tmp_path, source=SOURCE)
    (figure,) = kept
    (axes,) = figure.axes
    at = {text.get_position(): text.get_text() for text in axes.texts}
    # (column, row): row 1 is positive, column 1 is called.
    assert at[0, 0].startswith("2\n66.7")
    assert at[1, 0].startswith("1\n33.3")
    assert at[0, 1].startswith("1\n50.0")
    box = axes.xaxis.label.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width

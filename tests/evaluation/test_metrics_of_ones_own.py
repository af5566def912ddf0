"""Metrics that are registered from outside: each is computed under its own name, of lesions and of slides."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile

from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics import LESION_METRICS, METRICS
from wsi_vmamba.metrics.detections import FrocSlide, match_slide
from wsi_vmamba.pipelines import evaluate


@dataclass(frozen=True)
class Share:
    """A share without an interval."""

    value: float
    ci95: tuple[float, float] = (float("nan"), float("nan"))

    def to_dict(self) -> dict[str, object]:
        return {"value": self.value}


def lesion_recall(slides: Sequence[FrocSlide], *, resamples: int, seed: int) -> Share:
    """Share of the lesions that count which any detection hits."""
    del resamples, seed
    matches = [match_slide(slide) for slide in slides]
    hits = sum(hit is not None for match in matches for hit in match.hits)
    return Share(hits / sum(match.n_counted for match in matches))


def mean_score(labels: np.ndarray, scores: np.ndarray, *, resamples: int, seed: int) -> Share:
    del labels, resamples, seed
    return Share(float(scores.mean()))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two metrics of a module that is no part of the package, and one that gives no result."""
    module = ModuleType("their_metrics")
    module.lesion_recall, module.mean_score = lesion_recall, mean_score
    module.number = lambda slides, *, resamples, seed: 0.5
    monkeypatch.setitem(sys.modules, "their_metrics", module)
    monkeypatch.setitem(LESION_METRICS._own, "lesion_recall", "their_metrics:lesion_recall")
    monkeypatch.setitem(METRICS._own, "mean_score", "their_metrics:mean_score")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Two slides with three large lesions, of which two are hit, a normal slide, and scores of four slides."""
    (tmp_path / "masks").mkdir()
    (tmp_path / "detections").mkdir()
    for name, columns in (("a", (10, 150)), ("b", (10,))):
        mask = np.zeros((120, 250), dtype=np.uint8)
        for column in columns:
            mask[20:70, column : column + 50] = 255
        tifffile.imwrite(tmp_path / "masks" / f"{name}.tif", mask)
    (tmp_path / "detections" / "a.csv").write_text(f"0.9,{30 * 32},{40 * 32}\n0.4,{100 * 32},{100 * 32}\n")
    (tmp_path / "detections" / "b.csv").write_text(f"0.8,{30 * 32},{40 * 32}\n")
    (tmp_path / "detections" / "c.csv").write_text("")
    (tmp_path / "s.csv").write_text("slide_id,p,label\nw,0.1,0\nx,0.2,0\ny,0.6,1\nz,0.7,1\n")
    return {
        "masks": str(tmp_path / "masks"), "detections": str(tmp_path / "detections"),
        "scores": str(tmp_path / "s.csv"), "score_column": "p",
    }  # fmt: skip


def judge(out: Path, **asked: object) -> dict:
    assert evaluate.run(EvaluateConfig.model_validate({"bootstrap": 100, "out": str(out), **asked}))
    return json.loads((out / "metrics.json").read_text())


@pytest.mark.usefixtures("registered")
def test_a_lesion_metric_is_computed_by_its_name(files, tmp_path, capsys):
    folders = {name: files[name] for name in ("masks", "detections")}
    found = judge(tmp_path / "out", metric="lesion_recall", **folders)
    assert found["metric"] == "lesion_recall"
    assert found["value"] == pytest.approx(2 / 3)
    assert found["lesion_metrics"] == {"lesion_recall": {"value": pytest.approx(2 / 3)}}
    assert "froc_score" not in found
    assert not (tmp_path / "out" / "froc.png").exists()
    assert "lesion_recall\t0.6667" in capsys.readouterr().out
    assert "a,1,2,2,1,1,2" in (tmp_path / "out" / "lesions.csv").read_text()


@pytest.mark.usefixtures("registered")
def test_all_means_those_that_were_registered_too(files, tmp_path, capsys):
    found = judge(tmp_path / "out", metric="all", **files)
    assert list(found["lesion_metrics"]) == ["froc", "lesion_recall"]
    assert found["lesion_metrics"]["lesion_recall"]["value"] == pytest.approx(2 / 3)
    assert found["froc_score"] == found["lesion_metrics"]["froc"]["value"]
    assert found["value"] == found["auc"] == 1.0
    assert found["slide_metrics"]["mean_score"] == {"value": pytest.approx(0.4)}
    said = capsys.readouterr().out
    assert "lesion_recall\t0.6667" in said
    assert "mean_score\t0.4000" in said


@pytest.mark.usefixtures("registered")
def test_a_metric_that_gives_no_result_is_refused(files, tmp_path, monkeypatch):
    monkeypatch.setitem(LESION_METRICS._own, "number", "their_metrics:number")
    folders = {name: files[name] for name in ("masks", "detections")}
    with pytest.raises(MetricError, match=r"number returned float; expected an object with value, ci95"):
        judge(tmp_path / "out", metric="number", **folders)

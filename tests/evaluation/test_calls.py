"""`evaluate --metric kappa` on a table of calls, as the organisers of CAMELYON17 judge one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.datasets.camelyon17 import STAGES
from wsi_vmamba.errors import MetricError, UnknownNameError
from wsi_vmamba.pipelines import evaluate


def config(path: Path, **changes: object) -> EvaluateConfig:
    values = {"metric": "kappa", "scores": str(path), "score_column": "called", "label_column": "stage"}
    return EvaluateConfig.model_validate({**values, "bootstrap": 100, **changes})


def write(path: Path, pairs: list[tuple[str, str]]) -> Path:
    path.write_text(
        "\n".join(["patient,stage,called", *(f"p{n},{a},{b}" for n, (a, b) in enumerate(pairs))]) + "\n"
    )
    return path


def test_stages_in_any_case_are_judged_as_the_organisers_do(tmp_path: Path, capsys) -> None:
    generator = np.random.default_rng(5)
    truth = generator.integers(0, 5, 50)
    called = np.clip(truth + generator.integers(-1, 2, 50), 0, 3)  # nobody is called pN2
    path = write(
        tmp_path / "a.csv", [(STAGES[a].upper(), STAGES[b]) for a, b in zip(truth, called, strict=True)]
    )
    assert evaluate.run(config(path, json_out=str(tmp_path / "a.json")))
    names = np.array([stage.lower() for stage in STAGES])
    expected = cohen_kappa_score(names[truth], names[called], labels=list(names), weights="quadratic")
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["value"] == pytest.approx(expected, abs=1e-12)
    assert found["ci95"][0] < found["value"] < found["ci95"][1]
    assert found["scale"] == list(STAGES)
    assert np.sum(found["confusion"]) == 50
    assert f"kappa {expected:.4f}" in capsys.readouterr().out


def test_whole_numbers_are_a_scale(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [("0", "0"), ("1", "3"), ("5", "3"), ("1", "1"), ("5", "5"), ("0", "1")])
    assert evaluate.run(config(path, json_out=str(tmp_path / "a.json")))
    expected = cohen_kappa_score([0, 1, 5, 1, 5, 0], [0, 3, 3, 1, 5, 1], labels=range(6), weights="quadratic")
    assert json.loads((tmp_path / "a.json").read_text())["value"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("pN0", "pN0"), ("pN3", "pN1")], "'pn3' is on none that is known"),
        ([("luad", "lusc")], "is on none that is known"),
        ([("1", "01"), ("2", "2")], "is on none that is known"),
        ([("pN0", ""), ("pN1", "pN1")], "line 2: truth or call is empty"),
    ],
)
def test_what_has_no_order_is_refused(tmp_path: Path, pairs, message) -> None:
    with pytest.raises(MetricError, match=message):
        evaluate.run(config(write(tmp_path / "a.csv", pairs)))


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="decided"):
        evaluate.run(config(write(tmp_path / "a.csv", [("pN0", "pN0")]), score_column="decided"))

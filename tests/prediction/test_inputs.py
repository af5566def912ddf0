"""Slides, features, both, a CSV, a URL: each is predicted or named, and none is passed over without a word."""

from __future__ import annotations

import csv
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsi_vmamba.errors import UsageError
from wsi_vmamba.prediction.inputs import find_inputs

LESION = (203, 117, 391, 309)


@pytest.fixture(scope="module")
def serve_folder() -> Callable[[Path], Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "slide"))
        return importlib.import_module("web_server").serve_folder


def read_table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return {row["slide_id"]: row for row in csv.DictReader(file)}


def test_a_folder_of_slides_and_features_gives_all_of_them(tmp_path, run, cohort, make_slide, invoke):
    shutil.copytree(cohort / "features" / "s01.zarr", tmp_path / "mix" / "s01.zarr")
    make_slide(tmp_path / "mix" / "below" / "new.tif", seed=7, lesion=LESION)
    ended = invoke("predict", run.path, tmp_path / "mix", "--out", tmp_path / "p")
    assert ended.exit_code == 0
    assert "1 slide(s) and 1 feature file(s)" in ended.output
    rows = read_table(tmp_path / "p")
    assert float(rows["s01"]["probability"]) == run.predict(cohort / "features" / "s01.zarr").probability
    assert (
        float(rows["new"]["probability"]) == run.predict(tmp_path / "mix" / "below" / "new.tif").probability
    )
    many = run.predict_all(tmp_path / "mix", progress=False)
    assert {one.slide_id: one.probability for one in many} == {
        name: float(row["probability"]) for name, row in rows.items()
    }
    shutil.copy(tmp_path / "mix" / "below" / "new.tif", tmp_path / "mix" / "s01.tif")
    with pytest.raises(UsageError, match=r"s01 is there twice, as a slide and as features"):
        find_inputs(str(tmp_path / "mix"))


@pytest.mark.slow
def test_a_csv_of_a_slide_features_a_url_and_what_is_broken(
    tmp_path, run, cohort, make_slide, lesion_writers, painted, serve_folder, invoke
):
    good = make_slide(tmp_path / "good.tif", seed=7, lesion=LESION)
    content = good.read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 3])
    picture = painted.tissue(seed=7, lesion=LESION)
    lesion_writers["zarr"](tmp_path / "web", picture)
    shutil.copytree(cohort / "features" / "s01.zarr", tmp_path / "cut.zarr")
    (tmp_path / "cut.zarr" / "coords_l0" / "zarr.json").unlink()
    with serve_folder(tmp_path / "web") as server:
        lines = [
            ("a", "good.tif"), ("b", str(cohort / "features" / "s01.zarr")), ("c", f"{server.url}/new.zarr"),
            ("d", "cut.tif"), ("e", "nowhere.tif"), ("f", "http://127.0.0.1:9/x.zarr"), ("g", "cut.zarr"),
        ]  # fmt: skip
        text = "".join(f"{name},{path}\n" for name, path in lines)
        (tmp_path / "list.csv").write_text(f"slide_id,path\n{text}")
        ended = invoke("predict", run.path, tmp_path / "list.csv", "--out", tmp_path / "p")
    assert ended.exit_code == 1
    rows = read_table(tmp_path / "p")
    assert {name: row["outcome"] for name, row in rows.items()} == {
        **dict.fromkeys("abc", "done"), **dict.fromkeys("defg", "failed"),
    }  # fmt: skip
    expected = run.predict(good).probability
    # The zarr has one level, the TIFF two; at the level that is read they are the same.
    assert [float(rows[name]["probability"]) for name in "ac"] == pytest.approx([expected] * 2, abs=1e-12)
    named_b = run.predict(cohort / "features" / "s01.zarr").probability
    assert float(rows["b"]["probability"]) == named_b
    assert "cut short" in rows["d"]["detail"]
    assert "list.csv, line 6" in rows["e"]["detail"]
    assert rows["f"]["remedy"].startswith("check the address, the network and your access")
    assert "damaged" in rows["g"]["detail"] or "missing" in rows["g"]["detail"]
    for name in "defg":
        assert name in ended.output
        assert rows[name]["detail"] in ended.output


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path, run, make_slide, invoke):
    for index in range(3):
        make_slide(tmp_path / "new" / f"n{index}.tif", seed=index, lesion=LESION if index else None)
    sound = (tmp_path / "new" / "n1.tif").read_bytes()
    (tmp_path / "new" / "n1.tif").write_bytes(sound[: len(sound) // 3])
    tables = []
    for workers in (1, 2):
        more = ["--workers", workers] if workers > 1 else []
        ended = invoke("predict", run.path, tmp_path / "new", "--out", tmp_path / f"p{workers}", *more)
        assert ended.exit_code == 1
        tables.append((tmp_path / f"p{workers}" / "predictions.csv").read_bytes())
    assert tables[0] == tables[1]
    assert [row["outcome"] for row in read_table(tmp_path / "p2").values()] == ["done", "failed", "done"]


def test_a_feature_file_that_was_renamed_is_the_slide_of_its_name(tmp_path, run, cohort):
    """Two files of one slide under two names are two lines, not one that replaced the other."""
    for name in ("s01", "other"):
        shutil.copytree(cohort / "features" / "s01.zarr", tmp_path / "f" / f"{name}.zarr")
    found = run.predict_all(tmp_path / "f", out=tmp_path / "p", progress=False)
    assert [one.slide_id for one in found] == ["other", "s01"]
    assert list(read_table(tmp_path / "p")) == ["other", "s01"]


def test_a_name_cannot_command_the_terminal(tmp_path, run, make_slide, invoke):
    make_slide(tmp_path / "new" / "a\x1b[2J\nb.tif", lesion=LESION)
    ended = invoke("predict", run.path, tmp_path / "new", "--out", tmp_path / "p")
    assert ended.exit_code == 0
    assert "\x1b" not in ended.output
    assert "a\\x1b[2J\\x0ab: positive" in ended.output
    assert list(read_table(tmp_path / "p")) == ["a\x1b[2J\nb"]

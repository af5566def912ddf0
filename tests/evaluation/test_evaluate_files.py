"""`evaluate` on what other programs wrote: the fixed calls, every golden FROC case, every published score."""

from __future__ import annotations

import csv
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_vmamba import cli
from wsi_vmamba.metrics.lesions import read_mask

COLUMNS = ("pred_I", "pred_II", "pred_I_thres_07", "Method_II_noise_norm", "Method_II_noise_only", "Method_I")
#: What the original does with these is an accident of its libraries; ours stops and says what is wrong.
ACCIDENTS = {
    "e3_negative_coordinates": "7 of 9 detections lie outside the mask",
    "e4_out_of_bounds": "line 2 at x=8960, y=50",
    "e5_mask_without_tumour": "no mask pixel is 255",
}
CASES = (
    "a1_mixed6_two_decimals", "a2_mixed6_dyadic", "a3_mixed6_one_decimal", "a4_mixed6_full", "b1_empty_csv",
    "b2_all_empty", "c1_one_tumour_five_normal", "c3_only_normal", "d1_equal_half", "d2_equal_0p1", "e1_border",
    "f1_perfect_ones_no_itc", "f2_perfect_ones_with_itc", "f3_perfect_distinct_no_itc", "g1_worst_only_fp",
    "h1_twenty_slides", "h2_twenty_slides", "i1_geometry", "j1_real_lesions", *ACCIDENTS,
)  # fmt: skip


@pytest.fixture
def evaluate(monkeypatch):
    """Call the command line as the console script does; return its exit code."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["wsi-vmamba", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0)

    return call


def froc_call(case: Path, out: Path, *more: object) -> tuple[object, ...]:
    folders = ("--masks", case / "masks", "--detections", case / "detections")
    return ("--metric", "froc", *folders, "--json", out, "--set", "bootstrap=100", *more)


def test_all_golden_cases_are_listed(golden):
    assert {case.name for case in (golden / "froc").iterdir() if case.is_dir()} == set(CASES)
    assert len(CASES) == 22


@pytest.mark.parametrize("name", [name for name in CASES if name not in ACCIDENTS])
def test_golden_case(golden, evaluate, tmp_path, name):
    expected = json.loads((golden / "froc" / name / "expected.json").read_text())
    assert evaluate(*froc_call(golden / "froc" / name, tmp_path / "out.json")) == 0
    content = json.loads((tmp_path / "out.json").read_text())
    found = content["lesion_metrics"]["froc"]
    assert (found["n_slides"], found["n_lesions"]) == (expected["n_slides"], expected["n_tumors"])
    assert found["curve"]["fp_counts"] == expected["fp_counts"]
    assert found["curve"]["tp_counts"] == expected["tp_counts"]
    for slide in found["slides"]:
        want = expected["slides"][slide["name"]]
        assert slide["n_lesions"] == want["n_lesions"]
        assert slide["itc_labels"] == want["itc_labels"]
        assert slide["false_positives"] == want["false_positives"]
        assert slide["hits"] == want["hits"]
    if expected["score_is_nan"]:
        assert content["froc_score"] is None
    else:
        assert content["froc_score"] == content["value"] == pytest.approx(expected["froc_score"], abs=1e-12)
        if sum(bool(slide["hits"]) for slide in expected["slides"].values()) == 1:
            assert content["ci95"] == [None, None]  # one slide does not tell how much slides differ
        else:
            assert content["ci95"][0] <= content["ci95"][1]


@pytest.mark.parametrize("name", ACCIDENTS)
def test_an_accident_of_the_original_is_a_clear_error(golden, evaluate, tmp_path, capsys, name):
    assert evaluate(*froc_call(golden / "froc" / name, tmp_path / "out.json")) == 1
    assert ACCIDENTS[name] in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_both_scores_are_labelled(golden, evaluate, tmp_path, capsys):
    case = golden / "froc" / "f1_perfect_ones_no_itc"
    assert evaluate(*froc_call(case, tmp_path / "out.json")) == 0
    content = json.loads((tmp_path / "out.json").read_text())
    assert (content["froc_score"], content["froc_score_without_quirks"]) == (0.0, 1.0)
    assert "organisers" in content["about"]["froc_score"]
    printed = capsys.readouterr().out
    assert "FROC, as the organisers' script scores it\t0.0000" in printed
    assert "FROC without that script's quirks\t1.0000" in printed


def test_masks_as_tiff_give_the_same_score(golden, evaluate, tmp_path):
    case = golden / "froc" / "j1_real_lesions"
    (tmp_path / "masks").mkdir()
    for mask in (case / "masks").iterdir():
        name = f"{mask.stem}_Mask.tif" if mask.stem == "Test_001" else f"{mask.stem}.tif"
        tifffile.imwrite(tmp_path / "masks" / name, read_mask(mask), compression="deflate")
    call = list(froc_call(case, tmp_path / "out.json"))
    call[call.index(case / "masks")] = tmp_path / "masks"
    assert evaluate(*call) == 0
    expected = json.loads((case / "expected.json").read_text())
    score = json.loads((tmp_path / "out.json").read_text())["froc_score"]
    assert score == pytest.approx(expected["froc_score"], abs=1e-12)


def test_an_excluded_slide_leaves_both_denominators(golden, evaluate, tmp_path):
    case = golden / "froc" / "a1_mixed6_two_decimals"
    assert evaluate(*froc_call(case, tmp_path / "out.json", "--exclude", "test_001")) == 0
    found = json.loads((tmp_path / "out.json").read_text())["lesion_metrics"]["froc"]
    assert found["n_slides"] == 5
    assert "Test_001" not in {slide["name"] for slide in found["slides"]}


def test_tables_and_figures_of_a_froc(golden, evaluate, tmp_path):
    case = golden / "froc" / "a1_mixed6_two_decimals"
    assert evaluate(*froc_call(case, tmp_path / "out.json", "--out", tmp_path / "out")) == 0
    expected = json.loads((case / "expected.json").read_text())
    with (tmp_path / "out" / "lesions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["counted"]) for row in rows) == expected["n_tumors"]
    hit = sum(hit is not None for slide in expected["slides"].values() for hit in slide["hits"].values())
    assert sum(int(row["hit"]) for row in rows) == hit
    assert (tmp_path / "out" / "froc.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == json.loads(
        (tmp_path / "out.json").read_text()
    )


@pytest.mark.parametrize("column", COLUMNS)
def test_published_scores(real_data, evaluate, tmp_path, column):
    folder = real_data / "camelyon16" / "scores"
    want = json.loads((folder / "expected.json").read_text())["columns"][column]
    table = folder / "camelyon16_test_scores.csv"
    out = tmp_path / "out.json"
    assert evaluate("--metric", "auc", "--scores", table, "--score-column", column, "--json", out) == 0
    content = json.loads(out.read_text())
    assert content["auc"] == content["value"] == pytest.approx(want["auc"], abs=1e-12)
    delong = content["slide_metrics"]["auc"]["delong"]
    assert delong["variance"] == pytest.approx(want["delong_variance"], abs=1e-10)
    assert content["ci95"] == pytest.approx(want["delong_ci95_clipped"], abs=1e-10)
    # 2000 resamples: the ends of the interval scatter by about 2.5 % of a standard deviation's multiples.
    low, high = want["bootstrap"]["ci95_percentile"]
    error = 4 * want["bootstrap"]["se"] / math.sqrt(2000) * 2.7
    assert content["auc_ci95_bootstrap"] == pytest.approx([low, high], abs=error)
    average = content["slide_metrics"]["average_precision"]["value"]
    assert average == pytest.approx(want["average_precision"], abs=1e-12)


def test_names_as_labels(real_data, evaluate, tmp_path):
    folder = real_data / "camelyon16"
    with (folder / "scores" / "camelyon16_test_scores.csv").open(newline="") as file:
        scores = {row["slide_id"]: row["Method_I"] for row in csv.DictReader(file)}
    with (folder / "test_labels.csv").open(newline="") as file:
        lines = [
            f"{row['slide_id']},{row['label']},{scores[row['slide_id']]}" for row in csv.DictReader(file)
        ]
    (tmp_path / "s.csv").write_text("slide_id,truth,p\n" + "\n".join(lines) + "\n")
    out = tmp_path / "out.json"
    labels = ("--label-column", "truth", "--positive", "tumor")
    assert evaluate("--scores", tmp_path / "s.csv", "--score-column", "p", *labels, "--json", out) == 0
    want = json.loads((folder / "scores" / "expected.json").read_text())["columns"]["Method_I"]
    assert json.loads(out.read_text())["auc"] == pytest.approx(want["auc"], abs=1e-12)


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(COLUMNS, 2)))
def test_published_pairs(real_data, evaluate, tmp_path, a, b):
    folder = real_data / "camelyon16" / "scores"
    pairs = json.loads((folder / "expected.json").read_text())["pairs"]
    want = next(pair for pair in pairs if (pair["a"], pair["b"]) == (a, b))
    table, out = folder / "camelyon16_test_scores.csv", tmp_path / "out.json"
    assert evaluate("--scores", table, "--compare", a, b, "--json", out) == 0
    found = json.loads(out.read_text())
    assert found["difference"] == pytest.approx(want["auc_difference"], abs=1e-12)
    assert found["variance"] == pytest.approx(want["variance_difference"], abs=1e-10)
    assert found["p_value"] == pytest.approx(want["p_two_sided"], abs=1e-10)


def test_two_files_are_compared_slide_by_slide_whatever_their_order(real_data, evaluate, tmp_path):
    table = real_data / "camelyon16" / "scores" / "camelyon16_test_scores.csv"
    header, *lines = table.read_text().splitlines()
    other, out = tmp_path / "other.csv", tmp_path / "out.json"
    other.write_text("\n".join([header, *reversed(lines)]) + "\n")
    assert evaluate("--compare", f"{table}:pred_I", f"{other}:pred_II", "--json", out) == 0
    shuffled = json.loads(out.read_text())["p_value"]
    assert evaluate("--scores", table, "--compare", "pred_I", "pred_II", "--json", out) == 0
    assert json.loads(out.read_text())["p_value"] == pytest.approx(shuffled, abs=1e-12)
    other.write_text("\n".join([header, *lines[1:]]) + "\n")
    assert evaluate("--compare", f"{table}:pred_I", f"{other}:pred_II") == 1


def test_scores_and_detections_in_one_call(golden, real_data, evaluate, tmp_path):
    table = real_data / "camelyon16" / "scores" / "camelyon16_test_scores.csv"
    case = golden / "froc" / "a1_mixed6_two_decimals"
    call = ["--scores", table, "--score-column", "Method_I", *froc_call(case, tmp_path / "out.json")]
    call[call.index("froc")] = "all"
    assert evaluate(*call) == 0
    content = json.loads((tmp_path / "out.json").read_text())
    expected = json.loads((case / "expected.json").read_text())
    assert content["froc_score"] == pytest.approx(expected["froc_score"], abs=1e-12)
    assert content["value"] == content["auc"]
    assert content["ci95"] == content["auc_ci95"] != content["froc_ci95"]


def test_a_threshold_from_elsewhere_opens_the_confusion_matrix(real_data, evaluate, tmp_path):
    table, out = real_data / "camelyon16" / "scores" / "camelyon16_test_scores.csv", tmp_path / "out"
    call = (
        "--metric",
        "all",
        "--scores",
        table,
        "--score-column",
        "Method_I",
        "--threshold",
        "0.5",
        "--out",
        out,
    )
    assert evaluate(*call) == 0
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    called = np.array([float(row["Method_I"]) >= 0.5 for row in rows])
    positive = np.array([row["label"] == "1" for row in rows])
    metrics = json.loads((out / "metrics.json").read_text())["slide_metrics"]
    assert metrics["balanced_accuracy"]["confusion"] == {
        "tp": int((called & positive).sum()), "fp": int((called & ~positive).sum()),
        "tn": int((~called & ~positive).sum()), "fn": int((~called & positive).sum()),
    }  # fmt: skip
    sizes = {row["group"]: (row["found"], row["n"]) for row in metrics["recall_by_group"]}
    for size in ("macro", "micro"):
        member = np.array([row["category"] == size for row in rows])
        assert sizes[size] == (int((called & member).sum()), int(member.sum()))
    for figure in ("roc", "pr", "reliability", "confusion"):
        assert (out / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert json.loads((out / f"{figure}.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ("--metric", "froc", "--scores", "s.csv", "--score-column", "p"),
            2,
            "needs --masks DIR and --detections",
        ),
        (("--metric", "auc", "--masks", "m", "--detections", "d"), 2, "needs --scores CSV"),
        (("--scores", "s.csv"), 2, "--score-column NAME"),
        (("--detections", "d"), 2, "detections need --masks DIR"),
        (("--scores", "s.csv", "--score-column", "q"), 2, "choose from label, p"),
        (("--scores", "none.csv", "--score-column", "p"), 1, "cannot be read"),
        (
            ("--scores", "s.csv", "--score-column", "p", "--positive", "tumour"),
            1,
            "no slide is labelled 'tumour'",
        ),
        (("--run", "r", "--scores", "s.csv", "--score-column", "p"), 2, "leave out --scores"),
        (("--compare", "s.csv", "s.csv"), 2, "s.csv:COLUMN"),
    ],
)
def test_wrong_calls_say_what_is_missing(evaluate, tmp_path, monkeypatch, capsys, arguments, code, words):
    (tmp_path / "s.csv").write_text("label,p\n0,0.1\n1,0.2\n0,0.3\n1,0.4\n")
    monkeypatch.chdir(tmp_path)
    assert evaluate(*arguments) == code
    assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_the_fixed_call_in_a_process_of_its_own(golden, tmp_path):
    case = golden / "froc" / "a1_mixed6_two_decimals"
    call = map(str, froc_call(case, tmp_path / "out.json"))
    result = subprocess.run(
        [sys.executable, "-m", "wsi_vmamba", "evaluate", *call], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    expected = json.loads((case / "expected.json").read_text())
    score = json.loads((tmp_path / "out.json").read_text())["froc_score"]
    assert score == pytest.approx(expected["froc_score"], abs=1e-12)


@pytest.mark.parametrize("metric", ["all", "auc", "average_precision", "brier"])
def test_one_positive_slide_is_evaluated_without_intervals(evaluate, tmp_path, capsys, metric):
    table, out = tmp_path / "s.csv", tmp_path / "out"
    rows = [(0.6, 1), (0.1, 0), (0.7, 0), (0.2, 0)]
    table.write_text("slide_id,score,label\n" + "".join(f"s{i},{p},{y}\n" for i, (p, y) in enumerate(rows)))
    call = (
        "--metric",
        metric,
        "--scores",
        table,
        "--score-column",
        "score",
        "--out",
        out,
        "--set",
        "bootstrap=100",
    )
    assert evaluate(*call) == 0
    content = json.loads((out / "metrics.json").read_text())
    assert content["auc"] == pytest.approx(2 / 3)
    assert content["auc_ci95"] == content["auc_ci95_bootstrap"] == content["ci95"] == [None, None]
    said = capsys.readouterr().out
    assert "(95 % interval not defined)" in said
    assert "note: there is one positive slide" in said
    assert "nan" not in said
    assert json.loads((out / "roc.json").read_text())["auc"] == {"auc": content["auc"]}

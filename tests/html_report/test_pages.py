"""What holds for every report: whole HTML, nothing loaded, everything escaped, the same bytes, readable by all."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wsi_vmamba as wv
from wsi_vmamba.html_report import markup


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of tiles of six patients; one class has markup for a name."""
    folder = tmp_path_factory.mktemp("tiles")
    lines = ["file,group"]
    for place, name in enumerate(("benign", "<b>tumour")):
        (folder / name).mkdir()
        for index in range(18):
            noise = np.random.default_rng(100 * place + index).normal(0, 20, (32, 32, 3))
            pixels = np.clip(np.array((190 - 30 * place, 130, 170)) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:02d}.png")
            lines.append(f"{name}/{index:02d}.png,p{index % 6}")
    (folder / "groups.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def probe(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("probe") / "probe"
    wv.probe(tiles, encoder=["colour_texture", "colour_texture@16"], out=out, bootstrap=100, few_shot_draws=2)
    return out


@pytest.fixture(scope="module")
def folders(run: wv.Run, predictions: Path, cohort: Path, probe: Path) -> dict[str, Path]:
    return {"run": run.path, "predictions": predictions, "features": cohort / "features", "probe": probe}


@pytest.fixture(scope="module")
def pages(folders: dict[str, Path]) -> dict[str, str]:
    return {kind: wv.make_report(folder, examples=3, progress=False).html for kind, folder in folders.items()}


KINDS = ("run", "predictions", "features", "probe")


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_recognised_from_the_folder(kind: str, folders: dict[str, Path]):
    from wsi_vmamba.html_report.kinds import KINDS as TABLE
    from wsi_vmamba.html_report.kinds import kind_of

    assert kind_of(folders[kind]) == kind
    assert set(TABLE) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_loads_nothing(kind: str, pages: dict[str, str], parse):
    page = parse(pages[kind])
    assert pages[kind].startswith("<!DOCTYPE html>")
    for node in page.root.walk():
        for name, value in node.attributes.items():
            assert not name.startswith("on"), (node.tag, name)
            if name in {"src", "href", "xlink:href", "data", "action", "poster", "srcset"}:
                assert value.startswith(("data:image/jpeg;base64,", "#")), value[:80]
            assert "http:" not in value
            assert "https:" not in value
        assert node.tag not in {"link", "iframe", "object", "embed", "base", "form"}
    style = "".join(node.text for node in page.root.all("style"))
    assert "url(" not in style
    assert "@import" not in style
    policy = next(
        one.attributes["content"] for one in page.root.all("meta") if "http-equiv" in one.attributes
    )
    assert policy.startswith("default-src 'none'; img-src data:;")


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_can_be_read_by_everybody(kind: str, pages: dict[str, str], parse):
    page = parse(pages[kind])
    assert page.root.all("html")[0].attributes["lang"] == "en"
    ids = [node.attributes["id"] for node in page.root.walk() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    assert all(link.attributes["href"][1:] in ids for link in page.root.all("a"))
    levels = [int(node.tag[1]) for node in page.root.walk() if re.fullmatch("h[1-6]", node.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 or (before, after) == (2, 4) for before, after in pairwise(levels))
    assert all(len(one.attributes["alt"]) > 5 for one in page.root.all("img"))
    assert all("width" in one.attributes and "height" in one.attributes for one in page.root.all("img"))
    for svg in page.root.all("svg"):
        assert svg.attributes["role"] == "img"
        assert re.search(r"\d", svg.attributes["aria-label"])
    for table in page.root.all("table"):
        assert table.all("caption")[0].text
        assert all(cell.attributes["scope"] in {"col", "row"} for cell in table.all("th"))
        widths = {len(row.all("th") + row.all("td")) for row in table.all("tr")}
        assert len(widths) == 1, table.all("caption")[0].text


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_from_outside_is_text(kind: str, pages: dict[str, str], hostile: str, parse):
    page = parse(pages[kind])
    assert [node.attributes for node in page.root.all("script")] == [{}], "only our own"
    assert not page.root.all("b")
    expected = "<b>tumour" if kind == "probe" else hostile
    assert expected in page.root.text


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_input_gives_the_same_bytes(kind: str, pages: dict[str, str], folders: dict[str, Path]):
    assert wv.make_report(folders[kind], examples=3, progress=False).html == pages[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_no_path_of_this_machine_but_in_what_made_it(kind: str, pages: dict[str, str], tmp_path: Path):
    head, _, made = pages[kind].partition('<h2 id="what-made-it">')
    root = str(tmp_path.parents[1])
    assert made
    assert root not in head


@pytest.mark.parametrize("kind", KINDS)
def test_it_prints_and_goes_dark(kind: str, pages: dict[str, str]):
    assert "@media print" in pages[kind]
    assert "prefers-color-scheme: dark" in pages[kind]


def test_the_command_writes_beside_what_it_is_of_unless_told(
    folders: dict[str, Path], pages: dict[str, str], tmp_path: Path
):
    from typer.testing import CliRunner

    from wsi_vmamba.cli import app

    for words, file in (
        ([], folders["probe"] / "report.html"),
        (["--out", str(tmp_path / "p.html")], tmp_path / "p.html"),
    ):
        result = CliRunner().invoke(app, ["report", str(folders["probe"]), "--set", "examples=3", *words])
        assert result.exit_code == 0, result.output
        assert "MB)" in result.output
        assert file.read_text() == pages["probe"]
    file.unlink()
    refused = CliRunner().invoke(app, ["report", str(tmp_path / "nothing")])
    assert refused.exit_code != 0


def test_the_probe_has_its_own_numbers(probe: Path, pages: dict[str, str], parse, points):
    import json

    from wsi_vmamba.probing.intervals import Estimate
    from wsi_vmamba.probing.results import in_words

    found = json.loads((probe / "results.json").read_text())
    page = parse(pages["probe"])
    rows = page.table("In brackets: 95 %")
    for row, one in zip(rows[1:], found["encoders"], strict=True):
        assert row[:2] == [one["label"], in_words(Estimate(**one["metrics"]["auc"]))]
    assert rows[2][2] == in_words(Estimate(**found["encoders"][1]["minus_first"]["auc"]), signed=True)
    one = found["encoders"][1]["roc"]["benign"]
    drawn = points(page.chart("ROC of benign"), place=2)
    np.testing.assert_allclose(drawn, np.stack([one["false"], one["true"]], axis=1), atol=1e-5)
    few = found["encoders"][0]["few_shot"]
    drawn = points(page.chart("AUC by tiles of each class"), place=0)
    np.testing.assert_allclose(drawn, [(np.log2(p["shots"]), p["auc"]) for p in few], atol=1e-5)
    counts = found["encoders"][0]["confusion"]["linear"]
    table = page.table(f"{found['encoders'][0]['label']}: tiles by class")
    assert [[int(cell) for cell in row[1:]] for row in table[1:]] == counts
    worst = page.table("9 tiles with the lowest")
    shares = [float(row[4]) for row in worst[1:]]
    assert shares == sorted(shares)
    assert len(page.section("tiles-it-gets-most-wrong").all("img")) == 9


def test_damaged_results_are_refused(probe: Path, tmp_path: Path):
    from wsi_vmamba.errors import StoreError

    (tmp_path / "predictions.csv").write_text("encoder,file,class\n")
    damaged = {
        "[1]": "expected a JSON object",
        "{": "cannot be read",
        '{"schema": 9}': "version 1, got 9",
        '{"schema": 1, "encoders": []}': "is damaged",
    }
    for content, words in damaged.items():
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(StoreError, match=words):
            wv.make_report(tmp_path, progress=False)


def test_pieces_escape_and_pass_pieces():
    piece = markup.element("em", "<")
    assert piece == "<em>&lt;</em>"
    assert markup.element("p", piece, "&", title='"') == '<p title="&quot;"><em>&lt;</em>&amp;</p>'
    assert markup.without_folders("/data/lab/x: cannot open '/data/a/b.svs'; see https://a.b/c") == (
        "x: cannot open 'b.svs'; see https://a.b/c"
    )
    assert markup.html_of("a\udcffb\x00") == "a\\xffb\\x00"

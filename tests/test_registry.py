"""Parts of other packages: the example of docs/extending.md, installed as pip would, used by its names."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_vmamba.errors import UnknownNameError, UsageError
from wsi_vmamba.registry import TABLES, Addition, Table, group_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"


def install(folder: Path, name: str, entry_points: dict[str, dict[str, str]]) -> Path:
    """Leave what pip leaves of a package's metadata; the folder is to be on the path."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, entries in entry_points.items()
        for line in (f"[{group}]", *(f"{entry} = {target}" for entry, target in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the package of the page."""
    folder = tmp_path_factory.mktemp("site")
    toml, code = (
        re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
        for language in ("toml", "python")
    )
    project = tomllib.loads(toml)["project"]
    (folder / "my_parts.py").write_text(code)
    return install(folder, project["name"], project["entry-points"])


def run(site: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


def test_a_reader_and_an_encoder_from_outside_make_features_by_name(site, tmp_path):
    pixels = np.zeros((96, 64, 3), np.uint8)
    pixels[:, 32:] = 255
    np.save(tmp_path / "s.npy", pixels)
    settings = ["--set", "segmenter=all", "--patch-px", "32", "--region-px", "96", "--precision", "fp32"]
    ran = run(
        site, "-m", "wsi_vmamba", "extract", "s.npy", "--reader", "numpy", "--backbone", "darkness", "--weights",
        "random", *settings, cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    code = "import wsi_vmamba as wv; f = wv.open_features('features/s.zarr'); print(f.meta.reader, f.meta.model); "
    read = run(site, "-c", code + "print(f.features[:, 0].tolist())", cwd=tmp_path).stdout.splitlines()
    assert read[0].split()[1] == "darkness"
    # Minus the mean of the normalised colours: of black, and of white.
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    black, white = -(-mean / std).mean(), -((1 - mean) / std).mean()
    np.testing.assert_allclose(json.loads(read[1]), [black, white] * 3, atol=2e-3)


@pytest.mark.slow
def test_a_metric_from_outside_is_computed_by_name(site, tmp_path):
    with (tmp_path / "scores.csv").open("w", newline="") as file:
        rows = [("slide_id", "score", "label"), ("a", 0.9, 1), ("b", 0.2, 0), ("c", 0.6, 0), ("d", 0.7, 1)]
        csv.writer(file).writerows(rows)
    ran = run(
        site, "-m", "wsi_vmamba", "evaluate", "--metric", "accuracy", "--scores", "scores.csv", "--score-column",
        "score", "--json", "found.json", cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0.75" in (tmp_path / "found.json").read_text()


@pytest.mark.slow
def test_a_lesion_metric_from_outside_is_computed_by_name(site, tmp_path):
    """Two lesions of 50 level-5 pixels, of which one is hit."""
    mask = np.zeros((120, 250), dtype=np.uint8)
    mask[20:70, 10:60] = mask[20:70, 150:200] = 255
    (tmp_path / "masks").mkdir()
    (tmp_path / "detections").mkdir()
    tifffile.imwrite(tmp_path / "masks" / "a.tif", mask)
    (tmp_path / "detections" / "a.csv").write_text(f"0.9,{30 * 32},{40 * 32}\n")
    ran = run(
        site, "-m", "wsi_vmamba", "evaluate", "--metric", "lesion_recall", "--masks", "masks", "--detections",
        "detections", "--json", "found.json", cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["value"], found["ci95"]) == (0.5, [None, None])
    assert found["lesion_metrics"] == {
        "lesion_recall": {"metric": "lesion_recall", "value": 0.5, "ci95": [None, None]}
    }


@pytest.mark.slow
def test_an_aggregator_from_outside_is_trained_with_by_name(site, tmp_path):
    code = """
import torch
from wsi_vmamba.config import TrainConfig
from wsi_vmamba.mil import AGGREGATORS
print(TrainConfig(aggregator="median").aggregator, "median" in AGGREGATORS, len(AGGREGATORS), list(AGGREGATORS)[-1])
pool = AGGREGATORS.resolve("median")(2, 2, hidden_dim=8, dropout=0.0)
torch.nn.init.eye_(pool.head.weight), torch.nn.init.zeros_(pool.head.bias)
print(pool(torch.tensor([[1.0, 5.0], [2.0, 9.0], [8.0, 7.0]]), torch.zeros(3, 2, dtype=torch.int64))[0].tolist())
"""
    ran = run(site, "-c", code, cwd=tmp_path)
    assert ran.stdout.split("\n")[:2] == ["median True 9 median", "[2.0, 7.0]"], ran.stderr


def test_a_typo_lists_parts_from_outside_too_and_nothing_of_them_is_imported(site, tmp_path):
    ran = run(site, "-m", "wsi_vmamba", "train", "--aggregator", "medien", cwd=tmp_path)
    assert ran.returncode == 2
    assert "did you mean 'median'" in ran.stderr
    (tmp_path / "site").mkdir()
    broken = install(tmp_path / "site", "broken", {"wsi_vmamba.aggregator": {"gone": "no_such_module:Gone"}})
    ran = run(broken, "-m", "wsi_vmamba", "train", "--aggregator", "mediam", cwd=tmp_path)
    assert "choose from abmil" in ran.stderr
    assert "gone" in ran.stderr
    code = "from wsi_vmamba.mil import AGGREGATORS; AGGREGATORS.resolve('gone')"
    told = "UsageError: aggregator 'gone' is no_such_module:Gone of the package broken 1.0, which cannot be loaded"
    assert told in run(broken, "-c", code, cwd=tmp_path).stderr


def test_every_table_has_a_group_that_metadata_can_hold():
    groups = [group_of(kind) for kind in TABLES]
    assert len(set(groups)) == len(TABLES)
    assert all(re.fullmatch(r"\w+(\.\w+)*", group) for group in groups)
    assert group_of("lesion metric") == "wsi_vmamba.lesion_metric"


@pytest.fixture
def crowded() -> Table:
    table = Table("metric", {"auc": "a:auc", "brier": "a:brier"})
    one, two = (Addition(target=f"{name}:auc", package=f"{name} 1.0") for name in ("one", "two"))
    table._added = {"auc": (one,), "mine": (one,), "ours": (one, two)}  # what a cached property keeps
    return table


@pytest.mark.parametrize(
    ("name", "owners"), [("auc", "wsi-vmamba itself and by one 1.0"), ("ours", "one 1.0 and by two 1.0")]
)
def test_a_name_that_two_offer_is_refused_when_it_is_used(crowded, name, owners):
    assert list(crowded) == ["auc", "brier", "mine", "ours"]
    assert len(crowded) == 4
    with pytest.raises(UsageError, match=f"metric '{name}' is offered by {owners}; uninstall one"):
        crowded.resolve(name)
    assert (crowded["brier"], crowded["mine"]) == ("a:brier", "one:auc")
    with pytest.raises(UnknownNameError, match="choose from auc, brier, mine, ours"):
        crowded.check("his")

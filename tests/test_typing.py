"""Type checkers see the recipes and the front door: a wrong call is found, and so is where a name comes from."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINK = ROOT / "wsi_vmamba" / "pipelines"

WRONG = """
import wsi_vmamba as wv
from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.pipelines import extract

done: bool = extract.run(ExtractConfig())
extract.run(1)
extract.walk(ExtractConfig())
reveal_type(wv.embed("s.svs").features)
wv.embed()
wv.open_features("a.zarr").n_patches + ""
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not LINK.is_dir(), reason="a checkout without symbolic links")
def test_mypy_finds_a_wrong_call_into_a_recipe_and_into_the_front_door(tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG)
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", "--no-error-summary",
         tmp_path / "wrong.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = {int(line.split(":")[1]): line for line in ran.stdout.splitlines() if "wrong.py" in line}
    assert 'Argument 1 to "run" has incompatible type "int"; expected "ExtractConfig"' in found[7], ran.stdout
    assert 'has no attribute "walk"' in found[8]
    assert "float16" in found[9] or "floating" in found[9]
    assert 'Missing positional argument "slide"' in found[10]
    assert "Unsupported operand types" in found[11]
    assert set(found) == {7, 8, 9, 10, 11}


def test_the_recipes_are_linked_into_the_package_and_left_out_of_what_is_built():
    if LINK.is_symlink():
        assert LINK.readlink() == Path("../pipelines")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert "/wsi_vmamba/pipelines" in project["scikit-build"]["sdist"]["exclude"]
    assert project["scikit-build"]["wheel"]["packages"]["wsi_vmamba/pipelines"] == "pipelines"
    skipped = [
        name for rule in project["mypy"]["overrides"] for name in rule["module"] if rule.get("follow_imports")
    ]
    assert [name for name in skipped if name.startswith("wsi_vmamba")] == [
        "wsi_vmamba.ops._cpu",
        "wsi_vmamba.rescale._cubic",
    ]

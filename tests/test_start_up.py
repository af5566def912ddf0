"""What a command loads before it does anything: a call that computes nothing waits for no library that computes.

Calls run in processes of their own, because this one has loaded everything; several in one, the later of which may load
no more than the earlier.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

#: What only some jobs need.
_OF_JOBS = (
    "sklearn",
    "scipy",
    "pandas",
    "dask",
    "zarr",
    "matplotlib",
    "skops",
    "pydicom",
    "timm",
    "onnxruntime",
)
#: What nothing loads by itself: compilers and tracers of torch.
_NEVER = ("torch._dynamo", "torch._inductor", "triton", "sympy", "IPython")

#: Calls and their exit codes that need neither numbers nor pictures.
LIGHTEST = {
    "--version": 0,
    "--help": 0,
    "evaluate --no-such-option": 2,
    "extract --set no_such_key=1 slides": 2,
    "train --aggregator no_such_name": 2,
    "synth made --slides 0": 2,
    "report no_such_run": 2,
    "weights list": 0,
}
#: Calls that compute nothing on a network, or that end before they would.
LIGHT = {
    "extract no_such_slide.svs": 2,
    "view no_such_run": 2,
    "evaluate --metric auc --scores scores.csv --score-column score --json metrics.json": 0,
}
_CALLS = """
import json, sys
from wsi_vmamba.cli import main
found = {}
for call in sys.argv[1:]:
    sys.argv = ["wsi-vmamba", *call.split()]
    try:
        main()
    except SystemExit as end:
        found[call] = [end.code or 0, *sys.modules]
print(json.dumps(found))
"""


def _answer(code: str, *arguments: str, folder: Path) -> dict[str, list[object]]:
    """The JSON that a process prints last."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, list[object]] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize(
    ("calls", "unwanted"),
    [
        pytest.param(LIGHTEST, ("torch", "numpy", "cv2", "shapely", *_OF_JOBS), id="lightest"),
        pytest.param(LIGHT, ("torch", *_OF_JOBS), id="light"),
    ],
)
def test_calls_without_a_network_load_no_torch(
    calls: Mapping[str, int], unwanted: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "scores.csv").write_text("slide_id,label,score\na,0,0.1\nb,0,0.7\nc,1,0.6\nd,1,0.9\n")
    found = _answer(_CALLS, *calls, folder=tmp_path)
    assert {call: answer[0] for call, answer in found.items()} == calls
    for call, (_, *modules) in found.items():
        assert sorted(set(unwanted).intersection(modules)) == [], call


_RECIPES = """
import json, sys
from importlib import import_module
print(json.dumps({name: [import_module(f"wsi_vmamba.pipelines.{name}") and 0, *sys.modules] for name in sys.argv[1:]}))
"""


@pytest.mark.parametrize(
    ("recipes", "unwanted"),
    [
        pytest.param(
            ("extract", "view", "evaluate", "show"), {"torch", *_OF_JOBS} - {"matplotlib"}, id="no torch"
        ),
        pytest.param(("train", "predict", "pack"), {*_OF_JOBS, *_NEVER}, id="torch only"),
    ],
)
def test_recipes_load_at_first_only_what_all_their_runs_need(
    recipes: tuple[str, ...], unwanted: set[str], tmp_path: Path
) -> None:
    for name, (_, *modules) in _answer(_RECIPES, *recipes, folder=tmp_path).items():
        assert sorted(unwanted.intersection(modules)) == [], name


def test_features_in_memory_are_made_without_libraries_of_other_jobs(
    tmp_path: Path, write_tiny_slide: Callable[..., Path]
) -> None:
    slide = str(write_tiny_slide(tmp_path / "slide.tif"))
    code = f"import json, sys, wsi_vmamba as wv; f = wv.embed({slide!r}, target_mpp=1.0, patch_px=64)\n"
    code += "print(json.dumps({'embed': [*f.features.shape, *sys.modules]}))"
    patches, width, *modules = _answer(code, folder=tmp_path)["embed"]
    assert (patches, width) != (0, 0)
    assert "torch" in modules
    assert sorted({*_OF_JOBS, *_NEVER}.intersection(modules)) == []

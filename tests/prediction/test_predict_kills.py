"""kill -9 amid several slides, the same command again: the same bytes as if nothing had happened."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tifffile

LESION = (203, 117, 391, 309)
#: What a run writes down of itself is of that run: when it began.
OF_A_RUN = ("predict.run.json", "extract.run.json", "extract.csv")
FEW = [("predict", 3), ("replace after", 9)]
MANY = [
    ("encode", 1), ("encode", 5), ("predict", 1), ("predict after", 2), ("fsync", 9), ("fsync", 30), ("replace", 5),
    ("replace", 9), ("replace", 14), ("replace after", 14),
]  # fmt: skip


@pytest.fixture(scope="module")
def predict() -> Iterator[Callable[..., int]]:
    """Run the command to its end or to the place where it dies; gives the exit code, or minus the signal."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("kill_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(*words: object, place: str | None = None, count: int = 0) -> int:
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps([list(map(str, words)), place, count]), file=server.stdin, flush=True)
        return int(server.stdout.readline())

    yield run
    server.communicate()


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in OF_A_RUN)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("kills", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.slow
def test_kills_amid_slides_lose_nothing_and_leave_no_half_file(
    tmp_path, predict, run, make_slide, painted, kills
):
    for index in range(4):
        make_slide(tmp_path / "new" / f"n{index}.tif", seed=index, lesion=LESION if index % 2 else None)
    # One that has a note of its own, since its file holds a second picture, and one that cannot be read.
    with tifffile.TiffWriter(tmp_path / "new" / "n1.tif", append=True) as file:
        file.write(painted.tissue(width=300, height=400), tile=(64, 64), photometric="rgb", metadata=None)
    sound = (tmp_path / "new" / "n2.tif").read_bytes()
    (tmp_path / "new" / "n2.tif").write_bytes(sound[: len(sound) // 3])
    out = tmp_path / "out"
    words = ("predict", run.path, tmp_path / "new", "--out", out)
    assert predict(*words) == 1
    whole = bytes_of(out)
    table = whole["predictions.csv"].decode()
    assert "scene" in table.splitlines()[2]
    assert "failed" in table.splitlines()[3]
    killed = 0
    for place, count in kills:
        shutil.rmtree(out)
        ended = predict(*words, place=place, count=count)
        assert ended in (1, -signal.SIGKILL)
        killed += ended != 1
        assert predict(*words) == 1
        assert bytes_of(out) == whole, (place, count)
    assert killed == len(kills)
    if kills is FEW:
        return
    # And one after the other in what the one before left.
    shutil.rmtree(out)
    for place, count in kills:
        assert predict(*words, place=place, count=count) in (1, -signal.SIGKILL)
    assert predict(*words) == 1
    assert bytes_of(out) == whole

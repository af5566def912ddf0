"""kill -9 anywhere, run again: the same bytes as if nothing had happened, and nothing left to clear."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Extract = Callable[..., int]
PLACES = (
    "decode", "encode", "journal", "journal after", "write", "fsync", "rename", "rename after", "replace",
    "replace after", "link", "link after", "unlink", "unlink after",
)  # fmt: skip
#: How often an undisturbed run of three slides comes to each place, or a little less; a third of it is the first slide.
VISITS = {
    "decode": 480,
    "encode": 12,
    "journal": 15,  # a header and four regions of a slide
    "write": 9,
    "fsync": 32,
    "rename": 3,
    "replace": 12,  # the records of the run and the two tissue files of a slide
    "link": 3,
    "unlink": 12,
}


@pytest.fixture(scope="module")
def extract() -> Iterator[Extract]:
    """Run the command to its end or to the place where it dies; gives the exit code, or minus the signal."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("kill_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(slides: Path, out: Path, *more: str, place: str | None = None, count: int = 0) -> int:
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps([[*arguments(slides, out), *more], place, count]), file=server.stdin, flush=True)
        return int(server.stdout.readline())

    yield run
    server.communicate()


def arguments(slides: Path, out: Path) -> list[str]:
    return [
        "extract", str(slides), "--out", str(out), "--backbone", "null", "--patch-px", "64", "--region-px", "320",
        "--set", "segmenter=all",
    ]  # fmt: skip


def draw(seed: int, n: int) -> list[tuple[str, int]]:
    """Places and counts: every place once, then at random."""
    generator = random.Random(seed)
    places = [*PLACES, *generator.choices(PLACES, k=max(0, n - len(PLACES)))][:n]
    return [(place, generator.randint(1, VISITS[place.removesuffix(" after")] // 3)) for place in places]


@pytest.mark.slow
def test_twenty_kills_one_after_another_lose_nothing(extract, tiny_slides, tmp_path, store_bytes):
    """The same folder again and again, each run dying somewhere else in what the ones before it left."""
    assert extract(tiny_slides, tmp_path / "undisturbed") == 0
    whole = store_bytes(tmp_path / "undisturbed")
    assert len(whole) > 9
    killed = 0
    for attempt, (place, count) in enumerate(draw(1, 20)):
        out = tmp_path / "out"
        ended = extract(tiny_slides, out, place=place, count=count)
        assert ended in (0, -signal.SIGKILL)
        killed += ended != 0
        if ended == 0:  # all done: begin another folder
            assert store_bytes(out) == whole
            out.rename(tmp_path / f"done-{attempt}")
        else:
            final = {name: content for name, content in store_bytes(out).items() if "/." not in f"/{name}"}
            assert final.items() <= whole.items()
    assert killed >= 10
    assert extract(tiny_slides, tmp_path / "out") == 0
    assert store_bytes(tmp_path / "out") == whole


@pytest.mark.slow
@pytest.mark.parametrize(("place", "count"), draw(2, 12))
def test_each_place_of_death_is_survived(extract, tiny_slides, tmp_path, store_bytes, place: str, count: int):
    (tiny_slides / "s2.tif").unlink()
    (tiny_slides / "s1.tif").unlink()
    assert extract(tiny_slides, tmp_path / "undisturbed") == 0
    assert extract(tiny_slides, tmp_path / "out", place=place, count=count) == -signal.SIGKILL
    assert extract(tiny_slides, tmp_path / "out") == 0
    assert store_bytes(tmp_path / "out") == store_bytes(tmp_path / "undisturbed")


@pytest.mark.parametrize(("place", "count"), [("rename after", 1), ("rename after", 2)])
def test_death_while_replacing_keeps_the_old_or_the_new(
    extract, tiny_slides, tmp_path, store_bytes, place: str, count: int
):
    assert extract(tiny_slides, tmp_path / "out") == 0
    whole = store_bytes(tmp_path / "out")
    assert extract(tiny_slides, tmp_path / "out", "--overwrite", place=place, count=count) == -signal.SIGKILL
    assert extract(tiny_slides, tmp_path / "out") == 0
    assert store_bytes(tmp_path / "out") == whole


@pytest.mark.slow
def test_the_real_command_killed_at_twenty_random_times(tiny_slides, tmp_path, store_bytes):
    command = [sys.executable, "-m", "wsi_vmamba"]
    started = time.monotonic()
    subprocess.run([*command, *arguments(tiny_slides, tmp_path / "undisturbed")], check=True)
    took_s = time.monotonic() - started
    whole = store_bytes(tmp_path / "undisturbed")
    generator = random.Random(3)
    killed = 0
    for attempt in range(20):
        out = tmp_path / str(attempt)
        child = subprocess.Popen([*command, *arguments(tiny_slides, out)], stdout=subprocess.DEVNULL)
        # Most of the time goes to imports; the last part is where the work is.
        time.sleep(took_s * generator.uniform(0.5, 1.1))
        child.send_signal(signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
        subprocess.run([*command, *arguments(tiny_slides, out)], check=True)
        assert store_bytes(out) == whole
    assert killed >= 5

"""Resuming inside a slide: only the missing regions are encoded, and the bytes are those of an undisturbed run."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from wsi_vmamba.encode import ColourEncoder
from wsi_vmamba.extraction import encoding
from wsi_vmamba.pipelines import extract
from wsi_vmamba.store import count_kept, take_claim
from wsi_vmamba.store.journal import journal_path

#: A tiny slide cut at 128 px: 5 x 4 regions.
REGION_PX, N_REGIONS = 128, 20


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The pixels of every region that is encoded, in order."""
    seen: list[bytes] = []
    encode = ColourEncoder.encode

    def count(self: ColourEncoder, pixels: np.ndarray) -> np.ndarray:
        seen.append(pixels.tobytes())
        return encode(self, pixels)

    monkeypatch.setattr(ColourEncoder, "encode", count)
    return seen


@pytest.fixture
def one_slide(tmp_path: Path, write_tiny_slide) -> Path:
    return write_tiny_slide(tmp_path / "slides" / "s0.tif").parent


def stop_after(monkeypatch: pytest.MonkeyPatch, n: int, error: BaseException) -> None:
    """Have the run end with ``error`` when it comes to pool region number ``n``, counted from 0."""
    pool, calls = encoding.pool_patches, iter(range(10_000))

    def stop(*values: object, **options: object) -> np.ndarray:
        if next(calls) == n:
            raise error
        return pool(*values, **options)

    monkeypatch.setattr(encoding, "pool_patches", stop)


def interrupt(config, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, n, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            extract.run(config)


def rot(path: Path, *, tiles: list[int]) -> None:
    """Fill the inside of tiles of the first level with zeros, as bad sectors do."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        spans = [(page.dataoffsets[index], page.databytecounts[index]) for index in tiles]
    with path.open("r+b") as file:
        for start, length in spans:
            file.seek(start + length // 2)
            file.write(bytes(length // 2 - 2))


@pytest.mark.parametrize("n", [1, 12, N_REGIONS - 1])
def test_only_missing_regions_are_encoded_and_the_bytes_are_equal(
    n, one_slide, tmp_path, extract_config, store_bytes, monkeypatch, capsys, encoded
):
    assert extract.run(extract_config(one_slide, tmp_path / "alone", region_px=REGION_PX)) is True
    all_regions = list(encoded)
    assert len(all_regions) == N_REGIONS
    config = extract_config(one_slide, tmp_path / "out", region_px=REGION_PX)
    interrupt(config, monkeypatch, n)
    assert (
        f"s0: {n} of {N_REGIONS} regions are kept\nrun the same command again to go on from there\n"
        in capsys.readouterr().out
    )
    encoded.clear()
    assert extract.run(config) is True
    assert encoded == all_regions[n:]
    assert f"s0: goes on: {n} of {N_REGIONS} regions are already there" in capsys.readouterr().out
    assert store_bytes(tmp_path / "out") == store_bytes(tmp_path / "alone")


def test_interrupted_again_and_again_each_region_is_encoded_once(
    one_slide, tmp_path, extract_config, store_bytes, monkeypatch, encoded
):
    config = extract_config(one_slide, tmp_path / "out", region_px=REGION_PX)
    for _ in range(4):
        interrupt(config, monkeypatch, 4)
    assert extract.run(config) is True
    # Of each interrupted run, the fifth region was encoded and not kept.
    assert len(encoded) == N_REGIONS + 4
    assert len(set(encoded)) == N_REGIONS
    assert extract.run(extract_config(one_slide, tmp_path / "alone", region_px=REGION_PX)) is True
    assert store_bytes(tmp_path / "out") == store_bytes(tmp_path / "alone")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"patch_px": 32}, "patch_px: stored 64, asked 32"),
        ({"region_px": 320}, "n_patches"),
        ({"mpp_override": 0.25, "target_mpp": 0.25}, "mpp"),
        ({"mask": True}, "segmenter"),
    ],
)
def test_with_other_settings_it_begins_anew_and_says_so(
    changes, named, one_slide, tmp_path, extract_config, store_bytes, monkeypatch, capsys
):
    if "mask" in changes:
        ring = "[[0,0],[640,0],[640,512],[0,512],[0,0]]"
        mask = tmp_path / "mask.geojson"
        mask.write_text(
            '{"type":"Feature","properties":{},"geometry":{"type":"Polygon","coordinates":[' + ring + "]}}"
        )
        changes = {"mask": str(mask)}
    interrupt(extract_config(one_slide, tmp_path / "out", region_px=REGION_PX), monkeypatch, 3)
    settings = {"region_px": REGION_PX, **changes}
    assert extract.run(extract_config(one_slide, tmp_path / "out", **settings)) is True
    said = capsys.readouterr().out
    assert "s0: starts again: the 3 region(s) that were kept belong to something else" in said
    assert named in said
    assert extract.run(extract_config(one_slide, tmp_path / "alone", **settings)) is True
    # The first plan's tissue outline is that of the second, but where a mask was given none is written.
    for folder in ("out", "alone"):
        shutil.rmtree(tmp_path / folder / "tissue")
    assert store_bytes(tmp_path / "out") == store_bytes(tmp_path / "alone")


def test_a_slide_that_was_replaced_meanwhile_begins_anew(
    one_slide, tmp_path, extract_config, store_bytes, monkeypatch, capsys, write_tiny_slide
):
    config = extract_config(one_slide, tmp_path / "out", region_px=REGION_PX)
    interrupt(config, monkeypatch, 3)
    write_tiny_slide(one_slide / "s0.tif", 7)
    assert extract.run(config) is True
    assert (
        "the 3 region(s) that were kept belong to something else (content of the slide"
        in capsys.readouterr().out
    )
    assert extract.run(extract_config(one_slide, tmp_path / "alone", region_px=REGION_PX)) is True
    assert store_bytes(tmp_path / "out") == store_bytes(tmp_path / "alone")


def test_one_chunk_of_a_zarr_slide_that_changed_is_noticed(tmp_path, extract_config, monkeypatch, capsys):
    slide = tmp_path / "slides" / "z.zarr"
    slide.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (512, 640, 3), dtype=np.uint8)
    zarr.create_array(slide, data=pixels, chunks=(64, 64, 3))
    config = extract_config(slide.parent, tmp_path / "out", region_px=REGION_PX, mpp_override=0.5)
    interrupt(config, monkeypatch, 3)
    chunk = slide / "c" / "7" / "9" / "0"
    status = chunk.stat()
    os.utime(chunk, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert extract.run(config) is True
    assert "z: starts again" in capsys.readouterr().out


def test_the_same_slide_in_another_place_goes_on(one_slide, tmp_path, extract_config, monkeypatch, encoded):
    """As where another machine has the archive mounted elsewhere."""
    interrupt(extract_config(one_slide, tmp_path / "out", region_px=REGION_PX), monkeypatch, 15)
    one_slide.rename(tmp_path / "elsewhere")
    encoded.clear()
    assert extract.run(extract_config(tmp_path / "elsewhere", tmp_path / "out", region_px=REGION_PX)) is True
    assert len(encoded) == N_REGIONS - 15


def test_a_rotten_region_is_encoded_again(
    one_slide, tmp_path, extract_config, store_bytes, monkeypatch, capsys, encoded
):
    config = extract_config(one_slide, tmp_path / "out", region_px=REGION_PX)
    interrupt(config, monkeypatch, 15)
    path = journal_path(tmp_path / "out" / "s0.zarr")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    encoded.clear()
    assert extract.run(config) is True
    assert len(encoded) == N_REGIONS - 14
    assert (
        "s0: 1 region(s) that were kept are damaged on disk and are computed again" in capsys.readouterr().out
    )
    assert extract.run(extract_config(one_slide, tmp_path / "alone", region_px=REGION_PX)) is True
    assert store_bytes(tmp_path / "out") == store_bytes(tmp_path / "alone")


def test_what_is_left_out_is_the_same_after_an_interrupt(
    one_slide, tmp_path, extract_config, store_bytes, monkeypatch
):
    rot(one_slide / "s0.tif", tiles=[3, 23, 24, 70])
    settings = {"region_px": REGION_PX, "on_bad_tile": "skip", "patch_px": 32}
    assert extract.run(extract_config(one_slide, tmp_path / "alone", **settings)) is True
    for n in (1, 5, 16, 19):
        out = tmp_path / str(n)
        interrupt(extract_config(one_slide, out, **settings), monkeypatch, n)
        assert extract.run(extract_config(one_slide, out, **settings)) is True
        assert store_bytes(out) == store_bytes(tmp_path / "alone")


def test_a_run_that_skips_goes_on_with_what_one_that_fails_kept_and_not_the_reverse(
    one_slide, tmp_path, extract_config, store_bytes, monkeypatch, encoded, read_outcomes
):
    rot(one_slide / "s0.tif", tiles=[3])
    skip = extract_config(one_slide, tmp_path / "out", region_px=REGION_PX, on_bad_tile="skip")
    fail = extract_config(one_slide, tmp_path / "out", region_px=REGION_PX)
    interrupt(skip, monkeypatch, 10)
    assert extract.run(fail) is False
    assert "tile (col, row) (3, 0)" in read_outcomes(tmp_path / "out")["s0"]["detail"]


def test_a_slide_that_is_damaged_itself_keeps_nothing(one_slide, tmp_path, extract_config):
    rot(one_slide / "s0.tif", tiles=[79])
    assert extract.run(extract_config(one_slide, tmp_path / "out", region_px=REGION_PX)) is False
    assert [entry.name for entry in (tmp_path / "out").iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), MemoryError(), RuntimeError("CUDA error: out of memory")]
)
def test_what_the_slide_is_not_to_blame_for_keeps_its_regions(
    error, one_slide, tmp_path, extract_config, monkeypatch, encoded
):
    config = extract_config(one_slide, tmp_path / "out", region_px=REGION_PX)
    with monkeypatch.context() as patch:
        stop_after(patch, 7, error)
        with suppress(RuntimeError):
            assert extract.run(config) is False
    assert str(count_kept(tmp_path / "out" / "s0.zarr")) == f"7 of {N_REGIONS} regions"
    encoded.clear()
    assert extract.run(config) is True
    assert len(encoded) == N_REGIONS - 7


def test_overwrite_goes_on_too_and_the_old_features_stay_until_then(
    one_slide, tmp_path, extract_config, store_bytes, monkeypatch, encoded
):
    out = tmp_path / "out"
    assert extract.run(extract_config(one_slide, out, region_px=320)) is True
    before = {name: content for name, content in store_bytes(out).items() if name.startswith("s0.zarr")}
    config = extract_config(one_slide, out, region_px=REGION_PX, overwrite=True)
    interrupt(config, monkeypatch, 12)
    assert before.items() <= store_bytes(out).items()
    encoded.clear()
    assert extract.run(config) is True
    assert len(encoded) == N_REGIONS - 12
    assert extract.run(extract_config(one_slide, tmp_path / "alone", region_px=REGION_PX)) is True
    assert store_bytes(out) == store_bytes(tmp_path / "alone")


def test_what_is_kept_for_a_replacement_that_nobody_wants_any_more_is_removed(
    one_slide, tmp_path, extract_config, monkeypatch
):
    out = tmp_path / "out"
    config = extract_config(one_slide, out, region_px=REGION_PX)
    assert extract.run(config) is True
    again = extract_config(one_slide, out, region_px=REGION_PX, overwrite=True)
    interrupt(again, monkeypatch, 12)
    path = journal_path(out / "s0.zarr")
    with take_claim(out / "s0.zarr"):  # a run that is processing it keeps what it has
        assert extract.run(config) is True
        assert path.exists()
    assert extract.run(config) is True
    assert not path.exists()


# --- the death of the process ---

KILLED = """
import os, signal, sys
from wsi_vmamba import cli
from wsi_vmamba.store import journal

place, count = sys.argv[1], int(sys.argv[2])
write_all, calls = journal.write_all, 0

def deadly(file, content):
    global calls
    calls += 1
    if calls == count:
        write_all(file, content[: {"before": 0, "torn": len(content) // 2, "after": len(content)}[place]])
        os.kill(os.getpid(), signal.SIGKILL)
    write_all(file, content)

journal.write_all = deadly
sys.argv = ["wsi-vmamba", *sys.argv[3:]]
cli.main()
"""


def arguments(slides: Path, out: Path, *more: str) -> list[str]:
    return [
        "extract", str(slides), "--out", str(out), "--backbone", "null", "--patch-px", "64", "--region-px",
        str(REGION_PX), "--set", "segmenter=all", *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ("torn", 8),
        ("after", 21),
        *(pytest.param(*at, marks=pytest.mark.slow) for at in (("before", 8), ("after", 8), ("torn", 1))),
    ],
)
def test_kill_9_while_a_region_is_kept_costs_that_region_at_most(
    place, count, one_slide, tmp_path, extract_config, store_bytes, encoded
):
    """The first write is the header; a write is one region."""
    command = [sys.executable, "-c", KILLED, place, str(count), *arguments(one_slide, tmp_path / "out")]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    whole = count - 1 - (place != "after")
    kept = count_kept(tmp_path / "out" / "s0.zarr")
    assert (kept.regions if kept else 0) == max(0, whole)
    config = extract_config(one_slide, tmp_path / "out", region_px=REGION_PX)
    assert extract.run(config) is True
    assert len(encoded) == N_REGIONS - max(0, whole)
    assert extract.run(extract_config(one_slide, tmp_path / "alone", region_px=REGION_PX)) is True
    assert store_bytes(tmp_path / "out") == store_bytes(tmp_path / "alone")


SLOW = """
import sys, time
from wsi_vmamba import cli
from wsi_vmamba.extraction import encoding

pool = encoding.pool_patches

def slow(*values, **options):
    time.sleep(0.2)
    return pool(*values, **options)

encoding.pool_patches = slow
sys.argv = ["wsi-vmamba", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_inside_a_slide_keeps_its_regions_and_says_so(
    number, one_slide, tmp_path, extract_config, store_bytes
):
    run = subprocess.Popen(
        [sys.executable, "-u", "-c", SLOW, *arguments(one_slide, tmp_path / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heed_signals,
    )  # fmt: skip
    wait_for_regions(tmp_path / "out" / "s0.zarr", 3)
    run.send_signal(number)
    said = run.communicate(timeout=60)[0]
    assert run.returncode == 130, said
    shown = re.search(rf"s0: (\d+) of {N_REGIONS} regions are kept\nrun the same command again", said)
    assert shown is not None, said
    assert 3 <= int(shown[1]) < N_REGIONS
    assert str(count_kept(tmp_path / "out" / "s0.zarr")).startswith(shown[1])
    assert [entry.name for entry in (tmp_path / "out").iterdir() if entry.name.startswith(".")] == [
        ".s0.zarr.regions"
    ]
    assert extract.run(extract_config(one_slide, tmp_path / "out", region_px=REGION_PX)) is True
    assert extract.run(extract_config(one_slide, tmp_path / "alone", region_px=REGION_PX)) is True
    assert store_bytes(tmp_path / "out") == store_bytes(tmp_path / "alone")


def heed_signals() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def wait_for_regions(final: Path, n: int) -> None:
    deadline = time.monotonic() + 150
    while (kept := count_kept(final)) is None or kept.regions < n:
        assert time.monotonic() < deadline, "no regions were kept"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_terminal_that_is_closed_leaves_no_claim_and_keeps_the_regions(one_slide, tmp_path):
    """As where an ssh connection breaks: the signal comes, and nothing can be printed any more."""
    ours, theirs = pty.openpty()

    def own_terminal() -> None:
        heed_signals()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    run = subprocess.Popen(
        [sys.executable, "-u", "-c", SLOW, *arguments(one_slide, tmp_path / "out")],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=own_terminal,
        env={**os.environ, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while not re.search(rb"\b([3-9]|1\d) of 20 regions", said):  # a busy machine may skip one
        said += os.read(ours, 65536)
    os.close(ours)
    run.wait(60)
    assert [entry.name for entry in (tmp_path / "out").iterdir() if entry.name.startswith(".")] == [
        ".s0.zarr.regions"
    ]
    kept = count_kept(tmp_path / "out" / "s0.zarr")
    assert kept is not None
    assert 3 <= kept.regions < N_REGIONS


@pytest.mark.slow
def test_under_nohup_a_hangup_changes_nothing(one_slide, tmp_path):
    run = subprocess.Popen(
        [sys.executable, "-u", "-c", SLOW, *arguments(one_slide, tmp_path / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    wait_for_regions(tmp_path / "out" / "s0.zarr", 2)
    run.send_signal(signal.SIGHUP)
    assert "1 of 1 slides have features" in run.communicate(timeout=60)[0]
    assert run.returncode == 0

"""A real scheduler and real worker processes on loopback: what is lost with a worker is made again, the same."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from wsi_vmamba.pipelines import extract
from wsi_vmamba.store import count_kept

PARTS = Path(__file__).with_name("cluster_parts.py")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs in sessions of their own; what is left of them at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def begin(*command: object) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [sys.executable, "-u", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        running.append(program)
        return program

    yield begin
    for program in running:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        if program.stdout is not None:
            program.stdout.close()


@pytest.fixture
def scheduler(start: Start) -> str:
    return read_until(start(PARTS, "scheduler"), "ready tcp").split()[1]


def read_until(program: subprocess.Popen[str], words: str) -> str:
    assert program.stdout is not None
    said = []
    while words not in (line := program.stdout.readline()):
        assert line, f"ended without {words!r}: {''.join(said)}"
        said.append(line)
    return line


def wait_until_gone(group: int) -> None:
    deadline = time.monotonic() + 10
    with suppress(ProcessLookupError):
        while True:
            os.killpg(group, 0)
            assert time.monotonic() < deadline, "processes were left"
            time.sleep(0.05)


def arguments(slides: Path, out: Path, *more: str) -> list[str]:
    return [
        "-m", "wsi_vmamba", "extract", str(slides), "--out", str(out), "--backbone", "null", "--patch-px", "64",
        "--region-px", "320", "--set", "segmenter=all", *more,
    ]  # fmt: skip


def made(folder: Path, store_bytes: Callable[[Path], dict[str, bytes]]) -> dict[str, bytes]:
    found = store_bytes(folder)
    assert found
    return found


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_slide_costs_nothing(
    start, scheduler, write_tiny_slide, tmp_path, store_bytes, read_outcomes, extract_config
):
    for index in range(8):
        write_tiny_slide(tmp_path / "slides" / f"s{index}.tif", index)
    sound, doomed = start(PARTS, "worker", scheduler), start(PARTS, "worker", scheduler, "30")
    for worker in (sound, doomed):
        read_until(worker, "ready tcp")
    run = start(*arguments(tmp_path / "slides", tmp_path / "out", "--scheduler", scheduler))
    said = run.communicate()[0]
    assert doomed.wait(10) == -signal.SIGKILL
    assert sound.poll() is None
    assert run.returncode == 0, said
    assert f"on 2 worker(s) of {scheduler}" in said
    assert said.count("is gone; others take over") == 1
    assert "Traceback" not in said
    assert "8 of 8 slides have features" in said
    assert {row["outcome"] for row in read_outcomes(tmp_path / "out").values()} == {"done"}
    assert extract.run(extract_config(tmp_path / "slides", tmp_path / "alone")) is True
    assert made(tmp_path / "out", store_bytes) == made(tmp_path / "alone", store_bytes)


@pytest.mark.slow
def test_local_workers_make_the_same_bytes_and_the_same_failures(
    start, tiny_slides, tmp_path, store_bytes, read_outcomes, extract_config
):
    (tiny_slides / "s1.tif").write_bytes((tiny_slides / "s1.tif").read_bytes()[:30_000])
    run = start(*arguments(tiny_slides, tmp_path / "out", "--workers", "2"))
    said = run.communicate()[0]
    assert run.returncode == 1, said
    assert "2 of 3 slides have features" in said
    assert extract.run(extract_config(tiny_slides, tmp_path / "alone")) is False
    assert made(tmp_path / "out", store_bytes) == made(tmp_path / "alone", store_bytes)
    ours, theirs = (read_outcomes(tmp_path / name) for name in ("out", "alone"))
    for slide_id in ("s0", "s1", "s2"):
        for key in ("outcome", "detail", "remedy", "regions", "patches"):
            assert ours[slide_id][key] == theirs[slide_id][key]


@pytest.mark.slow
def test_workers_with_other_numbers_of_threads_encode_the_same_bytes(
    start, write_tiny_slide, tmp_path, store_bytes, extract_config
):
    """Each local worker has half of the cores; alone, this process is told to use one more than that."""
    write_tiny_slide(tmp_path / "slides" / "s.tif", 5)
    encoder = ("--backbone", "vmamba_pico", "--precision", "bf16")
    run = start(*arguments(tmp_path / "slides", tmp_path / "out", "--workers", "2", *encoder))
    said = run.communicate()[0]
    assert run.returncode == 0, said
    config = extract_config(tmp_path / "slides", tmp_path / "alone", backbone="vmamba_pico", precision="bf16")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2) + 1)
        assert extract.run(config) is True
    finally:
        torch.set_num_threads(before)
    assert made(tmp_path / "out", store_bytes) == made(tmp_path / "alone", store_bytes)


@pytest.mark.slow
def test_ctrl_c_ends_local_workers_keeps_what_is_finished_and_leaves_no_claim(
    start, write_tiny_slide, tmp_path, store_bytes, extract_config
):
    n_slides = 32  # more than are done before a busy machine has sent the signal
    write_tiny_slide(tmp_path / "slides" / "s00.tif", 0)
    for index in range(1, n_slides):
        shutil.copy(tmp_path / "slides" / "s00.tif", tmp_path / "slides" / f"s{index:02}.tif")
    out = tmp_path / "out"
    run = start(*arguments(tmp_path / "slides", out, "--workers", "2"))
    read_until(run, ": done")
    os.killpg(run.pid, signal.SIGINT)  # a terminal sends it to the whole group, workers included
    began = time.monotonic()
    said = run.communicate()[0]
    assert run.returncode == 130, said
    assert time.monotonic() - began < 30
    finished = len(list(out.glob("*.zarr")))
    shown = re.search(r"(\d+) of (\d+) slides have features", said)
    assert shown is not None
    assert 1 <= int(shown[1]) <= finished < n_slides == int(shown[2])
    assert "interrupted" in said
    assert "Traceback" not in said
    assert [entry.name for entry in out.iterdir() if entry.name.startswith(".")] == []
    wait_until_gone(run.pid)
    assert extract.run(extract_config(tmp_path / "slides", out)) is True
    assert extract.run(extract_config(tmp_path / "slides", tmp_path / "alone")) is True
    assert made(out, store_bytes) == made(tmp_path / "alone", store_bytes)


SLOW_REGIONS = """
import time
from wsi_vmamba.extraction import encoding

# Dask loads this more than once.
encoding.original = getattr(encoding, "original", encoding.pool_patches)

def slow(*values, **options):
    time.sleep(0.3)
    return encoding.original(*values, **options)

encoding.pool_patches = slow
"""
FREQUENT_LINES = """
import sys
from wsi_vmamba import board, cli

board.LOG_EVERY_S = 1.0
if __name__ == "__main__":
    cli.main()
"""


@pytest.fixture
def slow_workers(tmp_path, monkeypatch) -> None:
    """Have every worker that is started from now on take 0.3 s for a region."""
    (tmp_path / "slow_regions.py").write_text(SLOW_REGIONS)
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", str(tmp_path / "slow_regions.py"))


@pytest.mark.usefixtures("slow_workers")
@pytest.mark.slow
@pytest.mark.parametrize("to_all", [True, False])
def test_sigterm_ends_workers_and_what_each_has_of_its_slide_is_kept_and_used(
    to_all, start, tiny_slides, tmp_path, store_bytes, extract_config
):
    """A batch system sends it to every process of a job, `kill` and a container's runtime to the first only."""
    out = tmp_path / "out"
    command = arguments(tiny_slides, out, "--workers", "2", "--region-px", "64")
    run = start(*command)
    deadline = time.monotonic() + 150
    while min(regions_kept(out, "s0"), regions_kept(out, "s1")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if to_all:
        os.killpg(run.pid, signal.SIGTERM)
    else:
        run.send_signal(signal.SIGTERM)
    began = time.monotonic()
    said = run.communicate()[0]
    assert run.returncode == 130, said
    assert time.monotonic() - began < 30
    assert "Traceback" not in said
    wait_until_gone(run.pid)
    assert sorted(entry.name for entry in out.iterdir() if entry.name.startswith(".")) == [
        ".s0.zarr.regions",
        ".s1.zarr.regions",
    ]
    for slide_id in ("s0", "s1"):
        n = regions_kept(out, slide_id)
        assert 3 <= n < 80
        assert f"{slide_id}: {n} of 80 regions are kept" in said
    assert "run the same command again to go on from there" in said
    again = extract_config(tiny_slides, out, region_px=64)
    assert extract.run(again) is True
    assert extract.run(extract_config(tiny_slides, tmp_path / "alone", region_px=64)) is True
    assert made(out, store_bytes) == made(tmp_path / "alone", store_bytes)


def regions_kept(out: Path, slide_id: str) -> int:
    kept = count_kept(out / f"{slide_id}.zarr")
    return kept.regions if kept else 0


@pytest.mark.usefixtures("slow_workers")
@pytest.mark.slow
def test_every_worker_says_how_far_its_slide_is_and_a_finished_slide_is_told_at_once(
    start, tiny_slides, tmp_path, write_tiny_slide
):
    write_tiny_slide(tiny_slides / "s0.tif", 0, width=128, height=64)  # through long before the others
    (tmp_path / "main.py").write_text(FREQUENT_LINES)
    command = arguments(tiny_slides, tmp_path / "out", "--workers", "2", "--region-px", "128")
    run = start(tmp_path / "main.py", *command[2:])
    said = run.communicate()[0]
    assert run.returncode == 0, said
    for slide_id in ("s1", "s2"):
        steps = re.findall(rf"^{slide_id}: (\d+) of 20 regions, about \d+ s left$", said, flags=re.MULTILINE)
        assert len(steps) >= 3, said
        assert list(map(int, steps)) == sorted(map(int, steps))
    assert re.search(r"^in all: 1 of 3 slides, about \d+ s left$", said, flags=re.MULTILINE), said
    assert said.index("s0: done") < said.index("in all: 1 of 3 slides")


@pytest.mark.slow
def test_a_slide_that_costs_every_worker_its_life_fails_alone(
    start, scheduler, tiny_slides, tmp_path, read_outcomes
):
    """The others are made by the worker that comes next."""
    run = start(*arguments(tiny_slides, tmp_path / "out", "--scheduler", scheduler))
    read_until(run, "waiting for the first worker")
    # One sound slide each has 90 tiles; whoever gets the first slide dies of it.
    for _ in range(4):
        assert start(PARTS, "worker", scheduler, "1").wait(30) == -signal.SIGKILL
    start(PARTS, "worker", scheduler)
    said = run.communicate()[0]
    assert run.returncode == 1, said
    rows = read_outcomes(tmp_path / "out")
    assert sorted(row["outcome"] for row in rows.values()) == ["done", "done", "failed"]
    (failed,) = (row for row in rows.values() if row["outcome"] == "failed")
    assert "4 workers were lost" in failed["detail"]
    assert "memory" in failed["remedy"]


@pytest.mark.slow
def test_a_lost_scheduler_ends_the_run_with_its_cause(start, write_tiny_slide, tmp_path, extract_config):
    for index in range(20):
        write_tiny_slide(tmp_path / "slides" / f"s{index:02}.tif", index)
    server = start(PARTS, "scheduler")
    address = read_until(server, "ready tcp").split()[1]
    read_until(start(PARTS, "worker", address), "ready tcp")
    run = start(*arguments(tmp_path / "slides", tmp_path / "out", "--scheduler", address))
    read_until(run, "s01: done")
    server.send_signal(signal.SIGKILL)
    said = run.communicate(timeout=60)[0]
    assert run.returncode == 1, said
    assert "error: the connection to the Dask scheduler was lost" in said
    assert "Traceback" not in said

"""Two runs over one folder share the work; what one leaves the other takes up."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from wsi_vmamba.extraction import encoding
from wsi_vmamba.extraction.encoders import describe_encoder, load_encoder
from wsi_vmamba.extraction.one_slide import extract_slide
from wsi_vmamba.extraction.run import begin_run
from wsi_vmamba.extraction.sources import find_sources
from wsi_vmamba.pipelines import extract
from wsi_vmamba.store import take_claim

HOLDER = """
import sys, time
from pathlib import Path
from wsi_vmamba.store import take_claim
claim = take_claim(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def start(slides: Path, out: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-u", "-m", "wsi_vmamba", "extract", str(slides), "--out", str(out), "--backbone", "null",
        "--patch-px", "64", "--region-px", "320", "--set", "segmenter=all",
    ]  # fmt: skip
    # Where the tests run in the background of a shell, SIGINT is ignored, which the command would inherit.
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=_heed_interrupts)


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_two_runs_share_a_folder_and_write_no_slide_twice(
    write_tiny_slide, tmp_path, store_bytes, extract_config
):
    n = 8
    for index in range(n):
        write_tiny_slide(tmp_path / "slides" / f"s{index}.tif", index)
    runs = [start(tmp_path / "slides", tmp_path / "out") for _ in range(2)]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    done = Counter(re.findall(r"^(s\d+): done", "".join(said), flags=re.MULTILINE))
    assert done == {f"s{index}": 1 for index in range(n)}
    for words in said:
        assert f"{n} of {n} slides have features" in words
    extract.run(extract_config(tmp_path / "slides", tmp_path / "alone"))
    assert store_bytes(tmp_path / "out") == store_bytes(tmp_path / "alone")


@pytest.mark.slow
def test_a_run_waits_for_a_slide_of_a_living_run_and_takes_it_when_that_dies(tiny_slides, tmp_path):
    held = tmp_path / "out" / "s1.zarr"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(held)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        run = start(tiny_slides, tmp_path / "out")
        assert run.stdout is not None
        before = []
        while "s2: done" not in (line := run.stdout.readline()):
            before.append(line)
        assert f"s1: being processed by pid {holder.pid} on " in "".join(before)
        assert not held.exists()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    after = run.communicate()[0]
    assert "s1: done" in after
    assert "3 of 3 slides have features" in after
    assert run.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_finished_shows_it_and_leaves_no_claim(
    tiny_slides, tmp_path, read_outcomes, number: signal.Signals
):
    out = tmp_path / "out"
    with take_claim(out / "s2.zarr"):
        run = start(tiny_slides, out)
        assert run.stdout is not None
        said = ""
        while "s2: being processed by pid" not in said:
            said += run.stdout.readline()
        run.send_signal(number)
        said += run.communicate()[0]
    assert run.returncode == 130
    assert "2 of 3 slides have features" in said
    assert {name: row["outcome"] for name, row in read_outcomes(out).items()} == {"s0": "done", "s1": "done"}
    assert [entry.name for entry in out.iterdir() if entry.name.startswith(".")] == []
    again = start(tiny_slides, out)
    assert "3 of 3 slides have features" in again.communicate()[0]
    assert again.returncode == 0


def test_one_slide_is_a_plain_function_that_says_when_another_run_is_processing_it(
    tiny_slides, tmp_path, extract_config
):
    config, source = extract_config(tiny_slides, tmp_path), find_sources(str(tiny_slides))[0]
    encoder = load_encoder(config)
    with take_claim(tmp_path / "s0.zarr"):
        outcome = extract_slide(config, source, encoder)
        assert (outcome.outcome, outcome.failed) == ("claimed", True)
        assert "being processed by" in outcome.detail
    assert extract_slide(config, source, encoder).outcome == "done"
    assert extract_slide(config, source, encoder).outcome == "already done"
    assert extract_slide(config.model_copy(update={"overwrite": True}), source, encoder).outcome == "done"


def test_what_a_run_that_overwrites_finds_made_since_it_began_is_kept(tiny_slides, tmp_path, extract_config):
    """As when two such runs share a folder."""
    config = extract_config(tiny_slides, tmp_path / "out", overwrite=True)
    source, encoder = find_sources(str(tiny_slides))[0], load_encoder(config)
    assert extract_slide(config, source, encoder).outcome == "done"
    started_mtime = begin_run(config, describe_encoder(config, encoder))
    outcomes = [extract_slide(config, source, encoder, started_mtime=started_mtime).outcome for _ in range(2)]
    assert outcomes == ["done", "already done"]


def test_rows_of_other_runs_stay_in_the_table(tiny_slides, tmp_path, extract_config, read_outcomes):
    for name in ("s0.tif", "s1.tif"):
        assert extract.run(extract_config(tiny_slides / name, tmp_path / "out")) is True
    assert set(read_outcomes(tmp_path / "out")) == {"s0", "s1"}


def test_an_interrupt_inside_a_slide_gives_it_free(tiny_slides, tmp_path, extract_config, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(encoding, "pool_patches", interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        extract.run(extract_config(tiny_slides, tmp_path / "out"))
    names = {entry.name for entry in (tmp_path / "out").iterdir()}
    assert names == {"extract.csv", "extract.yaml", "extract.run.json", "tissue"}

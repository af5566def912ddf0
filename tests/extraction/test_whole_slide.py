"""A slide in one pass with its map on the disk: the features of the map in memory, also after kill -9, nothing left."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import wsi_vmamba as wv
from wsi_vmamba.errors import MemoryLimitError, UnreadableSlideError, UsageError
from wsi_vmamba.extraction import encoders, encoding
from wsi_vmamba.inference.encoder import StripForward
from wsi_vmamba.inference.scratch import Scratch, open_scratch
from wsi_vmamba.ops import cpu
from wsi_vmamba.pipelines import extract
from wsi_vmamba.store import open_features, take_claim
from wsi_vmamba.store.claims import this_process

pytestmark = pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")

PICO = {"backbone": "vmamba_pico", "device": "cpu", "precision": "fp32"}
#: Places where a run comes by, and how often at least: of a slide of 5 x 3 patches, in one pass.
PLACES = (
    ("scratch write", 40), ("scratch write after", 40), ("scratch drop", 10), ("scratch drop after", 10),
    ("carries write", 20), ("carries read", 20), ("scratch remove", 1), ("journal", 2), ("journal after", 2),
    ("link", 1),
)  # fmt: skip


_build = functools.cache(encoders.build_encoder)


@pytest.fixture(autouse=True)
def _build_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building the encoder takes longer than what these tests do with it."""
    monkeypatch.setattr(encoders, "build_encoder", _build)


@pytest.fixture
def one_slide(tmp_path: Path, write_tiny_slide) -> Path:
    return write_tiny_slide(tmp_path / "slides" / "s0.tif", width=320, height=192).parent


def stop_at_write(monkeypatch: pytest.MonkeyPatch, n: int, error: BaseException) -> None:
    write, calls = Scratch._write, iter(range(10_000))

    def stop(*values: object) -> None:
        if next(calls) == n:
            raise error
        write(*values)

    monkeypatch.setattr(Scratch, "_write", stop)


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")] if folder.is_dir() else []


def test_whole_is_one_pass_with_the_features_of_one_region_in_memory(
    one_slide, tmp_path, extract_config, capsys
):
    assert extract.run(extract_config(one_slide, tmp_path / "whole", region_px="whole", **PICO))
    assert "up to 0.00 GB of scratch" in capsys.readouterr().out
    assert extract.run(extract_config(one_slide, tmp_path / "memory", region_px=10_000, **PICO))
    whole, memory = (open_features(tmp_path / folder / "s0.zarr") for folder in ("whole", "memory"))
    np.testing.assert_array_equal(whole.features, memory.features)
    np.testing.assert_array_equal(whole.coords_l0, memory.coords_l0)
    assert whole.meta.plan["spec"]["region_px"] == "whole"
    assert hidden(tmp_path / "whole") == []
    # Features of one are not taken for those of the other.
    assert not extract.run(extract_config(one_slide, tmp_path / "whole", region_px=10_000, **PICO))


def test_scratch_changes_no_byte_of_regions(one_slide, tmp_path, extract_config, store_bytes):
    scratch = tmp_path / "elsewhere" / "scratch"
    assert extract.run(extract_config(one_slide, tmp_path / "files", scratch=str(scratch), **PICO))
    assert extract.run(extract_config(one_slide, tmp_path / "memory", **PICO))
    assert store_bytes(tmp_path / "files") == store_bytes(tmp_path / "memory")
    assert list(scratch.iterdir()) == []


def test_skipped_background_is_recorded_and_tissue_everywhere_is_as_before(
    one_slide, tmp_path, extract_config, capsys
):
    whole = {"region_px": "whole", **PICO}
    assert extract.run(extract_config(one_slide, tmp_path / "skip", background="skip", **whole))
    assert extract.run(extract_config(one_slide, tmp_path / "read", **whole))
    skip, read = (open_features(tmp_path / folder / "s0.zarr") for folder in ("skip", "read"))
    np.testing.assert_array_equal(skip.coords_l0, read.coords_l0)
    np.testing.assert_allclose(skip.features, read.features, rtol=2e-3, atol=2e-3)  # stored in half precision
    assert skip.meta.plan["spec"]["background"] == "skip"
    assert "background" not in read.meta.plan["spec"]
    assert hidden(tmp_path / "skip") == []
    assert not extract.run(extract_config(one_slide, tmp_path / "skip", **whole))
    assert "plan.spec.background: stored" in capsys.readouterr().out


def test_glass_is_left_out_in_memory_unless_files_are_asked_for_or_it_does_not_suffice(
    one_slide, tmp_path, extract_config, store_bytes, monkeypatch, capsys
):
    skip = {"background": "skip", "segmenter": "all", **PICO}
    written: list[str] = []
    write = Scratch._write

    def note(self: Scratch, name: str, pieces: Any) -> None:
        written.append(name)
        write(self, name, pieces)

    monkeypatch.setattr(Scratch, "_write", note)
    assert extract.run(extract_config(one_slide, tmp_path / "memory", **skip))
    assert written == []
    assert "of scratch" not in capsys.readouterr().out
    assert hidden(tmp_path / "memory") == []

    scratch = tmp_path / "scratch"
    assert extract.run(extract_config(one_slide, tmp_path / "files", scratch=str(scratch), **skip))
    assert "0.map.0" in written
    assert store_bytes(tmp_path / "files") == store_bytes(tmp_path / "memory")

    def refuse(*values: Any, **options: Any) -> NoReturn:
        raise MemoryLimitError("too large")

    written.clear()
    monkeypatch.setattr(StripForward, "pool_tissue", refuse)
    assert extract.run(extract_config(one_slide, tmp_path / "fallback", **skip))
    assert "0.map.0" in written
    assert "of scratch" in capsys.readouterr().out
    assert store_bytes(tmp_path / "fallback") == store_bytes(tmp_path / "memory")
    assert hidden(tmp_path / "fallback") == []


def test_background_cannot_be_skipped_by_backbones_that_read_all(one_slide, tmp_path, extract_config):
    with pytest.raises(UsageError, match=r"background=skip is for VMambas on the CPU .* not for null on cpu"):
        extract.run(extract_config(one_slide, tmp_path / "out", background="skip", device="cpu"))


def test_an_interrupted_pass_goes_on_and_says_so(
    one_slide, tmp_path, extract_config, store_bytes, monkeypatch, capsys
):
    config = extract_config(one_slide, tmp_path / "out", region_px="whole", **PICO)
    with monkeypatch.context() as patch:
        stop_at_write(patch, 20, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            extract.run(config)
    assert len(hidden(tmp_path / "out")) == 1
    assert extract.run(config)
    assert "s0: goes on in the middle of a region" in capsys.readouterr().out
    assert extract.run(extract_config(one_slide, tmp_path / "alone", region_px="whole", **PICO))
    assert store_bytes(tmp_path / "out") == store_bytes(tmp_path / "alone")


def test_with_other_settings_the_pass_begins_anew(
    one_slide, tmp_path, extract_config, store_bytes, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        stop_at_write(patch, 20, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            extract.run(extract_config(one_slide, tmp_path / "out", region_px="whole", **PICO))
    other = {**PICO, "precision": "bf16"}
    assert extract.run(extract_config(one_slide, tmp_path / "out", region_px="whole", **other))
    assert "which belongs to something else" in capsys.readouterr().out
    assert extract.run(extract_config(one_slide, tmp_path / "alone", region_px="whole", **other))
    assert store_bytes(tmp_path / "out") == store_bytes(tmp_path / "alone")


def test_a_slide_that_cannot_be_read_leaves_nothing(one_slide, tmp_path, extract_config, monkeypatch):
    def fail(*values: object, **options: object) -> None:
        raise UnreadableSlideError("s0.tif", "made up")

    monkeypatch.setattr(encoding, "pool_in_scratch", fail)
    assert not extract.run(extract_config(one_slide, tmp_path / "out", region_px="whole", **PICO))
    assert hidden(tmp_path / "out") == []


@pytest.mark.parametrize("how", [{"region_px": "whole"}, {"background": "skip", "segmenter": "all"}])
def test_too_little_memory_is_refused_and_leaves_nothing(
    one_slide, tmp_path, extract_config, read_outcomes, how: dict[str, str]
):
    config = extract_config(one_slide, tmp_path / "out", memory_limit_gb=0.001, **how, **PICO)
    assert not extract.run(config)
    assert "even with its map in files" in read_outcomes(tmp_path / "out")["s0"]["detail"]
    assert hidden(tmp_path / "out") == []


def test_embed_writes_only_into_scratch_and_leaves_nothing(one_slide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"segmenter": "all", "patch_px": 64, "scratch": str(tmp_path / "scratch"), **PICO}
    whole = wv.embed(one_slide / "s0.tif", region_px="whole", **settings)
    assert list((tmp_path / "scratch").iterdir()) == []
    memory = wv.embed(one_slide / "s0.tif", **{**settings, "scratch": None})
    np.testing.assert_array_equal(whole.features, memory.features)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch", "slides"]


EMBED = """
import os, signal, sys
import wsi_vmamba as wv
from wsi_vmamba.inference.scratch import Scratch
write, calls = Scratch._write, iter(range(20))
def deadly(*values):
    if next(calls, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    write(*values)
Scratch._write = deadly
wv.embed(sys.argv[1], scratch=sys.argv[2], patch_px=64, region_px="whole", segmenter="all", device="cpu")
"""


@pytest.mark.slow
def test_a_killed_embed_leaves_its_files_and_their_claim(one_slide, tmp_path):
    scratch = tmp_path / "scratch"
    died = subprocess.run([sys.executable, "-c", EMBED, str(one_slide / "s0.tif"), str(scratch)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert len(hidden(scratch)) == 2
    _embed_beside_one_that_lives(one_slide, scratch)


def test_what_a_dead_embed_left_is_removed_by_the_next_and_nothing_else(one_slide, tmp_path):
    scratch = tmp_path / "scratch"
    dead = open_scratch(scratch, "embed.dead", {}, say=print)
    dead.write_json("0.map.0", 1)
    owner = {**vars(this_process()), "started": "1"}  # its number is another process's by now
    (scratch / ".embed.dead.claim").write_text(json.dumps(owner))
    _embed_beside_one_that_lives(one_slide, scratch)


def _embed_beside_one_that_lives(one_slide: Path, scratch: Path) -> None:
    with take_claim(scratch / "embed.alive"):
        kept = scratch / ".embed.alive.scratch-1"
        kept.mkdir()
        settings = {"segmenter": "all", "patch_px": 64, "region_px": "whole", "scratch": str(scratch), **PICO}
        wv.embed(one_slide / "s0.tif", **settings)
        assert sorted(hidden(scratch)) == [".embed.alive.claim", kept.name]


@pytest.fixture(scope="module")
def killed() -> Iterator[Callable[..., int]]:
    """Run the command to its end or to the place where it dies; gives the exit code, or minus the signal."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("kill_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(
        slides: Path, out: Path, place: str | None = None, count: int = 0, *, more: Sequence[str] = ()
    ) -> int:
        assert server.stdin is not None
        assert server.stdout is not None
        words = ["extract", str(slides), "--out", str(out), "--patch-px", "64", "--region-px", "whole"]
        words += ["--segmenter", "all", "--backbone", "vmamba_pico", "--precision", "fp32", "--device", "cpu"]
        words += more
        print(json.dumps([words, place, count]), file=server.stdin, flush=True)
        return int(server.stdout.readline())

    yield run
    server.communicate()


def kill_often(
    killed, slides: Path, folder: Path, store_bytes, places: list[tuple[str, int]], more: Sequence[str] = ()
) -> None:
    """One run after another over the same folder, each dying at its place."""
    assert killed(slides, folder / "undisturbed", more=more) == 0
    for place, count in places:
        assert killed(slides, folder / "out", place, count, more=more) == -signal.SIGKILL, place
    assert killed(slides, folder / "out", more=more) == 0
    assert store_bytes(folder / "out") == store_bytes(folder / "undisturbed")
    assert hidden(folder / "out") == []


def test_killed_in_the_middle_of_a_block_it_goes_on_with_equal_bytes(
    killed, one_slide, tmp_path, store_bytes
):
    kill_often(killed, one_slide, tmp_path, store_bytes, [("scratch write", 30)])


@pytest.fixture
def with_glass(tmp_path: Path) -> list[str]:
    """Words for the command: of the 5 x 3 patches of the slide two pieces of tissue, in all three rows, are kept."""
    boxes = [(0, 0, 128, 192), (256, 64, 320, 192)]
    rings = [[[a, b], [c, b], [c, d], [a, d], [a, b]] for a, b, c, d in boxes]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
        for ring in rings
    ]
    mask = tmp_path / "s0.geojson"
    mask.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return ["--background", "skip", "--mask", str(mask)]


@pytest.mark.slow
def test_with_glass_left_out_it_goes_on_with_equal_bytes(
    killed, one_slide, tmp_path, store_bytes, with_glass
):
    kill_often(killed, one_slide, tmp_path, store_bytes, [("scratch write", 30)], with_glass)
    assert open_features(tmp_path / "out" / "s0.zarr").n_patches == 6 + 2


@pytest.mark.slow
def test_with_glass_left_out_it_is_killed_at_ten_places(killed, one_slide, tmp_path, store_bytes, with_glass):
    rng = np.random.default_rng(6)
    places = [(place, int(rng.integers(1, max(2, most // 5)))) for place, most in PLACES]
    kill_often(killed, one_slide, tmp_path, store_bytes, places, with_glass)


@pytest.mark.slow
def test_killed_at_ten_places_one_after_another(killed, one_slide, tmp_path, store_bytes):
    rng = np.random.default_rng(5)
    # Each goes on where the one before died, so all together they may come no further than one pass does.
    places = [(place, int(rng.integers(1, max(2, most // 5)))) for place, most in PLACES]
    kill_often(killed, one_slide, tmp_path, store_bytes, places)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "most"), PLACES)
def test_killed_at_each_place(killed, one_slide, tmp_path, store_bytes, place: str, most: int):
    kill_often(killed, one_slide, tmp_path, store_bytes, [(place, most)])

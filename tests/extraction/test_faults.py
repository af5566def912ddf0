"""A damaged slide is named with its cause and the tile; the others go on; nothing partial has a final name."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from wsi_vmamba.errors import StoreError
from wsi_vmamba.extraction import encoding, tissue_files
from wsi_vmamba.extraction.outcomes import remedy_for
from wsi_vmamba.pipelines import extract
from wsi_vmamba.slide.tiff import slide as tiff

N_PATCHES = 80


def tile_span(path: Path, *, level: int, index: int) -> tuple[int, int]:
    """Where in a TIFF one tile lies: first byte and number of bytes."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[level]
        return page.dataoffsets[index], page.databytecounts[index]


def rot(path: Path, *, level: int, index: int) -> None:
    """Fill the inside of a tile with zeros, as a bad sector does."""
    start, length = tile_span(path, level=level, index=index)
    with path.open("r+b") as file:
        file.seek(start + length // 2)
        file.write(bytes(length // 2 - 2))


def truncate(path: Path) -> None:
    # The directory of the second level lies last, so cut the data of the first and keep the file's length wrong.
    start, length = tile_span(path, level=1, index=5)
    os.truncate(path, start + length // 2)


def no_slide(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def no_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.tif")


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "truncated": (truncate, r"level 1, tile \(col, row\) \(2, 1\).*cut short", "copy the slide again"),
    "bit rot": (
        lambda path: rot(path, level=0, index=23),
        r"level 0, tile \(col, row\) \(3, 2\): JPEG data with a run of zeros",
        "--on-bad-tile skip",
    ),
    "zero bytes": (
        lambda path: os.truncate(path, 0),
        r"the file is empty \(0 bytes\)",
        "copy the slide again",
    ),
    "all zeros": (lambda path: path.write_bytes(bytes(9999)), "never written to its end", "copy the slide"),
    "wrong ending": (no_slide, "found a PNG picture", "take it out of the run"),
    "dangling link": (no_link, "No such file", "was it moved"),
    "only the header": (
        lambda path: os.truncate(path, 8),
        "damaged or was never finished",
        "copy the slide again",
    ),
    "a named pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "the file is empty", "copy the slide"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_slide_is_named_and_the_others_go_on(
    damage: str, tiny_slides, tmp_path, extract_config, read_outcomes, store_bytes, capsys
):
    harm, cause, remedy = DAMAGES[damage]
    harm(tiny_slides / "s1.tif")
    config = extract_config(tiny_slides, tmp_path / "out", segmenter="otsu")
    assert extract.run(config) is False
    rows = read_outcomes(tmp_path / "out")
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "s0": "done",
        "s1": "failed",
        "s2": "done",
    }
    folders = {name.split("/")[0] for name in store_bytes(tmp_path / "out")}
    assert folders == {"s0.zarr", "s2.zarr", "tissue"}
    assert re.search(cause, rows["s1"]["detail"])
    assert remedy in rows["s1"]["remedy"]
    shown = capsys.readouterr().out
    assert "2 of 3 slides have features" in shown
    assert "\t".join(rows["s1"][name] for name in ("slide_id", "outcome", "detail", "remedy")) in shown


def test_a_slide_that_is_mended_is_done_by_running_again(tiny_slides, tmp_path, extract_config, store_bytes):
    assert extract.run(extract_config(tiny_slides, tmp_path / "undisturbed")) is True
    sound = (tiny_slides / "s1.tif").read_bytes()
    rot(tiny_slides / "s1.tif", level=0, index=23)
    assert extract.run(extract_config(tiny_slides, tmp_path / "out")) is False
    (tiny_slides / "s1.tif").write_bytes(sound)
    assert extract.run(extract_config(tiny_slides, tmp_path / "out")) is True
    assert store_bytes(tmp_path / "out") == store_bytes(tmp_path / "undisturbed")


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_slide_that_changes_while_it_is_read_fails(
    how: str, tiny_slides, tmp_path, extract_config, read_outcomes, monkeypatch
):
    path = tiny_slides / "s1.tif"
    decode, calls = tiff.decode_tile, iter(range(10_000))

    def change(*values: object, **options: object) -> object:
        # A slide takes 80 tiles for its preview and 80 for its features: in the middle of the second slide's.
        if next(calls) == 260:
            if how == "removed":
                path.unlink()
            else:
                shutil.copy(tiny_slides / "s2.tif", path)
        return decode(*values, **options)

    monkeypatch.setattr(tiff, "decode_tile", change)
    assert extract.run(extract_config(tiny_slides, tmp_path / "out")) is False
    rows = read_outcomes(tmp_path / "out")
    assert [rows[name]["outcome"] for name in ("s0", "s1", "s2")] == ["done", "failed", "done"]
    assert "while it was read" in rows["s1"]["detail"] or "tile" in rows["s1"]["detail"]
    assert not (tmp_path / "out" / "s1.zarr").exists()


def test_a_zarr_picture_that_goes_away_while_it_is_read_fails(tmp_path, extract_config, read_outcomes):
    slide = tmp_path / "slides" / "z.zarr"
    slide.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (640, 640, 3), dtype=np.uint8)
    zarr.create_array(slide, data=pixels, chunks=(64, 64, 3))
    config = extract_config(slide.parent, tmp_path / "out", mpp_override=0.5)
    removed = threading.Event()
    original = encoding.pool_patches

    def remove(*values: object, **options: object) -> object:
        if not removed.is_set():
            removed.set()
            shutil.rmtree(slide)
        return original(*values, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "pool_patches", remove)
        assert extract.run(config) is False
    assert "while it was read" in read_outcomes(tmp_path / "out")["z"]["detail"]
    assert not (tmp_path / "out" / "z.zarr").exists()


# --- permissions: as root in a process that gives root up, else as we are ---

AS_NOBODY = """
import os, sys
from contextlib import suppress
from wsi_vmamba.cli import main

slide, *arguments = sys.argv[1:]
sys.argv = ["wsi-vmamba", "extract", slide, "--out", slide + ".warm", *arguments[3:]]
with suppress(SystemExit):  # to have everything imported while the files of Python can be read
    main()
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.argv = ["wsi-vmamba", "extract", *arguments]
main()
"""


@pytest.mark.slow
def test_what_may_not_be_read_is_named_and_the_others_go_on(write_tiny_slide, read_outcomes):
    # Below /tmp, because the folders of pytest are closed to other users.
    base = Path("/tmp") / f"wsi-vmamba-test-{os.getpid()}"
    try:
        for name in ("a.tif", "b.tif", "closed/c.tif", "open/d.tif"):
            write_tiny_slide(base / name)
        (base / "out").mkdir()
        base.chmod(0o755)
        (base / "out").chmod(0o777)
        (base / "b.tif").chmod(0)
        (base / "closed").chmod(0)
        command = [str(base / "a.tif"), str(base), "--out", str(base / "out"), "--backbone", "null"]
        ran = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, *command, "--patch-px", "64", "--set", "segmenter=all"],
            capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
        assert ran.returncode == 1, ran.stderr
        rows = read_outcomes(base / "out")
        assert (rows["a"]["outcome"], rows["d"]["outcome"]) == ("done", "done")
        assert "cannot read the file (Permission denied)" in rows["b"]["detail"]
        assert "give this user permission" in rows["b"]["remedy"]
        assert "cannot list the folder (Permission denied)" in rows[f"{base}/closed/"]["detail"]
    finally:
        (base / "closed").chmod(0o755)
        shutil.rmtree(base)


# --- the disk ---


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_fails_slides_with_the_remedy_and_space_is_all_it_needs(
    small_disk, tiny_slides, tmp_path, extract_config, store_bytes, capsys
):
    assert extract.run(extract_config(tiny_slides, tmp_path / "undisturbed")) is True
    filling = small_disk / "filling"
    # Room for the records of the run and for the preview of one slide, not for its features.
    filling.write_bytes(bytes(1024 * 1024 - 160 * 1024))
    config = extract_config(tiny_slides, small_disk / "out")
    assert extract.run(config) is False
    said = capsys.readouterr().out
    assert "no space left" in said
    # Of what is left over, every whole region is of use, and is said.
    hidden = {part.name for part in (small_disk / "out").iterdir() if part.name.startswith(".")}
    assert hidden == {
        f".{name}.zarr.regions" for name in re.findall(r"(\w+): \d of 4 regions are kept", said)
    }
    filling.unlink()
    assert extract.run(config) is True
    assert store_bytes(small_disk / "out") == store_bytes(tmp_path / "undisturbed")


def test_a_table_that_cannot_be_written_fails_the_run_after_all_slides(
    tiny_slides, tmp_path, extract_config, capsys
):
    (tmp_path / "out" / "extract.csv").mkdir(parents=True)
    assert extract.run(extract_config(tiny_slides, tmp_path / "out")) is False
    said = capsys.readouterr()
    assert "3 of 3 slides have features" in said.out
    assert "cannot be read" in said.err
    assert "extract.csv" in said.err


@pytest.mark.parametrize("file", ["preview", "features"])
def test_a_limit_on_file_size_is_reported_and_leaves_nothing(
    file: str, tiny_slides, tmp_path, extract_config, read_outcomes, store_bytes, monkeypatch
):
    if file == "features":
        monkeypatch.setattr(tissue_files, "draw_preview", lambda *_: b"small")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    config = extract_config(tiny_slides, tmp_path / "out", patch_px=32, region_px=640)
    # Large enough for the records of the run, too small for a preview or a chunk of 320 features.
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        done = extract.run(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done is False
    rows = read_outcomes(tmp_path / "out")
    assert {row["outcome"] for row in rows.values()} == {"failed"}
    assert "File too large" in rows["s0"]["detail"]
    assert ("s0.jpg" if file == "preview" else "s0.zarr") in rows["s0"]["detail"]
    assert "ulimit -f" in rows["s0"]["remedy"]
    left = store_bytes(tmp_path / "out")
    whole = {f"tissue/s{i}.{ending}" for i in range(3) for ending in ("jpg", "geojson")}
    assert set(left) == (whole if file == "features" else set())


def test_an_output_that_is_no_folder_is_an_error_before_any_work(tiny_slides, tmp_path, extract_config):
    (tmp_path / "out").touch()
    with pytest.raises(StoreError, match=r"cannot write into .* choose another --out"):
        extract.run(extract_config(tiny_slides, tmp_path / "out"))


# --- slides that are sound, but not for this run ---


def test_a_slide_coarser_than_the_target_fails_alone(
    tiny_slides, tmp_path, write_tiny_slide, extract_config, read_outcomes
):
    rows = "".join(f"s{i},{tiny_slides / f's{i}.tif'},{mpp}\n" for i, mpp in enumerate((0.5, 1.0, 0.25)))
    (tmp_path / "m.csv").write_text(f"slide_id,path,mpp\n{rows}")
    assert extract.run(extract_config(tmp_path / "m.csv", tmp_path / "out")) is False
    found = read_outcomes(tmp_path / "out")
    assert [found[f"s{i}"]["outcome"] for i in range(3)] == ["done", "failed", "done"]
    assert "upsample 2.00 times" in found["s1"]["detail"]
    assert "--target-mpp" in found["s1"]["remedy"]


def test_a_region_too_large_for_memory_fails_alone(tiny_slides, tmp_path, extract_config, read_outcomes):
    config = extract_config(
        tiny_slides, tmp_path / "out", backbone="vmamba_pico", region_px=640, memory_limit_gb=1e-3
    )
    assert extract.run(config) is False
    rows = read_outcomes(tmp_path / "out")
    assert {row["outcome"] for row in rows.values()} == {"failed"}
    assert "--region-px" in rows["s0"]["remedy"]


@pytest.mark.parametrize("name", ["../escaped", "/etc/passwd", "a/b", ".hidden", "x" * 300, "a\nb"])
def test_a_name_that_would_leave_the_folder_is_refused(name: str, tiny_slides, tmp_path, extract_config):
    from wsi_vmamba.errors import DatasetError

    (tmp_path / "m.csv").write_text(f'slide_id,path\n"{name}",{tiny_slides / "s0.tif"}\n')
    with pytest.raises(DatasetError, match="cannot name a feature file"):
        extract.run(extract_config(tmp_path / "m.csv", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_folders_that_link_in_a_circle_are_searched_once(
    tiny_slides, tmp_path, extract_config, read_outcomes
):
    (tiny_slides / "circle").symlink_to(tiny_slides)
    assert extract.run(extract_config(tiny_slides, tmp_path / "out")) is True
    assert set(read_outcomes(tmp_path / "out")) == {"s0", "s1", "s2"}


def test_the_remedy_follows_what_the_system_said():
    error = StoreError("cannot write a.zarr")
    error.__cause__ = OSError(28, "No space left on device")
    assert "free some space" in remedy_for(error)


def test_a_zip_that_is_no_slide_is_named(tiny_slides, tmp_path, extract_config, read_outcomes):
    with zipfile.ZipFile(tiny_slides / "z.zarr.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert extract.run(extract_config(tiny_slides, tmp_path / "out")) is False
    assert "a zip archive; unpack it first" in read_outcomes(tmp_path / "out")["z"]["detail"]

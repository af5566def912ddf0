from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import wsi_vmamba.store.partial_folder as partial_folder
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import IncompatibleStoreError, StoreError, UsageError
from wsi_vmamba.store import (
    FeatureMeta,
    FeatureWriter,
    check_compatible,
    is_complete,
    open_features,
    remove_stale_partials,
)

DIM = 24


def make_meta(**changes) -> FeatureMeta:
    fields = {
        "slide_id": "s1",
        "slide_path": "/slides/s1.tif",
        "reader": "tiff",
        "mpp": 0.25,
        "mpp_source": "file",
        "target_mpp": 0.5,
        "patch_px": 256,
        "patch_l0": 512.0,
        "plan": {"region_px": 10_000, "regions": [{"index": 0}]},
        "segmenter": "otsu",
        "model": "vmamba_pico",
        "weights_hash": "ab" * 32,
        "precision": "fp32",
        "versions": {"wsi-vmamba": "0.1.0"},
    }
    return FeatureMeta(**{**fields, **changes})


def make_patches(n_patches: int = 1300, seed: int = 0):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(n_patches, DIM)).astype(np.float32)
    coords_l0 = 512 * np.stack([np.arange(n_patches) % 37, np.arange(n_patches) // 37], axis=1).astype(
        np.int64
    )
    return features, coords_l0


def write(path: Path, features, coords_l0, *, step: int = 300, meta=None, overwrite: bool = False) -> None:
    with FeatureWriter(path, meta or make_meta(), DIM, overwrite=overwrite) as writer:
        for start in range(0, len(features), step):
            writer.append(features[start : start + step], coords_l0[start : start + step])
        writer.commit()


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("n_patches", [1, 511, 512, 513, 1300])
@pytest.mark.parametrize("step", [1300, 100])
def test_what_was_appended_is_read_back_in_order(tmp_path, n_patches, step):
    features, coords_l0 = make_patches(n_patches)
    write(tmp_path / "s1.zarr", features, coords_l0, step=step)
    file = open_features(tmp_path / "s1.zarr")
    assert (file.n_patches, file.dim) == (n_patches, DIM)
    np.testing.assert_array_equal(file.features, features.astype(np.float16))
    np.testing.assert_array_equal(file.coords_l0, coords_l0)
    assert file.meta == make_meta()


def test_layout_is_the_documented_one(tmp_path):
    import zarr

    write(tmp_path / "s1.zarr", *make_patches())
    group = zarr.open_group(tmp_path / "s1.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    assert group["features"].chunks == (512, DIM)
    assert group["features"].dtype == np.float16
    assert group["coords_l0"].dtype == np.int64
    assert dict(group.attrs)["weights_hash"] == "ab" * 32


def test_two_runs_give_equal_bytes_however_the_patches_arrive(tmp_path):
    patches = make_patches()
    write(tmp_path / "a" / "s1.zarr", *patches, step=1300)
    write(tmp_path / "b" / "s1.zarr", *patches, step=77)
    assert content(tmp_path / "a" / "s1.zarr") == content(tmp_path / "b" / "s1.zarr")
    assert (
        len(content(tmp_path / "a" / "s1.zarr")) == 3 + 3 + 1
    )  # three zarr.json, three chunks, one of coords


def test_nothing_has_the_final_name_before_commit_and_leaving_early_leaves_nothing(tmp_path):
    path = tmp_path / "s1.zarr"
    with FeatureWriter(path, make_meta(), DIM) as writer:
        writer.append(*make_patches())
        assert not is_complete(path)
        assert [entry.name for entry in tmp_path.iterdir()] == [
            f".s1.zarr.partial-{socket.gethostname()}-{os.getpid()}"
        ]
    assert list(tmp_path.iterdir()) == []


def interrupted(path: Path) -> None:
    with FeatureWriter(path, make_meta(), DIM) as writer:
        writer.append(*make_patches())
        raise KeyboardInterrupt


def test_an_interrupt_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "s1.zarr")
    assert list(tmp_path.iterdir()) == []


def test_no_patches_is_never_an_empty_file(tmp_path):
    with FeatureWriter(tmp_path / "s1.zarr", make_meta(), DIM) as writer:
        with pytest.raises(StoreError, match="no patch was appended"):
            writer.commit()
        writer.append(np.zeros((0, DIM), np.float32), np.zeros((0, 2), np.int64))
        with pytest.raises(StoreError, match="no patch was appended"):
            writer.commit()
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_refused_or_replaced_whole(tmp_path):
    path = tmp_path / "s1.zarr"
    write(path, *make_patches(seed=1))
    with pytest.raises(StoreError, match="--overwrite"), FeatureWriter(path, make_meta(), DIM):
        pass
    features, coords_l0 = make_patches(seed=2, n_patches=40)
    write(path, features, coords_l0, overwrite=True, meta=make_meta(precision="bf16"))
    np.testing.assert_array_equal(open_features(path).features, features.astype(np.float16))
    assert open_features(path).meta.precision == "bf16"
    assert [entry.name for entry in tmp_path.iterdir()] == ["s1.zarr"]


def test_failed_overwrite_keeps_the_old_file(tmp_path):
    path = tmp_path / "s1.zarr"
    write(path, *make_patches())
    before = content(path)
    bad = np.full((3, DIM), np.nan, np.float32)
    with pytest.raises(StoreError), FeatureWriter(path, make_meta(), DIM, overwrite=True) as writer:
        writer.append(bad, np.zeros((3, 2), np.int64))
    assert content(path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["s1.zarr"]


def test_when_another_run_was_first_its_equal_file_stays_and_a_different_one_is_reported(tmp_path):
    path = tmp_path / "s1.zarr"
    other = tmp_path / "other" / "s1.zarr"
    patches = make_patches()
    write(other, *patches)
    with FeatureWriter(path, make_meta(), DIM) as writer:
        writer.append(*patches)
        other.rename(path)
        writer.commit()
    other.parent.rmdir()
    assert [entry.name for entry in tmp_path.iterdir()] == ["s1.zarr"]

    theirs = tmp_path / "s2.zarr"
    with FeatureWriter(theirs, make_meta(target_mpp=1.0), DIM) as writer:
        writer.append(*patches)
        path.rename(theirs)
        with pytest.raises(IncompatibleStoreError, match=r"target_mpp: stored 0\.5, asked 1\.0"):
            writer.commit()
    assert [entry.name for entry in tmp_path.iterdir()] == ["s2.zarr"]


# --- settings ---


def test_same_settings_are_compatible_wherever_the_slide_lies_and_whatever_made_the_file(tmp_path):
    write(tmp_path / "s1.zarr", *make_patches())
    check_compatible(
        tmp_path / "s1.zarr", make_meta(slide_path="/moved/s1.tif", versions={"wsi-vmamba": "9"})
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_mpp": 1.0}, "target_mpp: stored 0.5, asked 1.0"),
        ({"model": "vmamba_tiny_v0"}, 'model: stored "vmamba_pico", asked "vmamba_tiny_v0"'),
        (
            {"plan": {"region_px": 5000, "regions": [{"index": 0}]}},
            "plan.region_px: stored 10000, asked 5000",
        ),
        ({"precision": "bf16"}, 'precision: stored "fp32", asked "bf16"'),
    ],
)
def test_other_settings_are_named_with_both_values(tmp_path, changes, message):
    write(tmp_path / "s1.zarr", *make_patches())
    with pytest.raises(IncompatibleStoreError, match=re.escape(f"({message})")) as caught:
        check_compatible(tmp_path / "s1.zarr", make_meta(**changes))
    assert "--out" in str(caught.value)
    assert "--overwrite" in str(caught.value)


def test_every_differing_setting_is_named(tmp_path):
    write(tmp_path / "s1.zarr", *make_patches())
    with pytest.raises(IncompatibleStoreError) as caught:
        check_compatible(tmp_path / "s1.zarr", make_meta(mpp=0.3, patch_px=512, reader="openslide"))
    for name in ("mpp: stored 0.25", "patch_px: stored 256", 'reader: stored "tiff"'):
        assert name in str(caught.value)


@pytest.mark.parametrize("changes", [{"plan": {"a": {1, 2}}}, {"mpp": float("nan")}, {"patch_px": 0}])
def test_settings_that_cannot_be_stored_are_refused_at_birth(changes):
    with pytest.raises(UsageError):
        make_meta(**changes)


# --- values ---


@pytest.mark.parametrize("value", [65504.1, -70000.0, np.inf, np.nan])
def test_what_float16_cannot_hold_is_refused_naming_the_patch(tmp_path, value):
    features, coords_l0 = make_patches(100)
    features[41, 7] = value
    with FeatureWriter(tmp_path / "s1.zarr", make_meta(), DIM) as writer:
        x_l0, y_l0 = coords_l0[41]
        where = re.escape(f"the patch at level-0 ({x_l0}, {y_l0})")
        with pytest.raises(StoreError, match=where + ".* as feature 7; 1 value.*float16"):
            writer.append(features, coords_l0)


def test_largest_float16_values_are_kept(tmp_path):
    features = np.array([[65504.0, -65504.0] + [0.0] * (DIM - 2)], np.float32)
    write(tmp_path / "s1.zarr", features, np.zeros((1, 2), np.int64))
    np.testing.assert_array_equal(open_features(tmp_path / "s1.zarr").features, features)


@pytest.mark.parametrize(
    ("features", "coords_l0"),
    [
        (np.zeros((3, DIM + 1), np.float32), np.zeros((3, 2), np.int64)),
        (np.zeros((3, DIM), np.int32), np.zeros((3, 2), np.int64)),
        (np.zeros((3, DIM), np.float32), np.zeros((2, 2), np.int64)),
        (np.zeros((3, DIM), np.float32), np.zeros((3, 2), np.float64)),
    ],
)
def test_wrong_shapes_and_types_are_refused(tmp_path, features, coords_l0):
    with (
        FeatureWriter(tmp_path / "s1.zarr", make_meta(), DIM) as writer,
        pytest.raises(UsageError, match="expected"),
    ):
        writer.append(features, coords_l0)


def test_appended_arrays_may_be_reused_by_the_caller(tmp_path):
    features, coords_l0 = make_patches(10)
    with FeatureWriter(tmp_path / "s1.zarr", make_meta(), DIM) as writer:
        kept = coords_l0.copy()
        writer.append(features.astype(np.float16), coords_l0)
        coords_l0[:] = -1
        writer.commit()
    np.testing.assert_array_equal(open_features(tmp_path / "s1.zarr").coords_l0, kept)


# --- damage ---


@pytest.mark.parametrize("array", ["features", "coords_l0"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "zero", "remove"])
def test_a_damaged_chunk_is_an_error_and_never_wrong_values(tmp_path, array, damage):
    path = tmp_path / "s1.zarr"
    write(path, *make_patches())
    chunk = path / array / "c" / "0" / "0"
    good = chunk.read_bytes()
    if damage == "remove":
        chunk.unlink()
    else:
        flipped = bytes([*good[:200], good[200] ^ 4, *good[201:]])
        chunk.write_bytes({"flip": flipped, "truncate": good[:100], "zero": b""}[damage])
    with pytest.raises(StoreError, match=f"{re.escape(str(path))} is damaged .*--overwrite"):
        getattr(open_features(path), array)


@pytest.mark.parametrize("name", ["zarr.json", "features/zarr.json", "coords_l0/zarr.json"])
@pytest.mark.parametrize("text", ["", "{", "{}", "[]", None])
def test_damaged_metadata_is_an_error(tmp_path, name, text):
    path = tmp_path / "s1.zarr"
    write(path, *make_patches(10))
    if text is None:
        (path / name).unlink()
    else:
        (path / name).write_text(text)
    with pytest.raises(StoreError, match=re.escape(str(path))):
        open_features(path)


@pytest.mark.parametrize("change", [{"shape": [10, 0]}, {"shape": [-1, DIM]}, {"chunk_grid": {}}])
def test_array_metadata_that_makes_no_sense_is_an_error(tmp_path, change):
    path = tmp_path / "s1.zarr"
    write(path, *make_patches(10))
    array = json.loads((path / "features" / "zarr.json").read_text())
    (path / "features" / "zarr.json").write_text(json.dumps({**array, **change}))
    with pytest.raises(StoreError, match="damaged"):
        open_features(path)


def test_missing_file_and_other_schema_say_what_to_do(tmp_path):
    with pytest.raises(StoreError, match=r"no feature file at .* `wsi-vmamba extract`"):
        open_features(tmp_path / "gone.zarr")
    path = tmp_path / "s1.zarr"
    write(path, *make_patches(10))
    group = json.loads((path / "zarr.json").read_text())
    for version, words in (
        (99, "schema version 2, got 99"),
        (1, r"cell_px is patch_px now.*extract the slide"),
    ):
        group["attributes"]["schema_version"] = version
        (path / "zarr.json").write_text(json.dumps(group))
        with pytest.raises(StoreError, match=words):
            open_features(path)


# --- a full disk ---


def no_space(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["chunk", "fsync", "rename"])
def test_full_disk_names_the_path_and_leaves_no_partial(tmp_path, monkeypatch, where):
    path = tmp_path / "s1.zarr"
    writer = FeatureWriter(path, make_meta(), DIM)
    with writer:
        if where == "chunk":
            monkeypatch.setattr("zarr.storage._local._put", no_space)
        else:
            monkeypatch.setattr(
                partial_folder, "sync", no_space
            ) if where == "fsync" else monkeypatch.setattr(Path, "rename", no_space)

        def write_all():
            writer.append(*make_patches())
            writer.commit()

        with pytest.raises(StoreError, match=f"cannot write {re.escape(str(path))}: no space left"):
            write_all()
        assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_really_fills_up(tiny_disk):
    path = tiny_disk / "s1.zarr"
    features, coords_l0 = make_patches(8000)
    with pytest.raises(StoreError, match="no space left"):
        write(path, features, coords_l0, step=1000)
    assert list(tiny_disk.iterdir()) == []
    with pytest.raises(StoreError, match="no space left"):
        write_atomic(tiny_disk / "big", bytes(1 << 20))
    assert list(tiny_disk.iterdir()) == []


# --- death in the middle ---

CHILD = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_store import DIM, FeatureWriter, make_patches, make_meta

    features, coords_l0 = make_patches()
    with FeatureWriter(Path(sys.argv[1]), make_meta(), DIM) as writer:
        for start in range(0, 1300, 65):
            writer.append(features[start : start + 65], coords_l0[start : start + 65])
            print(start, flush=True)
            time.sleep(float(sys.argv[2]))
        writer.commit()
    print("committed", flush=True)
"""


def start_child(path: Path, *, pause: float) -> subprocess.Popen[str]:
    code = textwrap.dedent(CHILD.format(tests=str(Path(__file__).parent)))
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(pause)], stdout=subprocess.PIPE, text=True
    )


def kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.communicate()


def partials(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if ".partial-" in entry.name]


def test_kill_in_mid_write_leaves_no_final_file_and_the_next_run_is_as_if_undisturbed(tmp_path):
    path = tmp_path / "s1.zarr"
    child = start_child(path, pause=0.05)
    while child.stdout.readline().strip() != "975":
        pass
    # The child lives: nobody may take its partial away.
    assert remove_stale_partials(tmp_path) == []
    assert partials(tmp_path) == [f".s1.zarr.partial-{socket.gethostname()}-{child.pid}"]
    kill(child)
    assert not is_complete(path)
    assert len(partials(tmp_path)) == 1

    write(path, *make_patches())
    assert partials(tmp_path) == []
    write(tmp_path / "undisturbed" / "s1.zarr", *make_patches())
    assert content(path) == content(tmp_path / "undisturbed" / "s1.zarr")


@pytest.mark.slow
def test_kill_at_random_moments_never_leaves_a_partial_under_the_final_name(tmp_path):
    write(tmp_path / "undisturbed" / "s1.zarr", *make_patches())
    whole = content(tmp_path / "undisturbed" / "s1.zarr")
    finals = 0
    for attempt, delay in enumerate(np.random.default_rng(0).uniform(0, 0.15, size=12)):
        path = tmp_path / str(attempt) / "s1.zarr"
        child = start_child(path, pause=0.001)
        child.stdout.readline()
        time.sleep(delay)
        kill(child)
        finals += is_complete(path)
        if is_complete(path):
            assert content(path) == whole
        else:
            write(path, *make_patches())
            assert content(path) == whole
        remove_stale_partials(path.parent)
        assert partials(path.parent) == []
    assert 0 < finals < 12


def stale_name(pid: int, *, host: str | None = None) -> str:
    return f".s1.zarr.partial-{host or socket.gethostname()}-{pid}"


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_discarded_partial_is_gone_though_threads_still_write_into_it(tmp_path, monkeypatch):
    """As zarr's do on a full disk: one write is reported as failed while others are on their way."""
    partial = partial_folder.PartialFolder(tmp_path / "s.zarr")
    another = threading.Event()

    def write_late():
        for number in range(50):
            target = partial.path / "features" / "c" / str(number)
            with contextlib.suppress(FileNotFoundError, FileExistsError):  # removed between two steps
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(b"late")
            another.set()

    def until_it_wrote_again(_seconds):
        """However slowly it writes; rounds of removal that find nothing begin when it is done."""
        another.clear()
        while writer.is_alive() and not another.wait(0.01):
            pass

    writer = threading.Thread(target=write_late)
    clock = SimpleNamespace(monotonic=lambda: 0.0, sleep=until_it_wrote_again)
    monkeypatch.setattr(partial_folder, "time", clock)
    writer.start()
    another.wait()
    partial.discard()
    writer.join()
    assert list(tmp_path.iterdir()) == []


def test_only_partials_of_dead_processes_of_this_host_are_removed(tmp_path):
    pid = dead_pid()
    stale = [stale_name(pid), stale_name(os.getpid()), f"{stale_name(pid)}.old"]
    kept = [
        stale_name(1) if os.getpid() != 1 else stale_name(os.getppid()),
        stale_name(pid, host="elsewhere"),
        ".git",
    ]
    for name in [*stale, *kept]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").touch()
    (tmp_path / f".model.json.partial-{socket.gethostname()}-{pid}").touch()
    removed = remove_stale_partials(tmp_path)
    assert {path.name for path in removed} == {*stale, f".model.json.partial-{socket.gethostname()}-{pid}"}
    # The old content of a file whose replacement never came is not left over: it is the only one there is.
    assert {entry.name for entry in tmp_path.iterdir()} == {*kept, "s1.zarr"}


def test_a_locked_partial_is_kept_even_when_its_pid_looks_dead(tmp_path):
    """As seen from another pid namespace on the same host."""
    folder = tmp_path / stale_name(dead_pid())
    folder.mkdir()
    fd = partial_folder._lock_folder(folder)
    assert remove_stale_partials(tmp_path) == []
    os.close(fd)
    assert remove_stale_partials(tmp_path) == [folder]


def test_one_process_does_not_write_the_same_file_twice_at_once(tmp_path):
    path = tmp_path / "s1.zarr"
    with FeatureWriter(path, make_meta(), DIM) as first:
        with pytest.raises(StoreError, match="already writing"), FeatureWriter(path, make_meta(), DIM):
            pass
        first.append(*make_patches(10))
        first.commit()
    assert open_features(path).n_patches == 10


def test_write_atomic_replaces_whole(tmp_path):
    write_atomic(tmp_path / "new" / "a.bin", b"one")
    write_atomic(tmp_path / "new" / "a.bin", b"two")
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"two"
    assert len(list((tmp_path / "new").iterdir())) == 1

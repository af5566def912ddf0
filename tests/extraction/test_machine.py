"""What the machine refuses: names, folders, shared memory, and errors of kinds that nobody foresaw."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wsi_vmamba import durable
from wsi_vmamba.cli import main
from wsi_vmamba.config import TrainConfig
from wsi_vmamba.durable import require_writable, write_atomic
from wsi_vmamba.errors import SlideError, StoreError
from wsi_vmamba.extraction import one_slide
from wsi_vmamba.extraction.dask_executor import require_semaphores
from wsi_vmamba.extraction.outcome_table import OutcomeTable
from wsi_vmamba.extraction.outcomes import failure
from wsi_vmamba.pipelines import extract, train
from wsi_vmamba.store import require_short_name
from wsi_vmamba.store.claims import take_claim
from wsi_vmamba.tissue import TissueMask


def cli(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wsi_vmamba", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=200, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def tiny(slides: Path, out: Path, *more: object) -> tuple[object, ...]:
    settings = ("--backbone", "null", "--patch-px", 64, "--region-px", 320, "--set", "segmenter=all")
    return ("extract", slides, "--out", out, *settings, *more)


# --- names ---


@pytest.mark.parametrize(
    "workers",
    [
        pytest.param((), id="one process"),
        pytest.param(("--workers", 2), id="workers", marks=pytest.mark.slow),
    ],
)
def test_a_file_name_that_is_not_utf8_fails_by_name_and_the_others_go_on(
    workers: tuple[object, ...], tiny_slides, tmp_path, read_outcomes
):
    shutil.copy(tiny_slides / "s0.tif", os.fsencode(tiny_slides) + b"/sl\xe9.tif")
    ran = cli(*tiny(tiny_slides, tmp_path / "out", *workers), cwd=tmp_path)
    rows = read_outcomes(tmp_path / "out")
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "s0": "done",
        "s1": "done",
        "s2": "done",
        "sl\\xe9": "failed",
    }, ran.stderr
    assert "is not UTF-8" in rows["sl\\xe9"]["detail"]
    assert "rename" in rows["sl\\xe9"]["remedy"]
    assert ran.returncode == 1
    assert "3 of 4 slides have features" in ran.stdout
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_a_name_that_the_locale_has_not_fails_by_name(tiny_slides, tmp_path, read_outcomes):
    folder = tmp_path / "locales"
    folder.mkdir()
    define = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")]
    if (
        shutil.which("localedef") is None
        or subprocess.run(define, capture_output=True, check=False).returncode
    ):
        pytest.skip("localedef cannot make an ISO-8859-1 locale here")
    (tmp_path / "m.csv").write_text(
        f"slide_id,path\nΩmega,{tiny_slides / 's0.tif'}\nfine,{tiny_slides / 's1.tif'}\n", encoding="utf-8"
    )
    latin = {"LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"}
    ran = cli(*tiny(tmp_path / "m.csv", tmp_path / "out"), cwd=tmp_path, **latin)
    rows = read_outcomes(tmp_path / "out")
    assert {name: row["outcome"] for name, row in rows.items()} == {"Ωmega": "failed", "fine": "done"}, (
        ran.stderr
    )
    assert "LC_ALL=C.UTF-8" in rows["Ωmega"]["detail"]
    assert ran.returncode == 1
    assert "\\u03a9mega: failed" in ran.stdout


@pytest.mark.parametrize("most", [255, 143], ids=["ext4", "eCryptfs"])
def test_a_name_too_long_for_temporary_names_fails_before_anything_is_read(
    most: int, tiny_slides, tmp_path, extract_config, read_outcomes, monkeypatch
):
    long = "n" * (most - 10)
    (tiny_slides / "s1.tif").rename(tiny_slides / f"{long}.tif")
    monkeypatch.setattr(os, "pathconf", lambda *_: most)
    monkeypatch.setattr(one_slide, "_open", lambda config, source, real=one_slide._open: real(config, source)
                        if source.slide_id != long else pytest.fail("it was read"))  # fmt: skip
    assert extract.run(extract_config(tiny_slides, tmp_path / "out")) is False
    rows = read_outcomes(tmp_path / "out")
    assert [rows[name]["outcome"] for name in ("s0", long, "s2")] == ["done", "failed", "done"]
    assert f"its name has {most - 10} bytes" in rows[long]["detail"]
    assert "slide_id in a CSV" in rows[long]["detail"]


def test_the_longest_name_that_is_allowed_is_done(tiny_slides, tmp_path, extract_config, read_outcomes):
    with pytest.raises(SlideError, match="bytes, and") as caught:
        require_short_name(tmp_path / f"{'n' * 245}.zarr", slide="n")
    most = int(str(caught.value).partition("bytes, and ")[2].split()[0])
    (tiny_slides / "s1.tif").rename(tiny_slides / f"{'n' * most}.tif")
    assert extract.run(extract_config(tiny_slides, tmp_path / "out")) is True
    assert read_outcomes(tmp_path / "out")["n" * most]["outcome"] == "done"


# --- errors of kinds that nobody foresaw ---


class OddError(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [OddError("odd\nin two lines"), RecursionError(), AssertionError("x"), UnicodeError("y"), KeyError("z")],
)
def test_an_error_of_any_class_is_its_slides_and_its_traceback_is_kept(
    error: Exception, tiny_slides, tmp_path, extract_config, read_outcomes, store_bytes, monkeypatch
):
    original = one_slide.plan_slide

    def fail_second(*values: object, slide_id: str, **more: object) -> object:
        if slide_id == "s1":
            raise error
        return original(*values, slide_id=slide_id, **more)

    config = extract_config(tiny_slides, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(one_slide, "plan_slide", fail_second)
        assert extract.run(config) is False
    rows = read_outcomes(tmp_path / "out")
    assert [rows[name]["outcome"] for name in ("s0", "s1", "s2")] == ["done", "failed", "done"]
    kept = tmp_path / "out" / "errors" / "s1.txt"
    assert type(error).__name__ in rows["s1"]["detail"]
    assert str(kept) in rows["s1"]["detail"]
    assert "\n" not in rows["s1"]["detail"]
    assert "in fail_second" in kept.read_text()
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    assert extract.run(config) is True
    assert not kept.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_meant_to_end_the_run_ends_it(error, tiny_slides, tmp_path, extract_config, monkeypatch):
    def end(*_: object, **__: object) -> TissueMask:
        raise error

    monkeypatch.setattr(one_slide, "plan_slide", end)
    with pytest.raises(error):
        extract.run(extract_config(tiny_slides, tmp_path / "out"))


def test_a_traceback_that_cannot_be_kept_is_printed(
    tiny_slides, tmp_path, extract_config, read_outcomes, monkeypatch, capsys
):
    def fail(*_: object, **__: object) -> TissueMask:
        raise OddError("odd")

    monkeypatch.setattr(one_slide, "plan_slide", fail)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "errors").touch()
    assert extract.run(extract_config(tiny_slides, tmp_path / "out")) is False
    assert "cannot be written" in read_outcomes(tmp_path / "out")["s1"]["detail"]
    assert "in fail" in capsys.readouterr().err


def test_an_endless_cause_leaves_a_table_that_can_be_read_again(tmp_path, read_outcomes):
    for name in ("a", "b"):
        table = OutcomeTable(tmp_path / "extract.csv")
        table.add(failure(name, OSError(f"sl\udce9 {'long ' * 100_000}")))
        table.save()
    assert set(read_outcomes(tmp_path)) == {"a", "b"}


# --- folders ---


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, write_tiny_slide, write_cohort) -> Path:
    """A folder with something for each command to work on."""
    import numpy as np

    folder = tmp_path_factory.mktemp("made")
    write_tiny_slide(folder / "slides" / "s0.tif")
    assert cli(*tiny(folder / "slides", folder / "f"), cwd=folder).returncode == 0
    (folder / "scores.csv").write_text("slide_id,label,p\na,1,0.9\nb,0,0.2\nc,1,0.4\nd,0,0.5\n")
    write_cohort(
        folder, lambda index, _: np.random.default_rng(index).normal(size=(2, 3, 4)).astype(np.float32),
        slides=12, train=8,
    )  # fmt: skip
    for kind in ("train", "validation"):
        for label in ("x", "y"):
            (folder / "tiles" / kind / label).mkdir(parents=True)
    (folder / "camelyon").mkdir()
    config = TrainConfig(
        dataset="csv", manifest=str(folder / "cohort.csv"), features=str(folder / "features"),
        runs=str(folder / "runs"), name="r", epochs=2,
    )  # fmt: skip
    assert train.run(config)
    (folder / "file").touch()
    return folder


#: Each command that writes, to write below a file; those of `LATER` need something else before they come to that.
WRITING = {
    "extract": ("extract", "slides", "--out", "file/x"),
    "train": ("train", "--dataset", "csv", "--manifest", "cohort.csv", "--features", "features", "--runs", "file/x"),
    "finetune": ("finetune", "tiles", "--out", "file/x"),
    "endtoend": ("endtoend", "runs/r", "--runs", "file/x"),
    "evaluate a table": ("evaluate", "--scores", "scores.csv", "--score-column", "p", "--out", "file/x"),
    "evaluate to JSON": ("evaluate", "--scores", "scores.csv", "--score-column", "p", "--json", "file/x/y.json"),
    "evaluate a run": ("evaluate", "--run", "runs/r", "--out", "file/x"),
    "compare": ("evaluate", "--scores", "scores.csv", "--compare", "p", "p", "--out", "file/x"),
    "export": ("export", "f", "--out", "file/x"),
    "check": ("check", "camelyon16", "camelyon", "--json", "file/x/y.json"),
    "demo": ("demo", "--out", "file/x"),
    "show": ("show", "f/s0.zarr", "--out", "file/x"),
    "predict": ("predict", "runs/r", "features", "--out", "file/x"),
    "pack": ("pack", "runs/r", "--out", "file/x"),
    "probe": ("probe", "tiles", "--out", "file/x"),
    "pretrain": ("pretrain", "slides", "--out", "file/x"),
    "report": ("report", "runs/r", "--out", "file/x"),
    "analyse": ("analyse", "erf", "--out", "file/x"),
    "heatmap": ("heatmap", "runs/r", "s0", "--out", "file/x"),
    "onnx": ("onnx", "--out", "file/x"),
    "synth": ("synth", "near-far", "--out", "file/x"),
}  # fmt: skip

#: A server, outlines, a model, or torchvision.
LATER = {"download", "train-segmenter", "segment", "train-detector", "detect"}


@pytest.mark.parametrize("command", WRITING)
def test_every_command_says_where_it_cannot_write_before_it_works(
    command: str, made: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(made)
    monkeypatch.setattr(sys, "argv", ["wsi-vmamba", *WRITING[command]])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    option = next(word for word in WRITING[command] if word in ("--out", "--runs", "--json"))
    said = capfd.readouterr().err
    assert "cannot write into" in said
    assert "a part of the path is a file" in said
    assert f"choose another {option}" in said


def test_every_command_that_has_a_place_to_write_is_walked_over():
    from typer.main import get_command

    from wsi_vmamba.cli import app

    writing = {
        name
        for name, command in get_command(app).commands.items()
        if {"--out", "--runs", "--json", "--to"} & {word for option in command.params for word in option.opts}
    }
    assert writing == {words[0] for words in WRITING.values()} | LATER


@pytest.fixture
def read_only(made: Path, tmp_path: Path) -> Iterator[Path]:
    share = tmp_path / "share"
    share.mkdir()
    if subprocess.run(["mount", "--bind", made, share], capture_output=True, check=False).returncode:
        pytest.skip("mounting a read-only folder needs root")
    subprocess.run(["mount", "-o", "remount,ro,bind", share], check=True)
    yield share
    subprocess.run(["umount", share], check=True)


@pytest.mark.slow
def test_a_run_on_a_read_only_share_is_judged_with_out(read_only: Path, tmp_path: Path):
    ran = cli("evaluate", "--run", read_only / "runs/r", cwd=tmp_path)
    assert (ran.returncode, "Traceback" in ran.stderr) == (1, False)
    assert "Read-only file system" in ran.stderr
    assert "choose another --out" in ran.stderr
    ran = cli("evaluate", "--run", read_only / "runs/r", "--out", tmp_path / "out", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "auc" in json.loads((tmp_path / "out" / "metrics.json").read_text())
    ran = cli("show", read_only / "f/s0.zarr", cwd=tmp_path)
    assert (ran.returncode, "choose another --out" in ran.stderr) == (1, True)
    assert cli("show", read_only / "f/s0.zarr", "--out", tmp_path, cwd=tmp_path).returncode == 0


def test_trying_a_folder_leaves_nothing(tmp_path: Path):
    require_writable(tmp_path / "a" / "b", option="--out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "link").symlink_to("nowhere/at/all")
    with pytest.raises(StoreError, match=r"link \(No such file or directory\); choose another --to"):
        require_writable(tmp_path / "link", option="--to")


@pytest.mark.parametrize("command", [("extract", "/slides"), ("info", "/a.tif"), ("doctor",), ("demo",)])
def test_a_current_folder_that_is_gone_is_said(command: tuple[str, ...], tmp_path: Path):
    code = "import os, sys; os.rmdir(os.getcwd()); from wsi_vmamba.cli import main; main()"
    (tmp_path / "gone").mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=tmp_path / "gone", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: the current folder cannot be found")


# --- file systems ---


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_a_share_that_cannot_sync_folders_is_written_all_the_same(number: int, tmp_path, monkeypatch):
    refuse_folders(monkeypatch, number)
    write_atomic(tmp_path / "file", "content")
    assert (tmp_path / "file").read_text() == "content"


def test_a_disk_that_fails_to_sync_is_not_overlooked(tmp_path, monkeypatch):
    refuse_folders(monkeypatch, errno.EIO)
    with pytest.raises(StoreError, match="Input/output error"):
        write_atomic(tmp_path / "file", "content")


def refuse_folders(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fsync: Callable[[int], None] = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(durable.os, "fsync", refuse)


def test_a_disk_without_inodes_is_told_from_one_without_space(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=3", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        for index in range(2):
            (disk / str(index)).touch()
        with pytest.raises(StoreError, match=r"no inodes left .* df -i"):
            write_atomic(disk / "file", "content")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_claim_of_another_user_is_understood(tmp_path: Path):
    """It may be read and not written; two users who share a folder share the slides all the same."""
    code = """
import os, sys
from pathlib import Path
from wsi_vmamba.errors import ClaimedError
from wsi_vmamba.store.claims import take_claim
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    take_claim(Path(sys.argv[1]))
except ClaimedError as error:
    print("claimed by", error.owner)
"""
    base = Path("/tmp") / f"wsi-vmamba-claims-{os.getpid()}"
    base.mkdir()
    try:
        base.chmod(0o777)
        with take_claim(base / "s.zarr") as claim:
            claim.path.chmod(0o444)
            ran = subprocess.run(
                [sys.executable, "-c", code, str(base / "s.zarr")],
                capture_output=True,
                text=True,
                check=False,
                cwd="/",
            )
        assert ran.stdout.startswith(f"claimed by pid {os.getpid()}"), ran.stderr
    finally:
        shutil.rmtree(base)


@pytest.mark.slow
def test_a_small_dev_shm_is_said_before_dask_starts():
    """Its own mount, seen by this process alone."""
    code = (
        f"import sys; from {require_semaphores.__module__} import require_semaphores; require_semaphores(2)"
    )
    script = f"mount -t tmpfs -o size=4k none /dev/shm && exec {sys.executable} -c '{code}'"
    ran = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "unshare" in ran.stderr or "mount:" in ran.stderr:
        pytest.skip(f"this machine gives no mounts of its own: {ran.stderr.strip()}")
    assert "no room in /dev/shm" in ran.stderr
    assert "docker run --shm-size" in ran.stderr
    require_semaphores(2)


# --- the log ---


def test_epochs_are_left_out_of_a_log_where_a_summary_will_do(made: Path, tmp_path, capsys):
    config = TrainConfig(
        dataset="csv", manifest=str(made / "cohort.csv"), features=str(made / "features"),
        runs=str(tmp_path), name="r", epochs=6,
    )  # fmt: skip
    train.run(config, log_epochs=False)
    quiet = capsys.readouterr().out
    train.run(config.model_copy(update={"overwrite": True}))
    assert len(capsys.readouterr().out.splitlines()) - len(quiet.splitlines()) == 8  # 6, a title, the columns
    assert "best epoch" in quiet


@pytest.mark.slow
def test_a_dask_configuration_that_cannot_be_read_is_named(tiny_slides, tmp_path):
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask" / "bad.yaml").write_text("distributed: [unclosed\n")
    dask = {"DASK_CONFIG": str(tmp_path / "dask")}
    ran = cli(*tiny(tiny_slides, tmp_path / "out", "--workers", 2), cwd=tmp_path, **dask)
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert "bad.yaml" in ran.stderr

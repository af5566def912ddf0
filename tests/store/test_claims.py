"""Claims: one owner at a time, none after death, judged with real processes and real locks."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import wsi_vmamba.store.claims as claims
from wsi_vmamba.errors import ClaimedError, StoreError
from wsi_vmamba.store import end_dead_claims, take_claim

HOLDER = """
import sys, time
from pathlib import Path
from wsi_vmamba.store import take_claim
claim = take_claim(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def holder(final: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the claim until it is killed."""
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(final)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()


def forge(final: Path, *, age_s: float, **changes: object) -> Path:
    """A claim as another process would have left it, last touched ``age_s`` ago."""
    path = final.with_name(f".{final.name}.claim")
    owner = {**claims.asdict(claims.this_process()), **changes}
    path.write_text(json.dumps(owner))
    then = path.stat().st_mtime - age_s
    os.utime(path, (then, then))
    return path


def test_a_living_owner_keeps_its_claim_and_a_killed_one_loses_it_at_once(tmp_path: Path):
    final = tmp_path / "s1.zarr"
    with holder(final) as child:
        with pytest.raises(ClaimedError, match=f"pid {child.pid} on "):
            take_claim(final)
        partial = tmp_path / f".s1.zarr.partial-{claims.this_process().host}-{child.pid}"
        partial.mkdir()
        (partial / "zarr.json").touch()
        child.send_signal(signal.SIGKILL)
        child.wait()
        with take_claim(final) as claim:
            assert claim.is_held
            assert [entry.name for entry in tmp_path.iterdir()] == [".s1.zarr.claim"]
            assert json.loads(claim.path.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_an_owner_that_is_dead_and_nobody_asked_for_loses_its_claim_at_once(tmp_path: Path):
    """As in a container whose first process reaps nobody; its entry in /proc stays, with its time of start."""
    final = tmp_path / "s1.zarr"
    with holder(final) as child:
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        take_claim(final).release()


def test_dead_claims_of_finished_slides_end_too(tmp_path: Path):
    dead = forge(tmp_path / "s1.zarr", age_s=0, pid=1)
    alive = forge(tmp_path / "s2.zarr", age_s=0, boot="another", host="node7")
    end_dead_claims(tmp_path)
    assert not dead.exists()
    assert alive.exists()


def test_threads_of_one_process_exclude_each_other(tmp_path: Path):
    with take_claim(tmp_path / "s1.zarr"):
        with pytest.raises(ClaimedError, match="is being processed by"):
            take_claim(tmp_path / "s1.zarr")
        take_claim(tmp_path / "s2.zarr").release()
    take_claim(tmp_path / "s1.zarr").release()


@pytest.mark.parametrize("left", ["nothing", "dead process", "other machine"])
def test_of_many_who_try_at_once_exactly_one_wins(tmp_path: Path, left: str):
    """Sixteen at a time, fifty times: a takeover with a gap would let two in."""
    at_once = threading.Barrier(16)

    def attempt(final: Path) -> claims.Claim | None:
        at_once.wait()
        try:
            return take_claim(final)
        except ClaimedError:
            return None

    with ThreadPoolExecutor(16) as pool:
        for round_ in range(50):
            final = tmp_path / f"s{round_}.zarr"
            if left == "dead process":
                forge(final, age_s=0, pid=1)
            elif left == "other machine":
                forge(final, age_s=1000, boot="another", host="node7")
            won = [claim for claim in pool.map(attempt, [final] * 16) if claim is not None]
            assert len(won) == 1
            assert won[0].is_held
            won[0].release()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_another_machine_lives_as_long_as_it_is_touched(tmp_path: Path):
    final = tmp_path / "s1.zarr"
    forge(final, age_s=claims.STALE_S - 20, boot="another", host="node7", pid=12)
    with pytest.raises(ClaimedError, match="pid 12 on node7"):
        take_claim(final)
    forge(final, age_s=claims.STALE_S + 20, boot="another", host="node7", pid=12)
    left = [tmp_path / f".s1.zarr.partial-node7-{pid}" for pid in (12, 13)]
    for folder in left:
        folder.mkdir()
    with take_claim(final) as claim:
        assert claim.is_held
    assert [folder.exists() for folder in left] == [False, True]  # 13 was not the owner


def test_what_is_no_claim_at_all_is_held_until_it_is_old(tmp_path: Path):
    path = tmp_path / ".s1.zarr.claim"
    path.touch()
    with pytest.raises(ClaimedError, match="an unknown process"):
        take_claim(tmp_path / "s1.zarr")
    os.utime(path, (0, 0))
    take_claim(tmp_path / "s1.zarr").release()


def test_a_held_claim_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.02)
    with take_claim(tmp_path / "s1.zarr") as claim:
        os.utime(claim.path, (0, 0))
        done = threading.Event()
        while not claim.path.stat().st_mtime:
            assert not done.wait(0.01)
    assert threading.active_count() == len(threading.enumerate())
    assert "claim" not in {thread.name for thread in threading.enumerate()}


def test_a_claim_that_was_taken_away_is_noticed_and_left_to_its_new_owner(tmp_path: Path):
    claim = take_claim(tmp_path / "s1.zarr")
    claim.path.unlink()
    with take_claim(tmp_path / "s1.zarr") as other:
        assert not claim.is_held
        claim.release()
        assert other.is_held


def no_locks(*_: object) -> None:
    raise OSError(38, "Function not implemented")


def test_without_locks_the_process_table_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    final = tmp_path / "s1.zarr"
    with take_claim(final), pytest.raises(ClaimedError):
        take_claim(final)
    forge(final, age_s=0, started="12345")  # our pid, given to another process before
    take_claim(final).release()


@pytest.mark.parametrize("host", [None, "pod-7"])
def test_a_lock_that_two_mounts_do_not_share_takes_nothing_from_the_living(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str | None
):
    """As on a FUSE share mounted twice on one machine, here or in another container: both may have the lock."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    final = tmp_path / "s1.zarr"
    with take_claim(final) as claim:
        if host is not None:
            forge(final, age_s=0, host=host, pid=2**22 + 1)
        with pytest.raises(ClaimedError):
            take_claim(final)
        assert claim.is_held
        forge(final, age_s=claims.STALE_S + 20)
        with take_claim(final) as other:
            assert other.is_held


def test_without_hard_links_a_claim_is_exclusive_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_links(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    with take_claim(tmp_path / "s1.zarr") as claim:
        assert claim.is_held
        with pytest.raises(ClaimedError):
            take_claim(tmp_path / "s1.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot claim .*s1\.zarr: File exists"):
        take_claim(tmp_path / "file" / "s1.zarr")


def test_the_error_survives_a_trip_between_processes():
    error = pickle.loads(pickle.dumps(ClaimedError("a.zarr", "pid 3 on node7")))
    assert (error.path, error.owner) == ("a.zarr", "pid 3 on node7")

"""What is kept of a slide: whole regions only, whatever tore or rotted, and only those this run would make."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from wsi_vmamba.errors import StoreError
from wsi_vmamba.store import DoneRegion, count_kept, journal, open_journal
from wsi_vmamba.store.journal import journal_path

DIM = 3
N_PATCHES = [2, 9, 1, 4]
FACTS = {"model": "null", "plan": {"patch_px": 64}}


def region(index: int, *, sound: bool = True) -> DoneRegion:
    generator = np.random.default_rng(index)
    mask = np.ones(N_PATCHES[index], np.bool_)
    mask[0] = sound
    return DoneRegion(
        index=index,
        sound=mask,
        features=generator.normal(size=(int(mask.sum()), DIM)).astype(np.float16),
        damage=[] if sound else [[0, 64, 128, 64, 64, "rötten"]],
    )


def same(a: DoneRegion, b: DoneRegion) -> bool:
    return (
        a.index == b.index
        and np.array_equal(a.sound, b.sound)
        and a.features.tobytes() == b.features.tobytes()
        and a.features.shape == b.features.shape
        and a.damage == b.damage
    )


@pytest.fixture
def final(tmp_path: Path) -> Path:
    return tmp_path / "s1.zarr"


def begin(final: Path, said: list[str] | None = None, **facts: object):
    say = (said if said is not None else []).append
    return open_journal(final, {**FACTS, **facts}, n_patches=N_PATCHES, dim=DIM, say=say)


def fill(final: Path, *indices: int) -> list[int]:
    """Keep some regions; gives the length of the file after each of them."""
    kept = begin(final)
    lengths = [journal_path(final).stat().st_size]
    for index in indices:
        kept.append(region(index, sound=index != 1))
        lengths.append(journal_path(final).stat().st_size)
    kept.close()
    return lengths


def usable(final: Path, said: list[str] | None = None) -> set[int]:
    """Which regions a next run has, each with the values that were kept."""
    kept = begin(final, said)
    found = {index for index in range(len(N_PATCHES)) if index in kept}
    for index in found:
        assert same(kept.read(index), region(index, sound=index != 1))
    kept.close()
    return found


def test_what_is_kept_comes_back_the_same(final: Path):
    fill(final, 2, 0, 1)
    said: list[str] = []
    assert usable(final, said) == {0, 1, 2}
    assert said == ["goes on: 3 of 4 regions are already there"]
    assert str(count_kept(final)) == "3 of 4 regions"


def test_cut_anywhere_the_whole_regions_before_the_cut_are_used(final: Path):
    lengths = fill(final, 2, 0, 1)
    whole = journal_path(final).read_bytes()
    order = [2, 0, 1]
    for length in range(len(whole)):
        journal_path(final).write_bytes(whole[:length])
        n_whole = max(sum(end <= length for end in lengths) - 1, 0)
        assert usable(final) == set(order[:n_whole]), length


def test_one_flipped_bit_costs_at_most_what_it_touches_and_is_never_used(final: Path):
    fill(final, 2, 0, 1)
    whole = journal_path(final).read_bytes()
    for place in range(len(whole)):
        journal_path(final).write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        assert len(usable(final)) < 3, place


def test_a_rotten_region_is_told_and_those_after_it_are_used(final: Path):
    lengths = fill(final, 2, 0, 1)
    with journal_path(final).open("r+b") as file:
        file.seek(lengths[2] - 1)  # the last byte of region 0
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    said: list[str] = []
    assert usable(final, said) == {1, 2}
    assert said[0] == "1 region(s) that were kept are damaged on disk and are computed again"


def test_damage_that_comes_while_the_file_is_in_use_is_an_error(final: Path):
    kept = begin(final)
    kept.append(region(0))
    with journal_path(final).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    with pytest.raises(StoreError, match=r"region 0 is damaged on the disk"):
        kept.read(0)
    kept.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vmamba_pico"}, 'model: stored "null", asked "vmamba_pico"'),
        ({"plan": {"patch_px": 32}}, "plan.patch_px: stored 64, asked 32"),
        ({"more": 1}, "more: stored null, asked 1"),
    ],
)
def test_regions_made_of_something_else_are_removed_with_a_word(final: Path, changes, message):
    fill(final, 2, 0)
    said: list[str] = []
    kept = begin(final, said, **changes)
    assert len(kept) == 0
    assert said == [f"starts again: the 2 region(s) that were kept belong to something else ({message})"]
    kept.close()
    assert list(final.parent.iterdir()) == []


def test_who_was_only_suspended_writes_nowhere_and_removes_nothing_of_its_successor(final: Path):
    suspended = begin(final)
    suspended.append(region(2))
    successor = begin(final)
    successor.append(region(0))
    suspended.append(region(3))
    suspended.discard()
    successor.close()
    assert usable(final) == {0, 2}


def test_nothing_kept_leaves_nothing(final: Path):
    begin(final).close()
    assert list(final.parent.iterdir()) == []
    fill(final, 1)
    assert [entry.name for entry in final.parent.iterdir()] == [".s1.zarr.regions"]
    begin(final).discard()
    assert list(final.parent.iterdir()) == []


def test_a_full_disk_keeps_the_whole_regions(final: Path, monkeypatch: pytest.MonkeyPatch):
    kept = begin(final)
    kept.append(region(0))
    write_all = journal.write_all

    def half(file, content: bytes) -> None:
        write_all(file, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal, "write_all", half)
    with pytest.raises(StoreError, match="no space left"):
        kept.append(region(1))
    monkeypatch.undo()
    kept.append(region(2))  # room was made meanwhile
    kept.close()
    assert usable(final) == {0, 2}


def test_a_disk_that_is_full_from_the_start_leaves_no_file(final: Path, monkeypatch: pytest.MonkeyPatch):
    fill(final, 0)
    before = journal_path(final).read_bytes()

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal, "write_all", no_space)
    with pytest.raises(StoreError, match=r"cannot write .*s1\.zarr: no space left"):
        begin(final)
    assert journal_path(final).read_bytes() == before
    assert [entry.name for entry in final.parent.iterdir()] == [".s1.zarr.regions"]


def test_the_disk_is_waited_for_once_a_second_at_most(final: Path, monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    synced: list[float] = []
    monkeypatch.setattr(journal.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(journal.os, "fsync", lambda _: synced.append(clock[0]))
    kept = begin(final)
    for index, now_s in enumerate((0.1, 0.2, 1.5, 1.6)):
        clock[0] = now_s
        kept.append(region(index))
    assert synced == [1.5]
    kept.close()
    assert synced == [1.5, 1.6]


def test_a_name_of_any_length_has_a_journal(tmp_path: Path):
    final = tmp_path / ("x" * 245 + ".zarr")
    fill(final, 0, 1)
    assert usable(final) == {0, 1}

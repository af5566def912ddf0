"""A folder of tensors on the disk that a forward pass is too large for memory without, and goes on from after a kill.

A file appears whole, by renaming, or not at all, which is what survives the death of the process. A power cut is
another matter: what has not reached the disk by then is lost behind names that are there, so a scratch of before the
machine was started last is thrown away instead of being synced at every strip.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.durable import describe_os_error
from wsi_vmamba.errors import StoreError

#: What its files depend on; without it a folder is of no use.
_FACTS = "facts.json"
_MARK = ".scratch-"
_UNFINISHED = ".part"


class Scratch:
    """The files of one forward pass; opened by `open_scratch`, used by one process."""

    def __init__(self, folder: Path, *, resumed: bool) -> None:
        """Take over a folder; ``resumed`` says whether another process began it."""
        self.folder = folder
        self.resumed = resumed

    def write(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Write contiguous tensors one after another, under that name when all are there.

        Raises:
            StoreError: the disk refuses.
        """
        self._write(name, [bytes_of(tensor) for tensor in tensors])

    def write_json(self, name: str, values: object) -> None:
        """Write plain values likewise."""
        self._write(name, [memoryview(json.dumps(values, sort_keys=True).encode())])

    def read(self, name: str, into: Sequence[Tensor]) -> None:
        """Fill contiguous tensors with what `write` wrote.

        Raises:
            StoreError: the file is not as it was written.
        """
        with self._open(name) as file:
            for tensor in into:
                self._fill(file, tensor, name)

    def read_part(self, name: str, into: Tensor, *, offset: int) -> None:
        """Fill one tensor with the bytes of a file from ``offset`` on."""
        with self._open(name) as file:
            file.seek(offset)
            self._fill(file, into, name)

    def read_json(self, name: str) -> Any:
        """What `write_json` wrote; None where it wrote nothing."""
        path = self.folder / name
        return json.loads(path.read_bytes()) if path.exists() else None

    def open_random(self, name: str) -> int:
        """A file descriptor for reading and writing at any place; such a file is whole only when its user says so."""
        try:
            return os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise self.failure(error) from error

    def has(self, name: str) -> bool:
        """Whether a file is there, whole."""
        return (self.folder / name).exists()

    def drop(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    def drop_all(self, keep: Callable[[str], bool]) -> None:
        """Remove all files but those that ``keep`` wants, and its facts."""
        for path in self.folder.iterdir():
            if path.name != _FACTS and not keep(path.name):
                path.unlink()

    def held_bytes(self) -> int:
        """Bytes of its files now; those that come or go meanwhile may or may not be counted."""
        total = 0
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def remove(self) -> None:
        """Remove the folder and what is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def failure(self, error: OSError) -> StoreError:
        """What to say of a refusal of the disk."""
        return StoreError(
            f"cannot use the scratch folder {self.folder} ({describe_os_error(error, folder=self.folder.parent)}); "
            "what is done is kept: make room and run the same command again, or choose another --scratch"
        )

    def _write(self, name: str, pieces: Sequence[memoryview]) -> None:
        path = self.folder / name
        temporary = path.with_name(name + _UNFINISHED)
        try:
            with temporary.open("wb", buffering=0) as file:
                for piece in pieces:
                    while piece:
                        piece = piece[file.write(piece) :]
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise self.failure(error) from error

    def _open(self, name: str) -> BinaryIO:
        try:
            return (self.folder / name).open("rb", buffering=0)
        except OSError as error:
            raise self.failure(error) from error

    def _fill(self, file: BinaryIO, tensor: Tensor, name: str) -> None:
        left = bytes_of(tensor)
        try:
            while left:
                count = file.readinto(left)  # type: ignore[attr-defined]
                if not count:
                    raise StoreError(
                        f"{self.folder / name} is shorter than it was written; remove {self.folder} and run again"
                    )
                left = left[count:]
        except OSError as error:
            raise error if isinstance(error, StoreError) else self.failure(error) from error


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    flat: NDArray[np.uint8] = tensor.detach().view(-1).view(torch.uint8).numpy()
    return flat.data


def open_scratch(parent: Path, name: str, facts: Mapping[str, Any], *, say: Callable[[str], None]) -> Scratch:
    """Go on with the scratch of a dead process that had the same facts, or begin one; others of that name are removed.

    The folder gets another name when it is taken over: a process that was only suspended finds nothing to write into.
    The caller sees to it that no other process works under ``name``.

    Args:
        parent: where it lies; made if need be.
        name: whose it is.
        facts: what its content depends on, as JSON values.
        say: takes a line about what was found.

    Raises:
        StoreError: the disk refuses.
    """
    wanted = json.loads(
        json.dumps({**facts, "machine": socket.gethostname(), "started": _start_of_machine()})
    )
    fresh = parent / f".{name}{_MARK}{secrets.token_hex(4)}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        resumed = False
        for old in scratch_folders(parent, name):
            if not resumed and _read_facts(old) == wanted:
                old.rename(fresh)
                resumed = True
            else:
                say(
                    f"removed {old}, which belongs to something else or was cut off by a restart of the machine"
                )
                shutil.rmtree(old)
        scratch = Scratch(fresh, resumed=resumed)
        if resumed:
            scratch.drop_all(lambda file: not file.endswith(_UNFINISHED))
            return scratch
        fresh.mkdir(mode=0o700)
        scratch.write_json(_FACTS, wanted)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"cannot make a scratch folder in {parent} ({describe_os_error(error, folder=parent)}); choose another "
            "with --scratch"
        ) from error
    return scratch


def scratch_folders(parent: Path, name: str) -> list[Path]:
    """The scratch folders of that name, whoever made them."""
    start = f".{name}{_MARK}"
    try:
        return sorted(path for path in parent.iterdir() if path.name.startswith(start))
    except FileNotFoundError:
        return []


def remove_scratch(parent: Path, name: str) -> None:
    """Remove the scratch folders of that name."""
    for folder in scratch_folders(parent, name):
        shutil.rmtree(folder, ignore_errors=True)


def require_space(scratch: Scratch, needed: int) -> str:
    """Refuse a pass that the disk has no room for; else say in words what it will take.

    Raises:
        StoreError: there is less room.
    """
    free = shutil.disk_usage(scratch.folder).free + scratch.held_bytes()
    where = f"{needed / 1e9:.2f} GB of scratch in {scratch.folder.parent}, where {free / 1e9:.1f} GB are free"
    if needed > free:
        raise StoreError(
            f"needs {where}; choose a larger disk with --scratch, --precision bf16 (half of it), or a smaller "
            "--region-px"
        )
    return f"up to {where}"


def _read_facts(folder: Path) -> object:
    try:
        return json.loads((folder / _FACTS).read_bytes())
    except (OSError, ValueError):
        return None


def _start_of_machine() -> str:
    """When the machine was started, as a name that changes with every start."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))

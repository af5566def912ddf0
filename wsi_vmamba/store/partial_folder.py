"""Folders that are whole or absent, as feature files are; and the removal of what dead processes left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

from wsi_vmamba.durable import active_lock, active_partials, partial_mark, partial_name, sync, sync_folder
from wsi_vmamba.errors import StoreError

_PATIENCE_S = 5.0


class PartialFolder:
    """A folder under a temporary name beside its final one; `publish` renames it, `discard` removes it.

    The name is ``.<final name>.partial-<host>-<pid>``. An exclusive flock on the folder lives as long as the
    process, so that no other process, not even one in another pid namespace, takes it for stale.
    """

    def __init__(self, final: Path) -> None:
        """Create the folder, after removing stale ones of the same final name.

        Raises:
            StoreError: this process is already writing the same file.
            OSError: the folder cannot be created.
        """
        self.final = final
        self.path = final.with_name(partial_name(final))
        self._lock_fd: int | None = None
        final.parent.mkdir(parents=True, exist_ok=True)
        with active_lock:
            if self.path in active_partials:
                raise StoreError(
                    f"{final}: this process is already writing it; write each slide once per run"
                )
            _remove_stale(final.parent, prefix=f".{final.name}.partial-")
            self.path.mkdir()
            active_partials.add(self.path)
        self._lock_fd = _lock_folder(self.path)

    def publish(self, *, replace: bool) -> None:
        """Make the content durable and give it its final name.

        Args:
            replace: put it in the place of an existing final folder instead of failing.

        Raises:
            OSError: out of space, or (errno ENOTEMPTY or EEXIST) the final name is taken.
        """
        _sync_tree(self.path)
        if replace and self.final.exists():
            # Renamed first, so that the final name is never on a folder that is being deleted.
            old = self.path.with_name(f"{self.path.name}.old")
            self.final.rename(old)
            self.path.rename(self.final)
            _remove(old)
        else:
            self.path.rename(self.final)
        sync_folder(self.final.parent)
        self._release()

    def discard(self) -> None:
        """Remove the folder and all in it; safe to call again, and after `publish`."""
        if self.path in active_partials:
            _remove_from_writers(self.path)
        self._release()

    def _release(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None
        with active_lock:
            active_partials.discard(self.path)


def remove_stale_partials(folder: Path) -> list[Path]:
    """Remove the partial feature files that dead processes of this host left in ``folder``; return them.

    One whose process lives, or that another host made, is left alone. A whole feature file that was being
    replaced when its process died gets its name back.
    """
    with active_lock:
        return _remove_stale(folder, prefix=".")


def remove_partials_of(final: Path, *, host: str, pid: int) -> None:
    """Remove what a process that is known to be dead, here or on another host, left of ``final``."""
    left = final.with_name(f".{final.name}.partial-{host.replace('/', '_')}-{pid}")
    with active_lock:
        if left not in active_partials:
            _clear(left)
            _clear(left.with_name(f"{left.name}.old"))


def _remove_stale(folder: Path, *, prefix: str) -> list[Path]:
    mark = partial_mark()
    removed = []
    for path in sorted(folder.glob(f"{_escape(prefix)}*")):
        _, found, tail = path.name.removesuffix(".old").rpartition(mark)
        pid = tail.partition("-")[0]
        if found and pid.isdecimal() and path not in active_partials and _is_stale(path, int(pid)):
            _clear(path)
            removed.append(path)
    return removed


def _clear(path: Path) -> None:
    """Remove a leftover; the old content of a file whose replacement never came is put back."""
    final = path.with_name(path.name[1:].rpartition(".partial-")[0])
    if path.name.endswith(".old") and path.is_dir() and not final.exists():
        path.rename(final)
    else:
        _remove(path)


def _escape(prefix: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in prefix)


def _is_stale(path: Path, pid: int) -> bool:
    if pid != os.getpid() and _is_alive(pid):
        return False
    try:
        fd = _lock_folder(path)
    except BlockingIOError:
        return False
    if fd is not None:
        os.close(fd)
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _lock_folder(path: Path) -> int | None:
    """Lock a folder or file for the life of the process; return the descriptor, None where there are no locks.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise
    except OSError:  # NFS and some FUSE file systems; there the pid alone has to decide
        os.close(fd)
        return None
    return fd


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_from_writers(folder: Path) -> None:
    """Remove a folder into which threads may write still, each making the folders that it lacks.

    zarr writes many chunks at once; the first that fails is reported while the others go on. What is written after
    `_PATIENCE_S` all the same, the next run removes.
    """
    until = time.monotonic() + _PATIENCE_S
    gone_for = 0
    while gone_for < 3 and time.monotonic() < until:
        gone_for = gone_for + 1 if not folder.exists() else 0
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.01)


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            sync(Path(root) / name)
        sync_folder(Path(root))

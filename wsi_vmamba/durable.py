"""Files that are whole or absent: written under a temporary name that says whose it is, then renamed."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import os
import secrets
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock

from wsi_vmamba.errors import StoreError
from wsi_vmamba.text import ESCAPED, printable

#: Partials this process is writing now; a partial with our pid that is not here is of a dead process whose
#: pid we were given, as happens to pid 1 in containers.
active_partials: set[Path] = set()
active_lock = Lock()


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader, now or after a crash, sees the old content or the new, never a part.

    Args:
        path: its final name; the folder is made.
        content: all of it; text becomes UTF-8, and what that cannot hold (a name with odd bytes) escapes.

    Raises:
        StoreError: the disk is full or the folder cannot be written; the temporary file is gone.
    """
    # Unlike `partial_name` alone, also good for two threads that write the same file.
    temporary = path.with_name(f"{partial_name(path)}-{secrets.token_hex(4)}")
    with active_lock:
        active_partials.add(temporary)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content.encode(errors=ESCAPED) if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {describe_os_error(error, folder=path.parent)}") from error
    finally:
        # Only there where something failed, or Ctrl-C came.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        with active_lock:
            active_partials.discard(temporary)


def require_writable(folder: Path, *, option: str) -> None:
    """Try whether files can be written into a folder, so that nothing is computed that cannot be kept.

    A folder that is not there yet is not made; where it would be made is tried.

    Args:
        folder: where files will be written.
        option: the option that chooses another one, such as ``--out``.

    Raises:
        StoreError: they cannot.
    """
    try:
        places = (folder.absolute(), *folder.absolute().parents)
        there = next(place for place in places if os.path.lexists(place))
        probe = there / f"{partial_name(Path('probe'))}-{secrets.token_hex(4)}"
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        probe.unlink()
    except OSError as error:
        raise StoreError(cannot_write_into(folder, error, option=option)) from error


def cannot_write_into(folder: Path, error: OSError, *, option: str) -> str:
    """Say that a folder cannot be written, why, and what to do."""
    return (
        f"cannot write into {printable(str(folder.absolute()))} ({describe_os_error(error, folder=folder)}); choose "
        f"another {option}, or make room or permission there"
    )


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as the text of a CSV file, for `write_atomic`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def partial_name(final: Path) -> str:
    """Temporary name, in the same folder, of what this process is making under the name of ``final``.

    It says whose it is, so that a later run can remove what a dead process left.
    """
    return f".{final.name}{partial_mark()}{os.getpid()}"


def partial_mark() -> str:
    """What stands between the final name and the pid in the temporary names of this host."""
    return f".partial-{socket.gethostname().replace('/', '_') or 'localhost'}-"


def describe_os_error(error: OSError, *, folder: Path | None = None) -> str:
    """Say in words what went wrong with a write, with the remedy where there is one.

    Args:
        error: what the system said.
        folder: where it was written to, to tell a disk without space from one without inodes.
    """
    if error.errno == errno.ENOSPC and folder is not None and _lacks_inodes(folder):
        return (
            f"no inodes left ({error.strerror}, but df -i says that no more files fit); remove files or choose another "
            "--out, then run again"
        )
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"no space left ({error.strerror}); free some or choose another --out, then run again"
    if error.errno == errno.ENOTDIR:
        return f"{error.strerror}: a part of the path is a file"
    return error.strerror or str(error)


def _lacks_inodes(folder: Path) -> bool:
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_files > 0 and found.f_ffree == 0 and found.f_bavail > 0


def sync_folder(path: Path) -> None:
    """Have the names in a folder reach the disk, as far as its file system can do that.

    Raises:
        OSError: it can, and failed.
    """
    try:
        sync(path)
    except OSError as error:
        # Shares (SMB, 9p, some FUSE) know no fsync of folders, and a drop box may not be opened for reading.
        if error.errno not in {
            errno.EINVAL,
            errno.ENOTSUP,
            errno.ENOSYS,
            errno.EBADF,
            errno.EISDIR,
            errno.EACCES,
        }:
            raise


def sync(path: Path) -> None:
    """Have a file reach the disk.

    Raises:
        OSError: it cannot.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

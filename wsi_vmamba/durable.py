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

#: Partials this process is writing now; a partial with our pid that is not here is of a dead process whose
#: pid we were given, as happens to pid 1 in containers.
active_partials: set[Path] = set()
active_lock = Lock()


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader, now or after a crash, sees the old content or the new, never a part.

    Args:
        path: its final name; the folder is made.
        content: all of it; text becomes UTF-8.

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
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {describe_os_error(error)}") from error
    finally:
        # Only there where something failed, or Ctrl-C came.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        with active_lock:
            active_partials.discard(temporary)


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


def describe_os_error(error: OSError) -> str:
    """Say in words what went wrong with a write, with the remedy where there is one."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"no space left ({error.strerror}); free some or choose another --out, then run again"
    return error.strerror or str(error)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk.

    Raises:
        OSError: it cannot.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""Claims: which run is at work on a slide, so that runs over one folder share the work and none does it twice.

A claim is a small file beside the feature file, ``.<name>.claim``, made exclusively, with the host and pid of its
owner. It ends with its owner, however that ends:

- The owner holds an flock on it, which the kernel drops when the process dies, also by kill -9. Who cannot have the
  lock knows that the owner lives; who can, asks the process table, which settles the matter at once on one machine.
- The owner touches it every `HEARTBEAT_S`. From another machine or container, whose locks and processes may not be
  seen here, a claim counts as dead when it was not touched for `STALE_S`, by the clock of the file system and nobody
  else's.

Whoever takes over a dead claim holds the lock of the old file while it puts its own in that place, so that of many
who try, one succeeds. Where a file system has no locks, two may succeed in the instant of a takeover; they would do
the same work twice, and the feature file would still be published once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from wsi_vmamba.durable import describe_os_error, partial_name
from wsi_vmamba.errors import ClaimedError, SlideNameError, StoreError
from wsi_vmamba.store.partial_folder import remove_partials_of

#: Seconds between two touches of a claim.
HEARTBEAT_S = 10.0
#: Seconds without a touch after which a claim of another machine is dead.
STALE_S = 120.0
#: Someone else may be quicker a few times in a row; more often means that something is wrong with the folder.
_ATTEMPTS = 100


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that made a claim.

    Attributes:
        host: its host name.
        pid: its process id there.
        boot: id of that machine's current boot, the same in all its containers; empty where there is none.
        started: when the process started, in the kernel's own count; empty where that is not told.
    """

    host: str
    pid: int
    boot: str
    started: str

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


class Claim:
    """A slide that this process works on; made by `take_claim`, ended by `release` or by leaving ``with``."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Begin to touch the claim file ``path``, open and locked as ``descriptor``."""
        self.path = path
        self._descriptor = descriptor
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="claim", daemon=True)
        self._heart.start()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            # A file server that is away for a while must not end the run; the next touch may reach it.
            with contextlib.suppress(OSError):
                os.utime(self._descriptor)

    @property
    def is_held(self) -> bool:
        """Whether the claim is still ours; another machine may have taken it where this one was suspended."""
        return not self._ended.is_set() and _is_at(self.path, self._descriptor)

    def release(self) -> None:
        """Give the slide free; again does nothing."""
        if self._ended.is_set():
            return
        held = self.is_held
        self._ended.set()
        self._heart.join()
        # What cannot be removed now counts as dead when it is old, or this process gone.
        with contextlib.suppress(OSError):
            if held:
                self.path.unlink()
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def claim_path(final: Path) -> Path:
    """Where the claim of a feature file lies."""
    return final.with_name(f".{final.name}.claim")


def take_claim(final: Path) -> Claim:
    """Claim the feature file ``final`` for this process.

    A claim whose owner is dead is taken over, and the partial folder of that owner removed.

    Raises:
        ClaimedError: another run that is alive is processing it.
        StoreError: the folder cannot be written.
    """
    path = claim_path(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        candidate = _candidate(path)
        descriptor = _write(candidate)
        try:
            for _ in range(_ATTEMPTS):
                if _link(candidate, path, descriptor) or _take_over(candidate, path, final):
                    return Claim(path, descriptor)
            raise StoreError(
                f"{path}: could not be claimed in {_ATTEMPTS} attempts; remove it if no run uses it"
            )
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            candidate.unlink(missing_ok=True)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot claim {final}: {describe_os_error(error)}") from error


def require_short_name(final: Path, *, slide: object) -> None:
    """Refuse a name that leaves no room for those of the temporary files that go with it.

    Raises:
        SlideNameError: saying how long a name may be there.
    """
    try:
        most = os.pathconf(final.parent, "PC_NAME_MAX")
    except (OSError, ValueError):  # not told; then the first write decides
        return
    excess = len(os.fsencode(_candidate(claim_path(final)).name)) - most
    if excess > 0:
        length = len(os.fsencode(final.stem))
        raise SlideNameError(
            slide,
            f"its name has {length} bytes, and {length - excess} are the most that leave room for temporary names in "
            f"{final.parent}, where names have at most {most}; rename it, or give a shorter slide_id in a CSV",
        )


def _candidate(claim: Path) -> Path:
    """A name of its own for a claim to be; the longest of all temporary names."""
    return claim.with_name(f"{partial_name(claim)}-{secrets.token_hex(4)}")


def end_dead_claims(folder: Path) -> None:
    """Remove the claims, and with them the partial feature files, that dead runs left in a folder.

    Raises:
        StoreError: the folder cannot be written.
    """
    for path in sorted(folder.glob(".*.claim")):
        with contextlib.suppress(ClaimedError):
            take_claim(path.with_name(path.name.removeprefix(".").removesuffix(".claim"))).release()


def _write(candidate: Path) -> int:
    """Write a claim under a name of its own, complete and locked before anyone can see it as a claim."""
    descriptor = os.open(candidate, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, json.dumps(asdict(this_process())).encode())
        _lock(descriptor)
    except BaseException:
        os.close(descriptor)
        candidate.unlink(missing_ok=True)
        raise
    return descriptor


def _link(candidate: Path, path: Path, descriptor: int) -> bool:
    """Give the candidate the claim's name if nothing has it."""
    try:
        os.link(candidate, path)
    except FileExistsError:
        # A network file system may have done it and lost the answer.
        return _is_at(path, descriptor)
    except OSError:  # no hard links here, as on some FUSE and Windows shares
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o644))
            candidate.replace(path)
            return True
        return False
    return True


def _take_over(candidate: Path, path: Path, final: Path) -> bool:
    """Put the candidate in the place of a dead claim; False where the claim changed meanwhile.

    Raises:
        ClaimedError: the claim is alive.
    """
    try:
        old = _open_claim(path)
    except FileNotFoundError:
        return False
    try:
        free = _lock(old)
        owner = _read_owner(old)
        if free and not _is_at(path, old):
            return False
        if not free or not _is_dead(owner, age_s=_age_s(old, candidate)):
            raise ClaimedError(final, str(owner or "an unknown process"))
        candidate.replace(path)
    finally:
        os.close(old)
    if owner is not None:
        remove_partials_of(final, host=owner.host, pid=owner.pid)
    return True


def _open_claim(path: Path) -> int:
    """Open somebody's claim to lock and read it; one of another user may not be written, which only NFS wants."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _is_dead(owner: Owner | None, *, age_s: float) -> bool:
    """Judge a claim whose lock we got, or that lies where there are none.

    The lock alone proves nothing: some network file systems keep locks per mount, and one machine may have several.
    """
    if age_s > STALE_S:
        return True
    here = this_process()
    if owner is None or not here.boot or (owner.boot, owner.host) != (here.boot, here.host):
        return False  # its process table is not ours
    return owner.started != _start_of(owner.pid)


def _age_s(descriptor: int, candidate: Path) -> float:
    """Seconds since a claim was touched; the file server's clock gives both times."""
    os.utime(candidate)
    return candidate.stat().st_mtime - os.fstat(descriptor).st_mtime


def _read_owner(descriptor: int) -> Owner | None:
    """None where the file is no claim, or not written yet."""
    try:
        return Owner(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _lock(descriptor: int) -> bool:
    """Lock for the life of the descriptor, where there are locks; False where another holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # any but BlockingIOError: no locks here
        return not isinstance(error, BlockingIOError)
    return True


def this_process() -> Owner:
    """What a claim of this process says."""
    pid = os.getpid()
    boot = _text(Path("/proc/sys/kernel/random/boot_id"))
    return Owner(host=socket.gethostname(), pid=pid, boot=boot, started=_start_of(pid))


def _start_of(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty where there is no such process, or no /proc.

    A process that is dead and that its parent has not asked for yet is none: in containers nobody may ever ask.
    """
    # Fields 3 (the state) and 22; the name in field 2 may hold anything, so count from the bracket that ends it.
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in {"Z", "X"} else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

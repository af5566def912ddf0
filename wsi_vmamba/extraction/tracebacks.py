"""Tracebacks of errors that nobody foresaw: one file a slide, ``errors/<slide_id>.txt``, which the outcome names."""

from __future__ import annotations

import traceback
from contextlib import suppress
from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.provenance import now_utc, package_versions

#: Folder beside the feature files.
FOLDER = "errors"


def keep_traceback(out: Path, slide_id: str, error: BaseException) -> str:
    """Write what is known of an error into the output folder; return a few words on where it is.

    Where no file can be written the traceback goes to standard error instead.
    """
    path = out / FOLDER / f"{slide_id}.txt"
    versions = "".join(f"{name} {version}\n" for name, version in package_versions().items())
    trace = "".join(traceback.format_exception(error))
    try:
        write_atomic(path, f"{slide_id}\n{now_utc()}\n\n{trace}\n{versions}")
    except (OSError, ValueError) as refusal:  # a ValueError where the name cannot be that of a file
        console.warn(f"{slide_id}: {trace}")
        return f"traceback on standard error, as {FOLDER}/ cannot be written: {refusal}"
    return f"traceback in {path}"


def forget_traceback(out: Path, slide_id: str) -> None:
    """Remove the traceback of an earlier run, now that the slide is done."""
    with suppress(OSError):
        (out / FOLDER / f"{slide_id}.txt").unlink(missing_ok=True)

"""The tilde at the head of a path: shells expand it in some places only, so every path that a user writes does here."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.errors import UsageError


def expand_home(text: str) -> str:
    """Return a path with ``~`` or ``~user`` at its head replaced by the home folder; any other text as it is.

    Raises:
        UsageError: there is no such user, or this one has no home folder.
    """
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError as error:
        head = text.partition("/")[0]
        raise UsageError(
            f"{text}: {head} stands for a home folder, and there is none of that name here; write the path in full, or "
            f"./{text} for a file or folder whose name begins with ~"
        ) from error

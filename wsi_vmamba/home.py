"""The user's folders: the tilde at the head of a path, which shells expand in some places only, and our own folder."""

from __future__ import annotations

import os
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


def user_folder() -> Path:
    """The folder for what is kept for a user: ``$WSI_VMAMBA_HOME``, else ``wsi-vmamba`` where the system keeps data.

    Raises:
        UsageError: this user has no home folder.
    """
    own = os.environ.get("WSI_VMAMBA_HOME")
    if own:
        return Path(expand_home(own))
    return Path(os.environ.get("XDG_DATA_HOME") or expand_home("~/.local/share")) / "wsi-vmamba"

"""From what the user names to what is shown."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.config import ViewConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.view.sources import Source, folder_source, slide_source


def open_target(config: ViewConfig) -> Source:
    """What the user named, or what lies here.

    Raises:
        UsageError: there is nothing of that name.
    """
    path = Path(config.target or ".")
    if not path.exists():
        raise UsageError(
            f"no such file or folder: {path}; give a run, features, a slide or a folder of slides"
        )
    if path.is_dir():
        return folder_source(path, follow_links=config.follow_links)
    return slide_source(path)

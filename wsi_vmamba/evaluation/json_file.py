"""Figures as a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wsi_vmamba.durable import write_atomic


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write figures, numbers in full, what is not a number as null."""
    write_atomic(path, json.dumps(content, indent=2, allow_nan=False) + "\n")

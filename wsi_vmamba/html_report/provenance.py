"""What made something, as its records say: settings, versions, weights, hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_vmamba.errors import StoreError
from wsi_vmamba.html_report.markup import Html, details, facts, join, paragraph

#: Parts of a record that stand on their own, or say which machine and whose command line it was.
_APART = ("config", "versions", "host", "argv", "resolved")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        StoreError: it cannot be read or is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}); make it anew") from error
    if not isinstance(found, dict):
        raise StoreError(
            f"{path} is damaged: expected a JSON object, got {type(found).__name__}; make it anew"
        )
    return found


def record_of(folder: Path, command: str) -> dict[str, Any] | None:
    """The record of a command in a folder; None where there is none.

    Raises:
        StoreError: it is damaged.
    """
    path = folder / f"{command}.run.json"
    return read_json(path) if path.is_file() else None


def provenance(name: str, record: Mapping[str, Any] | None) -> Html:
    """A record as tables, settings and versions folded."""
    if record is None:
        return paragraph(f"{name}: no record beside it.", mark="soft")
    plain = {key: value for key, value in record.items() if key not in _APART}
    parts = [facts(_flat(plain), caption=name)]
    for key, title in (
        ("config", "Settings"),
        ("resolved", "Settings as resolved"),
        ("versions", "Versions"),
    ):
        values = record.get(key)
        if isinstance(values, dict):
            parts.append(details(f"{title} of {name}", facts(_flat(values), caption=f"{title}: {name}")))
    return join(parts)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            found[f"{prefix}{key}"] = "" if shown is None else str(shown)
    return found

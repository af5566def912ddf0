"""The log of a pretraining: a line of JSON for every so many steps. Lines of steps that are made again are cut off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import TrainingError


def append_line(path: Path, numbers: Mapping[str, float | int]) -> None:
    """Add a line; a kill while it is written leaves half a line, which `cut_after` removes."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(numbers) + "\n")


def read_lines(path: Path) -> list[dict[str, float]]:
    """All whole lines of a log; none where there is no log.

    Raises:
        TrainingError: a line other than the last is no JSON.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    found = []
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            break  # half a line, of a process that was killed
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise TrainingError(f"{path}, line {number} is no JSON ({error}); remove it") from error
    return found


def cut_after(path: Path, *, step: int) -> None:
    """Keep the lines of the first ``step`` steps only."""
    kept = [line for line in read_lines(path) if line["step"] <= step]
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))

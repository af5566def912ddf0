"""Recipe: labelled tiles and encoders to a table of what their features are worth."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config import ProbeConfig
from wsi_vmamba.console import Task
from wsi_vmamba.durable import require_writable
from wsi_vmamba.probing.files import RESULTS, write_probe
from wsi_vmamba.probing.results import COLUMNS, Probe
from wsi_vmamba.probing.run import run_probe
from wsi_vmamba.provenance import write_run_record


def run(config: ProbeConfig) -> bool:
    """Judge the encoders, print the table, and write it where it was asked for."""
    out = Path(config.out) if config.out else None
    if out:
        require_writable(out, option="--out")
    if config.save:
        require_writable(Path(config.save).parent, option="--save")
    with ExitStack() as stack:
        found = run_probe(config, report=_Progress(stack))
    _show(found)
    if out:
        write_probe(found, out)
        write_run_record(out, command="probe", config=config, facts={"notes": list(found.notes)})
        console.say(f"everything, with folds and curves: {out / RESULTS}")
    if config.save:
        found.save(config.save)
        console.say(f"the probe, fitted on all tiles that are learned from: {config.save}")
    return True


def _show(found: Probe) -> None:
    task = found.task
    for note in found.notes:
        console.warn(note)
    counts = ", ".join(f"{name} {int((task.labels == n).sum())}" for n, name in enumerate(task.classes))
    console.say(f"{len(task.labels)} tiles ({counts}); {task.scheme}")
    console.print_table(
        f"Linear probe; 95 % intervals by drawing {found.drawn}, the same for all", COLUMNS, found.rows()
    )
    columns, rows = found.few_shot_rows()
    if len(columns) > 1:
        console.print_table("AUC by tiles of each class that were learned from", columns, rows)


class _Progress:
    """A line of progress for each encoder, as its tiles are encoded."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._tasks: dict[str, Task] = {}

    def __call__(self, label: str, done: int, total: int) -> None:
        if label not in self._tasks:
            self._stack.close()
            self._tasks[label] = self._stack.enter_context(console.progress(f"encode with {label}", total))
        for _ in range(done):
            self._tasks[label].step()

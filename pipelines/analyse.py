"""Recipe: look inside a VMamba, print what matters and write every number."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.analysis.finding import write_finding
from wsi_vmamba.analysis.front import find
from wsi_vmamba.config import AnalyseConfig
from wsi_vmamba.console import Task
from wsi_vmamba.durable import require_writable
from wsi_vmamba.provenance import write_run_record


def run(config: AnalyseConfig) -> bool:
    """Run the analysis, print its tables, and write figure and numbers."""
    out = Path(config.out) if config.out else Path("analysis") / config.analysis
    require_writable(out, option="--out")
    with ExitStack() as stack:
        found = find(config, report=_Progress(stack))
    for note in found.notes:
        console.say(f"note: {note}")
    for sheet in found.summary():
        console.print_table(sheet.title, sheet.columns, sheet.rows)
    files = write_finding(found, out, name=config.analysis)
    write_run_record(out, command="analyse", config=config, facts={"notes": list(found.notes)})
    console.say(f"figure: {files.figure}")
    console.say(f"numbers: {', '.join(path.name for path in (files.numbers, *files.tables, *files.maps))}")
    return True


class _Progress:
    """A line of progress for each part of the work."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._tasks: dict[str, Task] = {}
        self._open: str | None = None

    def __call__(self, label: str, total: int) -> None:
        if label != self._open:
            self._stack.close()
            self._tasks[label] = self._stack.enter_context(console.progress(label, total))
            self._open = label
        self._tasks[label].step()

"""Recipe: one HTML file on what was made so far."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config import ReportConfig
from wsi_vmamba.durable import require_writable
from wsi_vmamba.html_report.front import FILE, build_report, target_of
from wsi_vmamba.html_report.kinds import kind_of
from wsi_vmamba.text import printable


def run(config: ReportConfig) -> bool:
    """Write the report; return True."""
    folder = target_of(config)
    kind_of(folder)  # what is no target fails before a file is looked for
    out = Path(config.out) if config.out else folder / FILE
    require_writable(out.absolute().parent, option="--out")
    found = build_report(config, progress=console.progress)
    found.save(out)
    size_mb = len(found.html.encode()) / 1e6
    console.say(f"{found.kind} {printable(found.title)}: {printable(str(out))} ({size_mb:.1f} MB)")
    return True

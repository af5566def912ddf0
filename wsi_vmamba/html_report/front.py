"""Reports from Python: `make_report`, and what the command does with a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_vmamba import console
from wsi_vmamba.config import ReportConfig, keyword_config, show_settings
from wsi_vmamba.config.fields import RUNS
from wsi_vmamba.durable import require_writable
from wsi_vmamba.errors import UsageError
from wsi_vmamba.evaluation.watch import ShowProgress, unseen
from wsi_vmamba.html_report.kinds import KINDS, kind_of
from wsi_vmamba.html_report.page import HtmlReport
from wsi_vmamba.training.folders import newest_run

if TYPE_CHECKING:
    from wsi_vmamba.evaluation.front import Run

#: Name of the file where none is given.
FILE = "report.html"


def make_report(
    target: Run | str | Path | None = None,
    *,
    out: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> HtmlReport:
    """Make one self-contained HTML page of a run, a probe, features or predictions.

    Nothing is written unless ``out`` is given; ``.save(path)`` writes the page later.

    Args:
        target: a `Run`, or the folder of one; what `probe` or `predict` left; a folder of features. By default the
            newest run.
        out: the file.
        progress: show how far it is.
        settings: any setting of `ReportConfig` by name: ``compare=["runs/other"]``, ``split="validation"``,
            ``slides="moved/"``, ``examples=8``.

    Returns:
        ``.html``, ``.kind`` and ``.title``.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        UsageError: the folder holds nothing that a report can be made of.
        WsiVmambaError: what it holds is damaged or cannot be judged.

    Example:
        >>> import wsi_vmamba as wv
        >>> wv.make_report("runs/csv-abmil", out="report.html")  # doctest: +SKIP
        <HtmlReport of the run csv-abmil: 1.4 MB>
    """
    named = target if target is None or isinstance(target, str | Path) else target.path
    given = {
        **settings,
        "target": None if named is None else str(named),
        "out": None if out is None else str(out),
    }
    config = keyword_config(ReportConfig, given)
    if config.out:
        require_writable(Path(config.out).absolute().parent, option="out")
    found = build_report(config, progress=console.progress if progress else unseen)
    if config.out:
        found.save(config.out)
    return found


def target_of(config: ReportConfig) -> Path:
    """The folder that is reported on.

    Raises:
        TrainingError: none was named and there is no run.
    """
    return newest_run(Path(RUNS)) if config.target is None else Path(config.target)


def build_report(config: ReportConfig, *, progress: ShowProgress = unseen) -> HtmlReport:
    """Make the report of what a configuration names; nothing is written.

    Raises:
        UsageError: the folder holds nothing that a report can be made of, or is of a kind that is not compared.
        WsiVmambaError: what it holds is damaged or cannot be judged.
    """
    folder = target_of(config)
    name = kind_of(folder)
    kind = KINDS[name]
    if config.compare and not kind.compares:
        raise UsageError(
            f"--compare puts runs side by side, and {folder} is a folder of {name}; leave it out"
        )
    return kind.load()(folder, config, progress=progress)


show_settings(make_report, ReportConfig)

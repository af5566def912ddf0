"""Analyses from Python: `analyse`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsi_vmamba.analysis import ANALYSES
from wsi_vmamba.analysis.finding import Finding, Report, silent, write_finding
from wsi_vmamba.config import AnalyseConfig, keyword_config, show_settings
from wsi_vmamba.durable import require_writable


def analyse(
    analysis: str,
    pictures: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    **settings: Any,
) -> Finding:
    """Look inside a VMamba, as `wsi-vmamba analyse` does.

    Args:
        analysis: "erf", "activation", "directions" or "scan-order".
        pictures: pictures or slides to look at; none: painted tissue.
        out: folder for the figure and the numbers; None writes nothing.
        settings: any setting of `AnalyseConfig` by name: ``backbone=``, ``weights=``, ``region_px=[512]``...

    Returns:
        The numbers as arrays, with ``.summary()``, ``.to_dict()``, ``.sheets()``, ``.maps()`` and ``.draw()`` (PNG).

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        UsageError: the backbone is no VMamba, or a picture does not do.
        MemoryLimitError: a receptive field would not fit.

    Example:
        >>> import wsi_vmamba as wv
        >>> found = wv.analyse("erf", region_px=[224])  # doctest: +SKIP
        >>> found.regions[0].density.shape  # doctest: +SKIP
        (224, 224)
    """
    named = [str(one) for one in ([pictures] if isinstance(pictures, str | Path) else pictures)]
    config = keyword_config(AnalyseConfig, {**settings, "analysis": analysis, "pictures": named, "out": out})
    if config.out:
        require_writable(Path(config.out), option="out")
    found = find(config)
    if config.out:
        write_finding(found, Path(config.out), name=config.analysis)
    return found


def find(config: AnalyseConfig, *, report: Report = silent) -> Finding:
    """Run the analysis that a configuration names; nothing is written."""
    found: Finding = ANALYSES.resolve(config.analysis)(config, report=report)
    return found


show_settings(analyse, AnalyseConfig)

"""Probing from Python: `probe`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsi_vmamba.config import ProbeConfig, keyword_config, show_settings
from wsi_vmamba.durable import require_writable
from wsi_vmamba.probing.files import write_probe
from wsi_vmamba.probing.results import Probe
from wsi_vmamba.probing.run import run_probe


def probe(
    tiles: str | Path,
    *,
    encoder: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    **settings: Any,
) -> Probe:
    """Judge encoders on labelled tiles, as `wsi-vmamba probe` does.

    Args:
        tiles: folder with a folder of pictures for each class, and a groups.csv (file, group).
        encoder: one or several, as the command names them: "vmamba_pico", "vmamba_pico=my.safetensors",
            "colour_texture", "mine.py:encode"; each is compared with the first.
        out: folder for results.json and predictions.csv; None writes nothing.
        settings: any setting of `ProbeConfig` by name: ``test=``, ``groups=``, ``resize=``, ``few_shot=False``...

    Returns:
        ``.encoders`` with metrics and intervals of each, ``.to_dict()``, which is what results.json holds. Shown as a
        table in a notebook.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        DatasetError: tiles, classes or groups are not as they should be.
        UsageError: an encoder cannot be loaded or cannot take the tiles.

    Example:
        >>> import wsi_vmamba as wv
        >>> found = wv.probe("tiles", encoder=["vmamba_pico", "colour_texture"])  # doctest: +SKIP
        >>> found.encoders[0].auc.value  # doctest: +SKIP
        0.91
    """
    named = [encoder] if isinstance(encoder, str) else encoder and list(encoder)
    config = keyword_config(ProbeConfig, {**settings, "tiles": tiles, "encoder": named, "out": out})
    if config.out:
        require_writable(Path(config.out), option="out")
    if config.save:
        require_writable(Path(config.save).parent, option="save")
    found = run_probe(config)
    if config.out:
        write_probe(found, Path(config.out))
    if config.save:
        found.save(config.save)
    return found


show_settings(probe, ProbeConfig)

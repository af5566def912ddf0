"""Pretraining from Python: `pretrain`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_vmamba.config import keyword_config, show_settings
from wsi_vmamba.config.pretrain import PretrainConfig
from wsi_vmamba.durable import require_writable
from wsi_vmamba.errors import SlideError
from wsi_vmamba.pretraining.log import read_lines
from wsi_vmamba.pretraining.loop import Report
from wsi_vmamba.pretraining.ranks import Ranks, joined
from wsi_vmamba.pretraining.run import LOG, WEIGHTS, Begun, begin, refuse_existing
from wsi_vmamba.pretraining.source import Source, opened_source
from wsi_vmamba.provenance import write_run_record
from wsi_vmamba.training.resolve import choose_device


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A finished pretraining.

    Attributes:
        folder: with everything that was written.
        slide_ids: of the slides that were shown; none where the objective reads none.
        left_out: why slides that were listed could not be used.
    """

    folder: Path
    slide_ids: tuple[str, ...]
    left_out: tuple[SlideError, ...] = ()

    @property
    def weights(self) -> Path:
        """The file that `extract` takes as ``weights=``."""
        return self.folder / WEIGHTS

    @property
    def log(self) -> list[dict[str, float]]:
        """A line for every ``log_steps`` steps: step, loss, learning rate, gradient, monitors, images per second."""
        return read_lines(self.folder / LOG)


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What is known of a pretraining when its first step is due, for whoever says how it goes."""

    source: Source
    left_out: tuple[SlideError, ...]
    begun: Begun
    ranks: Ranks
    device: str


def pretrain(
    slides: str | Path | None = None,
    *,
    out: str | Path,
    on_report: Callable[[Report], None] | None = None,
    **settings: Any,
) -> Pretraining:
    """Train a VMamba on slides without labels, as `wsi-vmamba pretrain` does, to the same files.

    An interrupted training (Ctrl-C, or stopping the cell of a notebook) is kept to its last checkpoint: the same call
    with ``resume=True`` goes on from there and ends with the same bytes.

    Args:
        slides: a folder (searched recursively), one slide, or a CSV with the columns slide_id, path, mpp; an
            objective that reads no slides (``objective="painted"``) needs none.
        out: folder for weights, checkpoint and log.
        on_report: called for each line of the log.
        settings: any setting of `PretrainConfig` by name: ``objective="dino"``, ``steps=2400``,
            ``measured_weight=4.0``, ``views={"large_px": 112}``, ``resume=True``...

    Returns:
        ``.weights`` (the file that `extract` takes), ``.log`` and ``.left_out``.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        DatasetError: no slides are found, or none of them can be used.
        UsageError: the folder holds a run already, and neither ``resume`` nor ``overwrite`` is set; or the backbone or
            its weights cannot be had.
        TrainingError: a loss is not finite, all features became alike, or the checkpoint is of another training.

    Example:
        >>> import wsi_vmamba as wv
        >>> made = wv.pretrain("slides", out="pretrained", steps=2400, measured_weight=4.0)  # doctest: +SKIP
        >>> wv.extract("slides", weights=made.weights, out="features")  # doctest: +SKIP
    """
    given = {} if slides is None else {"slides": slides}
    config = keyword_config(PretrainConfig, {**settings, **given, "out": out})
    return run_pretraining(config, on_report=on_report)


def run_pretraining(
    config: PretrainConfig,
    *,
    on_begin: Callable[[Beginning], None] | None = None,
    on_report: Callable[[Report], None] | None = None,
) -> Pretraining:
    """Pretrain as a configuration says; where several processes share it, the first one calls back."""
    refuse_existing(config)
    out = Path(config.out)
    require_writable(out, option="--out")
    with (
        joined(choose_device(config.device)) as (ranks, device),
        opened_source(config, ranks) as (source, left_out),
    ):
        begun = begin(config, source, ranks=ranks, device=device)
        if ranks.leads and on_begin is not None:
            on_begin(Beginning(source=source, left_out=left_out, begun=begun, ranks=ranks, device=device))
        for report in begun.reports:
            if ranks.leads and on_report is not None:
                on_report(report)
        if ranks.leads:
            facts = {
                "device": device, "processes": ranks.world, "weights": begun.note, "precision": begun.precision,
                "slides": source.slide_ids,
            }  # fmt: skip
            write_run_record(out, command="pretrain", config=config, facts=facts)
        return Pretraining(folder=out, slide_ids=source.slide_ids, left_out=left_out)


show_settings(pretrain, PretrainConfig)

"""A pretraining from its settings to its folder: where it starts, its checkpoints, its log and its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsi_vmamba.config.pretrain import PretrainConfig
from wsi_vmamba.config.resolve import dump_config
from wsi_vmamba.datasets.synthetic import TISSUES
from wsi_vmamba.device import Precision, is_gpu
from wsi_vmamba.durable import require_writable, write_atomic
from wsi_vmamba.encode import multiplies_bf16
from wsi_vmamba.errors import TrainingError, UsageError
from wsi_vmamba.pretraining import OBJECTIVES
from wsi_vmamba.pretraining.checkpoint import Checkpoint
from wsi_vmamba.pretraining.learner import Learner
from wsi_vmamba.pretraining.log import append_line, cut_after
from wsi_vmamba.pretraining.loop import COLLAPSED_LINES, Loop, Report
from wsi_vmamba.pretraining.measured_task import MeasuredTask
from wsi_vmamba.pretraining.objectives.base import Objective
from wsi_vmamba.pretraining.painted_task import judge
from wsi_vmamba.pretraining.painted_tiles import held_out_tiles
from wsi_vmamba.pretraining.ranks import Ranks
from wsi_vmamba.pretraining.source import Source, batches_of, paints_every
from wsi_vmamba.pretraining.weights_file import packed, start
from wsi_vmamba.store import remove_stale_partials

CHECKPOINT, LOG, WEIGHTS, SETTINGS = "checkpoint.pt", "log.jsonl", "weights.safetensors", "pretrain.yaml"
#: Settings that say where and how often, not what: a training may go on with others.
_FREE = frozenset(
    {"slides", "out", "log_steps", "checkpoint_steps", "export_steps", "on_collapse", "device", "threads", "resume",
     "overwrite", "checkpointing"}
)  # fmt: skip
#: Settings of what is read from slides.
_OF_VIEWS = ("views", "augmentation")


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A training that can go on.

    Attributes:
        note: where the weights it began with are from.
        first: the step it goes on with; 0 from the start.
        precision: as resolved.
        reports: makes the steps, one by one, as they are asked for.
    """

    note: str
    first: int
    precision: Precision
    reports: Iterator[Report]


def begin(config: PretrainConfig, source: Source, *, ranks: Ranks, device: str) -> Begun:
    """Prepare a training, or one that is resumed; asking for its reports makes its steps and writes its files.

    Raises:
        UsageError: the folder holds a run already, and neither resume nor overwrite is asked for; or the backbone or
            its weights cannot be had.
        TrainingError: the checkpoint is damaged or of another training.
    """
    out = Path(config.out)
    checkpoint = _prepare_folder(out, config, ranks)
    precision = _resolve_precision(config, device=device)
    objective_class: type[Objective] = OBJECTIVES.resolve(config.objective)
    classes = TISSUES if paints_every(config) else ()
    backbone, note = start(config.backbone, config.init, classes=classes, seed=config.seed)
    backbone.grad_checkpointing = config.checkpointing
    keeps = backbone.state_dict().items() if config.init_share else ()
    first = {name: value.clone() for name, value in keeps}
    objective = objective_class.of(config, dim=backbone.dim)
    with _stream(config.seed):
        head = objective.head()
        measured = MeasuredTask(dim=backbone.dim) if config.measured_weight else None
    learner = Learner(backbone, head, measured=measured, precision=precision)
    loop = Loop(learner, objective, config, ranks=ranks, device=device)
    identity = {**_identity(config, source, ranks=ranks, precision=precision), **objective.identity()}
    if checkpoint is not None:
        checkpoint.check_identity(identity, where=out / CHECKPOINT)
        loop.restore(checkpoint)
    ranks.require_agreement((loop.step, identity), what="settings, slides or checkpoint")
    if ranks.leads:
        cut_after(out / LOG, step=loop.step)
        write_atomic(out / SETTINGS, dump_config(config))
    run = _Run(loop, config, source, identity, note, ranks, out, classes, first)
    return Begun(note=note, first=loop.step, precision=precision, reports=run.reports())


@dataclass(frozen=True)
class _Run:
    loop: Loop
    config: PretrainConfig
    source: Source
    identity: Mapping[str, Any]
    note: str
    ranks: Ranks
    out: Path
    classes: tuple[str, ...]
    first: Mapping[str, Tensor]

    def reports(self) -> Iterator[Report]:
        """Make the steps; whatever is due is on disk when a report is handed out."""
        first, last = self.loop.step, self.config.steps
        with closing(batches_of(self.source, self.config, self.ranks, first=first, last=last)) as batches:
            for step in self.loop.run(batches):
                due = step == last or step % self.config.log_steps == 0
                report = self.loop.report() if due else None
                if self.ranks.leads:
                    self._write(step, report, last=step == last)
                if report is not None:
                    yield report
                    self._refuse_collapse(report)

    def _write(self, step: int, report: Report | None, *, last: bool) -> None:
        """Write what is due; the checkpoint is last, so that after a crash before it the same is written again."""
        if report is not None:
            append_line(
                self.out / LOG,
                {"step": step, **report.numbers, "images_per_s": round(report.images_per_s, 1)},
            )
        every = self.config.export_steps
        if every is not None and step % every == 0:
            write_atomic(self.out / f"weights-{step}.safetensors", self._weights({}))
        if last:
            write_atomic(self.out / WEIGHTS, self._weights(self._judged()))
        if last or step % self.config.checkpoint_steps == 0:
            self.loop.checkpoint(self.identity).save(self.out / CHECKPOINT)

    def _judged(self) -> dict[str, str]:
        """How well the painted task is done on tiles that no step has seen."""
        if not self.classes or not self.config.painted.held_out:
            return {}
        held_out = held_out_tiles(self.config.painted.held_out)
        return {"held_out_accuracy": json.dumps(judge(self.loop.average, held_out, device=self.loop.device))}

    def _weights(self, judged: Mapping[str, str]) -> bytes:
        slides = self.source.slide_ids
        painted = "synthetic (wsi_vmamba.datasets.synthetic.sample_tiles)"
        data = [*([f"{len(slides)} slides"] if slides else []), *([painted] if self.classes else [])]
        facts = {
            "recipe": "wsi-vmamba pretrain",
            "objective": self.config.objective,
            "init": self.note,
            "steps": str(self.loop.step),
            "data": " and ".join(data) if slides else painted.replace("synthetic", "synthetic only", 1),
            "slides": json.dumps(slides),
            "settings": json.dumps(self.identity),
            **judged,
        }
        learned = self.loop.average.backbone.state_dict()
        share = self.config.init_share
        state = {
            name: torch.lerp(value, self.first[name].to(value), share) if share else value
            for name, value in learned.items()
        }
        return packed(state, name=self.config.backbone, classes=self.classes, facts=facts)

    def _refuse_collapse(self, report: Report) -> None:
        if report.stop:
            raise TrainingError(
                f"step {report.step}: the training has collapsed, for {COLLAPSED_LINES} lines of the log: "
                f"{report.warning}. A lower learning rate, a longer warm-up, a larger batch or a slower teacher (ema "
                "nearer to 1) may help; on_collapse: warn goes on in spite of it"
            )


def _identity(
    config: PretrainConfig, source: Source, *, ranks: Ranks, precision: Precision
) -> dict[str, Any]:
    # Settings of what is not used shape nothing.
    used = {
        config.objective,
        *(["painted"] if paints_every(config) else []),
        *(_OF_VIEWS if source.slide_ids else ()),
    }
    shaping: dict[str, Any] = {}
    for key, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            if key in used:
                shaping.update({f"{key}.{inner}": number for inner, number in value.items()})
        elif key not in _FREE:
            shaping[key] = value
    return {
        **shaping,
        "precision": precision,
        "processes": ranks.world,
        "slides": f"{len(source.slide_ids)} of fingerprint {source.fingerprint[:12]}",
    }


def _resolve_precision(config: PretrainConfig, *, device: str) -> Precision:
    if config.precision != "auto":
        return config.precision
    return "bf16" if is_gpu(device) or multiplies_bf16() else "fp32"


@contextmanager
def _stream(seed: int) -> Iterator[None]:
    """New layers get their numbers from a random stream of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def refuse_existing(config: PretrainConfig) -> None:
    """Refuse to mix a training with another one; cheap, so that it can be asked before slides are looked at.

    Raises:
        UsageError: the folder holds a run, and neither resume nor overwrite is asked for.
    """
    if (Path(config.out) / CHECKPOINT).exists() and not (config.resume or config.overwrite):
        raise UsageError(
            f"{config.out} holds a run already; go on with --resume, replace it with --overwrite, or choose another "
            "--out"
        )


def _prepare_folder(out: Path, config: PretrainConfig, ranks: Ranks) -> Checkpoint | None:
    """The checkpoint to go on from; None to start. Only the first rank changes the folder."""
    path = out / CHECKPOINT
    refuse_existing(config)
    checkpoint = Checkpoint.load(path) if path.exists() and config.resume else None
    ranks.wait()  # all have looked
    if ranks.leads:
        require_writable(out, option="--out")
        remove_stale_partials(out)
        if config.overwrite:
            for file in (path, out / LOG, out / WEIGHTS, *out.glob("weights-*.safetensors")):
                file.unlink(missing_ok=True)
    return checkpoint

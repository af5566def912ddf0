"""The training loop: one slide per step, seeded, stopped early, resumable to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from wsi_vmamba.bags import Bag
from wsi_vmamba.errors import TrainingError, UsageError
from wsi_vmamba.metrics.auc import roc_auc
from wsi_vmamba.metrics.classes import macro_roc_auc
from wsi_vmamba.records import SlideRecord, classes_of
from wsi_vmamba.store import remove_stale_partials
from wsi_vmamba.training.checkpoint import Checkpoint, random_state, restore_random_state
from wsi_vmamba.training.model import NUM_CLASSES, ModelSpec, SlideClassifier, SlideOutput, feature_moments
from wsi_vmamba.training.objective import DescribeTargets, LoadTargets, Objective
from wsi_vmamba.training.optimise import averaged, parameter_groups
from wsi_vmamba.training.run import (
    CHECKPOINT,
    EpochReport,
    OnEpoch,
    load_run,
    remove_run,
    save_best,
    write_metrics,
    write_splits,
)
from wsi_vmamba.training.settings import TrainSettings
from wsi_vmamba.training.slides import class_weights, divide
from wsi_vmamba.training.targets import no_targets, of_nothing

LoadBag = Callable[[SlideRecord], Bag]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The best model, in evaluation mode, the epoch it is from, and all epochs."""

    model: SlideClassifier
    best: EpochReport
    history: tuple[EpochReport, ...]
    run_dir: Path


def train(
    records: Sequence[SlideRecord],
    load_bag: LoadBag,
    settings: TrainSettings,
    run_dir: Path,
    *,
    load_targets: LoadTargets = no_targets,
    describe_targets: DescribeTargets = of_nothing,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    on_epoch: OnEpoch | None = None,
) -> TrainResult:
    """Train a classifier and keep the best one by validation AUC, at equal AUC by validation loss.

    Of more than two classes it is the macro AUC, the mean of that of each class against the rest.

    The same call gives the same bits on the same device, whether or not it was interrupted and resumed, as long
    as the number of torch threads is the same. (On a GPU torch asks for CUBLAS_WORKSPACE_CONFIG=:4096:8.)

    What happened is logged as CSV, a row per epoch: any program reads it, it is rewritten whole and so survives
    a kill, and equal runs give equal files. None of that holds for TensorBoard's event files, which would also
    need another package.

    Args:
        records: the whole data set. Slides of split "train" or None are trained on; where none has the split
            "validation", a share of those patients is set apart; "test" is only checked for leakage.
        load_bag: gives the bag of a record, for example a `BagLoader`.
        settings: how to train.
        run_dir: folder for checkpoint.pt, best.safetensors, model.json, metrics.csv and splits.csv.
        load_targets: gives the targets of a slide's patches, for example a `PatchTargets`; asked where patches are
            supervised.
        describe_targets: says what those are made from, for example `PatchTargets.describe`; a resumed training
            must have the same.
        resume: go on from checkpoint.pt; without one, start.
        overwrite: replace the run in the folder.
        device: where to compute.
        on_epoch: called after each epoch, when its checkpoint is on disk.

    Raises:
        UsageError: the folder holds a run already, and neither resume nor overwrite is asked for.
        DatasetError: labels are missing, a slide is listed twice, a patient is in two splits, or a split
            lacks one of the labels.
        TrainingError: loss or gradient is not finite, or the checkpoint is of another training: other settings,
            slides, labels, features or outlines.
    """
    checkpoint = _prepare_folder(run_dir, resume=resume, overwrite=overwrite)
    test, training, validation = divide(records, settings)
    where = torch.device(device)
    objective = Objective(
        settings.supervises, class_weights(training, balanced=settings.class_weights), load_targets
    )
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []), _deterministic(where):
        loop = _Loop(
            training, validation, load_bag, objective, settings, run_dir, where, checkpoint, describe_targets
        )
        write_splits(run_dir, [*training, *validation, *test])  # not before the checkpoint was found to fit
        while not loop.finished:
            report = loop.run_epoch()
            if on_epoch is not None:
                on_epoch(report)
    run = load_run(run_dir, device=device)
    return TrainResult(model=run.model, best=run.best, history=tuple(loop.history), run_dir=run_dir)


class _Loop:
    """The state of a training run; `run_epoch` trains one more epoch and saves it to disk."""

    def __init__(
        self,
        training: Sequence[SlideRecord],
        validation: Sequence[SlideRecord],
        load_bag: LoadBag,
        objective: Objective,
        settings: TrainSettings,
        run_dir: Path,
        device: torch.device,
        checkpoint: Checkpoint | None,
        describe_targets: DescribeTargets,
    ) -> None:
        self.training = training
        self.validation = validation
        self.load_bag = load_bag
        self.objective = objective
        self.settings = settings
        self.run_dir = run_dir
        self.device = device
        self.history: list[EpochReport] = []
        supervised = [*training, *validation]
        self.labels = {record.slide_id: record.label for record in supervised}
        # At the start: outlines that change while a run goes on are not those it was trained from.
        self.outlines = (
            {record.slide_id: describe_targets(record) for record in supervised}
            if settings.supervises.patches
            else {}
        )
        torch.manual_seed(settings.seed)
        self.model = self._build_model().to(device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, weight_decay=settings.weight_decay), lr=settings.learning_rate
        )
        if checkpoint is None:
            mean, std = feature_moments(training, load_bag)
            self.model.feature_mean.copy_(mean)
            self.model.feature_std.copy_(std)
        self.average = averaged(self.model, decay=settings.ema_decay)
        if checkpoint is not None:
            self._restore(checkpoint)

    @property
    def kept(self) -> SlideClassifier:
        """The model that is validated and kept: the running average."""
        return cast(SlideClassifier, self.average.module)

    @property
    def best(self) -> EpochReport | None:
        """The epoch whose model is kept."""
        return next((report for report in reversed(self.history) if report.is_best), None)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or patience has run out."""
        since_best = len(self.history) - self.best.epoch if self.best else 0
        return len(self.history) >= self.settings.epochs or since_best >= self.settings.patience

    def run_epoch(self) -> EpochReport:
        """Train on each slide once, validate, and write best model, metrics and checkpoint, in this order."""
        epoch = len(self.history) + 1
        train_loss = self._train_epoch(epoch)
        validation_loss, validation_auc = self._validate(epoch)
        best = self.best
        report = EpochReport(
            epoch=epoch,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            train_loss=train_loss,
            validation_loss=validation_loss,
            validation_auc=validation_auc,
            is_best=best is None
            or (validation_auc, -validation_loss) > (best.validation_auc, -best.validation_loss),
        )
        self.history.append(report)
        # The checkpoint is last: after a crash before it, the epoch is done again and writes the same files.
        if report.is_best:
            save_best(self.run_dir, self.kept, self.settings, report)
        write_metrics(self.run_dir, self.history)
        self._checkpoint().save(self.run_dir / CHECKPOINT)
        return report

    def _train_epoch(self, epoch: int) -> float:
        self.model.train()
        order = np.random.default_rng([self.settings.seed, epoch]).permutation(len(self.training))
        losses = []
        for place, index in enumerate(order):
            step = (epoch - 1) * len(order) + place
            rate = self.settings.rate_at(step, steps_per_epoch=len(order))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            losses.append(self._step(self.training[index], epoch))
        return float(np.mean(losses))

    def _step(self, record: SlideRecord, epoch: int) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        bag = self.load_bag(record)
        loss = self.objective.training_loss(self._forward(self.model, bag), record, bag)
        value = _finite(loss.item(), "loss", record, epoch)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        _finite(norm.item(), "gradient", record, epoch)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return value

    def _forward(self, model: SlideClassifier, bag: Bag) -> SlideOutput:
        # bf16 keeps the exponents of float32, so that no scaling of the loss is needed.
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.settings.precision == "bf16"
        ):
            return model.forward_bag(bag)

    def _validate(self, epoch: int) -> tuple[float, float]:
        """Return the mean loss over the validation slides and their AUC, of more than two classes the macro AUC."""
        model = self.kept.eval()
        losses, scores = [], []
        for record in self.validation:
            bag = self.load_bag(record)
            with torch.no_grad():
                output = self._forward(model, bag)
                loss = self.objective.validation_loss(output, record, bag)
            losses.append(_finite(loss.item(), "validation loss", record, epoch))
            scores.append(torch.softmax(output.logits.double(), dim=0).cpu().numpy())
        labels, shares = np.array([record.label for record in self.validation]), np.array(scores)
        area = (
            roc_auc(labels, shares[:, 1]) if shares.shape[1] == NUM_CLASSES else macro_roc_auc(labels, shares)
        )
        return float(np.mean(losses)), float(area)

    def _build_model(self) -> SlideClassifier:
        bag = self.load_bag(self.training[0])
        spec = ModelSpec(
            aggregator=self.settings.aggregator,
            patch_head=self.settings.supervises.patches,
            in_dim=bag.features.shape[1],
            hidden_dim=self.settings.hidden_dim,
            dropout=self.settings.dropout,
            source=bag.source,
            classes=classes_of([*self.training, *self.validation]),
            of_patients=any(record.members for record in self.training),
        )
        return SlideClassifier(spec)

    def _identity(self) -> dict[str, Any]:
        return {
            "settings": self.settings.to_dict(),
            "spec": self.model.spec.to_dict(),
            "training slides": [record.slide_id for record in self.training],
            "validation slides": [record.slide_id for record in self.validation],
            "label": self.labels,
            "outlines": self.outlines,
        }

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            identity=self._identity(),
            history=self.history,
            model=self.model.state_dict(),
            average=self.average.state_dict(),
            optimizer=self.optimizer.state_dict(),
            rng=random_state(self.device),
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        checkpoint.check_identity(self._identity(), where=self.run_dir / CHECKPOINT)
        self.model.load_state_dict(checkpoint.model)
        self.average.load_state_dict(checkpoint.average)
        self.optimizer.load_state_dict(dict(checkpoint.optimizer))
        self.history = list(checkpoint.history)
        restore_random_state(checkpoint.rng, self.device)


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Make torch choose reproducible kernels on a GPU; on a CPU all that are used here are."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cuda")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _prepare_folder(run_dir: Path, *, resume: bool, overwrite: bool) -> Checkpoint | None:
    if resume and overwrite:
        raise UsageError("resume and overwrite exclude each other: go on with the run, or replace it")
    if overwrite:
        remove_run(run_dir)
    remove_stale_partials(run_dir)  # what a killed run was writing
    path = run_dir / CHECKPOINT
    if not path.exists():
        return None
    if not resume:
        raise UsageError(
            f"{run_dir} holds a run already; go on with --resume, replace it with --overwrite, "
            "or choose another --name"
        )
    return Checkpoint.load(path)


def _finite(value: float, what: str, record: SlideRecord, epoch: int) -> float:
    if not np.isfinite(value):
        raise TrainingError(
            f"epoch {epoch}, slide {record.slide_id}: the {what} is {value}; the checkpoint of the epoch "
            "before is kept. Look at the slide's features, or lower the learning rate"
        )
    return value

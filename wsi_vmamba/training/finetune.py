"""Fine-tune a backbone on labelled tiles or clips: the further a layer is from the output, the slower it learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from wsi_vmamba.crop import middle_square, random_square
from wsi_vmamba.device import is_gpu
from wsi_vmamba.errors import DatasetError, TrainingError
from wsi_vmamba.model.drop_path import set_drop_path
from wsi_vmamba.model.normalise import normalise
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.training.guard import Watch, diagnose
from wsi_vmamba.training.mixing import erased, mixed, soft_labels
from wsi_vmamba.training.optimise import averaged, backbone_groups, rate_share
from wsi_vmamba.training.tiles import Prepare, Tile, TileSet, mirror, turn
from wsi_vmamba.volume.network import VMamba3D
from wsi_vmamba.volume.pixels import as_volumes, normalise_clips

#: What is fine-tuned: on tiles, or on clips.
Classifier = VMamba | VMamba3D
Turns = Literal["all", "mirror", "none"]
#: Word -> what is done with the pixels of a batch.
TURNS: Mapping[Turns, Callable[[np.random.Generator, NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "all": turn,
    "mirror": mirror,
    "none": lambda rng, pixels: pixels,
}


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Settings of a fine-tuning.

    Attributes:
        epochs: passes over the training tiles.
        warmup_epochs: epochs of linear rise before the cosine fall.
        batch: tiles in a step.
        learning_rate: of the head at the peak; see `backbone_groups` for the layers beneath.
        layer_decay: in (0, 1], what the learning rate is multiplied by from each block to the one before.
        weight_decay: of AdamW, on matrices.
        gradient_clip: largest norm of the gradient.
        seed: of order, turning and all else that is drawn.
        turns: "all" turns and mirrors (tissue), "mirror" exchanges left and right (photographs), "none" leaves them.
        crop_px: side of a random square for training, of the middle one for judging; None takes tiles whole.
        drop_path: highest rate of stochastic depth, see `set_drop_path`.
        label_smoothing: share of each label that is spread over all classes.
        mixup: alpha of blended pictures; 0 leaves it out.
        cutmix: alpha of pasted rectangles; 0 leaves it out.
        erase: probability that a rectangle of a picture is replaced by noise.
        ema_decay: of the running average of the weights, which is then what is judged and kept; 0 leaves it out.
    """

    epochs: int
    warmup_epochs: int
    batch: int
    learning_rate: float
    layer_decay: float
    weight_decay: float
    gradient_clip: float
    seed: int
    turns: Turns = "all"
    crop_px: int | None = None
    drop_path: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    erase: float = 0.0
    ema_decay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FinetuneEpoch:
    """One epoch. ``validation_accuracy`` is balanced: the mean of the classes' recalls."""

    epoch: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    is_best: bool


def finetune(
    model: Classifier,
    training: TileSet,
    validation: TileSet,
    settings: FinetuneSettings,
    *,
    device: str = "cpu",
    on_epoch: Callable[[FinetuneEpoch, Classifier], None],
    on_state: Callable[[Mapping[str, Any]], None] = lambda _: None,
    state: Mapping[str, Any] | None = None,
) -> list[FinetuneEpoch]:
    """Train all of ``model``, its head included, in place.

    With ``ema_decay`` it is the running average of the weights that is judged and handed out.

    Args:
        model: with as many outputs as there are classes; for clips, one for volumes.
        training: tiles to learn from.
        validation: tiles of other patients, of the same classes; judged after each epoch.
        settings: how.
        device: where to compute.
        on_epoch: called after each epoch with the model as it then is, which is to be kept where ``is_best`` (highest
            balanced accuracy, at equal accuracy the lowest loss).
        on_state: called after that with all that is needed to go on from there.
        state: what ``on_state`` was called with; the epochs up to there are not done again.

    Returns:
        All epochs, those before ``state`` too.

    Raises:
        DatasetError: the two sets have other classes or tiles of another size, or a tile cannot be read.
        TrainingError: loss or gradient is not finite; the tiles of the batch are named.
    """
    _check_alike(training, validation, sizes=settings.crop_px is None)
    model.to(device)
    set_drop_path(model, settings.drop_path)
    average = averaged(model, decay=settings.ema_decay) if settings.ema_decay else None
    optimizer, schedule = _optimizer(model, settings, n_tiles=len(training.tiles))
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
    parts |= {} if average is None else {"average": average}
    history: list[FinetuneEpoch] = []
    watch = Watch()
    if state is not None:
        history = [FinetuneEpoch(**row) for row in state["history"]]
        watch = Watch(**state["watch"])
        for name, part in parts.items():
            part.load_state_dict(state[name])
    for epoch in range(len(history) + 1, settings.epochs + 1):
        rate = float(schedule.get_last_lr()[0])  # of the deepest group, the head
        train_loss = _train_epoch(
            model, average, training, settings, epoch, optimizer, schedule, device=device, watch=watch
        )
        kept = model if average is None else cast("Classifier", average.module)
        loss, accuracy = judge(
            kept, validation, batch=settings.batch, crop_px=settings.crop_px, device=device
        )
        best = all((accuracy, -loss) > (past.validation_accuracy, -past.validation_loss) for past in history)
        report = FinetuneEpoch(
            epoch=epoch, learning_rate=rate, train_loss=train_loss, validation_loss=loss,
            validation_accuracy=accuracy, is_best=best,
        )  # fmt: skip
        history.append(report)
        on_epoch(report, kept)
        on_state(
            {name: part.state_dict() for name, part in parts.items()}
            | {"history": [asdict(one) for one in history], "watch": asdict(watch)}
        )
    return history


def _optimizer(
    model: Classifier, settings: FinetuneSettings, *, n_tiles: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a rate for each layer, and the schedule of all rates over the steps."""
    groups = backbone_groups(
        model,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay,
    )
    optimizer = torch.optim.AdamW(groups)
    steps_per_epoch = -(-n_tiles // settings.batch)
    warmup = min(settings.warmup_epochs, settings.epochs - 1) * steps_per_epoch
    total = settings.epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_share(step, warmup=warmup, total=total)
    )
    return optimizer, schedule


@torch.no_grad()
def judge(
    model: Classifier, tiles: TileSet, *, batch: int, crop_px: int | None = None, device: str = "cpu"
) -> tuple[float, float]:
    """Mean loss and balanced accuracy of a model, on the middle of tiles where ``crop_px`` is given.

    Leaves the model in evaluation mode.
    """
    model.eval()
    losses, right, labels = [], [], []
    middle = None if crop_px is None else partial(_middle, crop_px)
    for members, pixels in tiles.batches(range(len(tiles.tiles)), size=batch, prepare=middle):
        logits = _logits(model, _images(pixels, model).to(device))
        target = _labels(members, device)
        losses += F.cross_entropy(logits, target, reduction="none").tolist()
        right += (logits.argmax(1) == target).tolist()
        labels += target.tolist()
    hits, truth = np.array(right), np.array(labels)
    recalls = [hits[truth == label].mean() for label in range(len(tiles.classes))]
    return float(np.mean(losses)), float(np.mean(recalls))


def _middle(side_px: int, _: int, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return middle_square(pixels, side_px=side_px)


def _images(pixels: NDArray[np.uint8], model: Classifier) -> Tensor:
    """(n, H, W, 3 or 3 T) -> normalised (n, 3 or 3 T, H, W)."""
    change = normalise_clips if isinstance(model, VMamba3D) else normalise
    return change(torch.from_numpy(pixels), mean=model.mean, std=model.std)


def _logits(model: Classifier, images: Tensor) -> Tensor:
    logits: Tensor = model(as_volumes(images) if isinstance(model, VMamba3D) else images)
    return logits.float()


def _train_epoch(
    model: Classifier,
    average: AveragedModel | None,
    training: TileSet,
    settings: FinetuneSettings,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    *,
    device: str,
    watch: Watch,
) -> float:
    """Train on each tile once; return the mean loss."""
    model.train()
    rng = np.random.default_rng([settings.seed, epoch])
    losses: list[float] = []
    order = rng.permutation(len(training.tiles)).tolist()
    batches = training.batches(order, size=settings.batch, prepare=_random_part(settings, epoch))
    # What the model itself draws (stochastic depth) follows the seed, and the caller's stream is left alone.
    with torch.random.fork_rng(devices=[device] if is_gpu(device) else []):
        torch.manual_seed(int(np.random.default_rng([settings.seed, epoch, 1]).integers(2**62)))
        for tiles, pixels in batches:
            optimizer.zero_grad(set_to_none=True)
            images, targets = _prepared(
                model, tiles, pixels, settings, rng, n_classes=len(training.classes), device=device
            )
            backward = partial(_backward, model, images, targets)
            loss = backward()
            losses += [loss] * len(tiles)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
            if wrong := watch.see(loss=loss, gradient=float(norm)):
                found = diagnose(model, backward, advice="lower the learning rate")
                raise TrainingError(f"epoch {epoch}, the batch with {_some(tiles)}: {wrong}. {found}")
            optimizer.step()
            schedule.step()
            if average is not None:
                average.update_parameters(model)
    return float(np.mean(losses))


def _random_part(settings: FinetuneSettings, epoch: int) -> Prepare | None:
    """What crops the tiles of an epoch: by seed, epoch and tile, whichever thread reads it."""
    side_px = settings.crop_px
    if side_px is None:
        return None
    return lambda index, pixels: random_square(
        np.random.default_rng([settings.seed, epoch, 2, index]), pixels, side_px=side_px
    )


def _prepared(
    model: Classifier,
    tiles: Sequence[Tile],
    pixels: NDArray[np.uint8],
    settings: FinetuneSettings,
    rng: np.random.Generator,
    *,
    n_classes: int,
    device: str,
) -> tuple[Tensor, Tensor]:
    """Images and targets of a batch, turned, erased and mixed as the settings ask."""
    images = _images(TURNS[settings.turns](rng, pixels), model).to(device)
    targets = soft_labels(_labels(tiles, device), classes=n_classes, smoothing=settings.label_smoothing)
    images = erased(rng, images, probability=settings.erase)
    return mixed(rng, images, targets, mixup=settings.mixup, cutmix=settings.cutmix)


def _backward(model: Classifier, images: Tensor, targets: Tensor) -> float:
    """Leave the gradients of a batch in the model; return its mean cross-entropy."""
    loss = F.cross_entropy(_logits(model, images), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _labels(tiles: Sequence[Tile], device: str) -> Tensor:
    return torch.tensor([tile.label for tile in tiles], device=device)


def _check_alike(training: TileSet, validation: TileSet, *, sizes: bool) -> None:
    if training.classes != validation.classes:
        odd = sorted(set(training.classes) ^ set(validation.classes))
        raise DatasetError(
            f"{training.folder} and {validation.folder} must have folders of the same classes; only one of them has "
            f"{', '.join(odd)}"
        )
    if sizes and training.side_px != validation.side_px:
        raise DatasetError(
            f"tiles of {training.folder} have (height, width) {training.side_px}, those of {validation.folder} "
            f"{validation.side_px}; all must be of one size, at one resolution"
        )


def _some(tiles: Sequence[Tile]) -> str:
    names = ", ".join(str(tile.path) for tile in tiles[:3])
    return f"{names} and {len(tiles) - 3} more" if len(tiles) > 3 else names

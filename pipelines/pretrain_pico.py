"""Recipe: train vmamba_pico to name the tissue of synthetic tiles, and write the weights the package ships.

Run ``OMP_NUM_THREADS=1 python -m wsi_vmamba.pipelines.pretrain_pico``; eleven minutes on two quiet CPU cores. Every
pixel it sees is generated (`wsi_vmamba.datasets.synthetic.sample_tiles`), from seeds no cohort uses. The weights are
for the demo and for trying the pipeline; they know nothing about real tissue.

The task is dense: the head, applied to every square of the last feature map, names the tissue of 32 x 32 px.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from wsi_vmamba import __version__, console
from wsi_vmamba.datasets.synthetic import TISSUES, TUMOUR_INDEX, TileBatch, sample_tiles
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.normalise import normalise
from wsi_vmamba.model.vmamba import VMamba

BACKBONE = "vmamba_pico"
WEIGHTS_NAME = "vmamba_pico_synthetic.safetensors"
#: Squares of the tissue map (8 px) along one square of the feature map.
_SQUARES = 4
#: Seeds of the held-out tiles start here; training chunks count up from the recipe's seed.
_HELD_OUT_SEED = 9_000_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the recipe; the header of a weights file says which ones made it.

    Attributes:
        seed: of the weights, the tiles and the augmentation.
        steps: optimiser steps.
        batch: windows of 128 px in a step.
        wide_every: each so many steps, a quarter as many windows of 256 px instead, so that the scan sees
            longer rows.
        tile_px: side of the tiles the windows are cut from.
        chunks: chunks of 48 tiles in the pool a batch is drawn from.
        renew_steps: steps after which the oldest chunk of the pool is replaced.
        learning_rate: at the end of the warm-up; a cosine takes it to a hundredth.
        difficulty: least and greatest difficulty of the tumours.
    """

    seed: int = 20
    steps: int = 1400
    batch: int = 32
    wide_every: int = 4
    tile_px: int = 512
    chunks: int = 8
    renew_steps: int = 8
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 40
    difficulty: tuple[float, float] = (0.2, 0.8)
    checkpoint_steps: int = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse ``--steps``, ``--out`` and ``--work``; train, evaluate, write; return 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--out", type=Path, default=Path("wsi_vmamba/model/pretrained"))
    parser.add_argument(
        "--work", type=Path, default=Path("runs/pretrain_pico"), help="checkpoints and the log"
    )
    options = parser.parse_args(arguments)
    run(Settings(steps=options.steps), out=options.out, work=options.work)
    return 0


def run(settings: Settings, *, out: Path, work: Path) -> Path:
    """Train from the last checkpoint in ``work`` or from scratch; return the weights file written to ``out``."""
    work.mkdir(parents=True, exist_ok=True)
    model = cast(VMamba, build_backbone(BACKBONE, num_classes=len(TISSUES), seed=settings.seed))
    optimizer = _optimizer(model, settings)
    started = _resume(work, settings, model, optimizer)
    held_out = _held_out_tiles()
    before = time.perf_counter()
    for step, tiles in _batches(settings, first=started):
        loss = _step(model, optimizer, tiles, settings, step)
        if step % 10 == 0:
            console.say(
                f"step {step}/{settings.steps}  loss {loss:.3f}  {time.perf_counter() - before:.0f} s"
            )
        if (step + 1) % settings.checkpoint_steps == 0 or step + 1 == settings.steps:
            _save_checkpoint(work, settings, model, optimizer, step + 1)
    accuracy = evaluate(model, held_out)
    console.say(json.dumps(accuracy, indent=2))
    write_atomic(work / "accuracy.json", (json.dumps(accuracy, indent=2) + "\n"))
    return _write_weights(out, settings, model, accuracy)


def _optimizer(model: VMamba, settings: Settings) -> torch.optim.AdamW:
    """AdamW; vectors, and the parameters of the recurrence, are not decayed."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or name.rpartition(".")[2] in {"A_logs", "Ds", "dt_projs_bias"}
        (free if plain else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99))


def _step(
    model: VMamba,
    optimizer: torch.optim.Optimizer,
    tiles: tuple[NDArray[np.uint8], NDArray[np.float32]],
    settings: Settings,
    step: int,
) -> float:
    """One step of the optimiser; returns the loss."""
    model.train()
    rate = _learning_rate(settings, step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    images, target = tiles
    # Matrix products in bfloat16 (the scan keeps to float32): half the time, and the weights end as float16.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = _dense_logits(model, images).float()
    loss = -(torch.from_numpy(target) * F.log_softmax(logits, dim=-1)).sum(-1).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss became {value} at step {step}; lower the learning rate")
    return value


def _learning_rate(settings: Settings, step: int) -> float:
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def _dense_logits(model: VMamba, images: NDArray[np.uint8]) -> Tensor:
    """Logits of the tissues, (B, H / 32, W / 32, tissues), of RGB tiles (B, H, W, 3)."""
    features = model.forward_features(normalise(torch.from_numpy(images), mean=model.mean, std=model.std))
    logits: Tensor = model.classifier.get_submodule("head")(features.permute(0, 2, 3, 1))
    return logits


# ---- tiles ----------------------------------------------------------------------------------------------------


def _chunk(settings: Settings, index: int) -> TileBatch:
    """One scene's worth of tiles; the difficulty goes through its range from chunk to chunk."""
    low, high = settings.difficulty
    difficulty = low + (high - low) * ((index * 0.618) % 1.0)
    return sample_tiles(settings.seed * 100_000 + index, 48, settings.tile_px, difficulty=difficulty)


def _batches(
    settings: Settings, *, first: int
) -> Iterator[tuple[int, tuple[NDArray[np.uint8], NDArray[np.float32]]]]:
    """Yield (step, (images, soft targets)) from a pool of chunks that is renewed as training goes on."""
    with ThreadPoolExecutor(1) as painter:
        base = first // settings.renew_steps
        pool = [_chunk(settings, base + i) for i in range(settings.chunks)]
        coming = painter.submit(_chunk, settings, base + settings.chunks)
        for step in range(first, settings.steps):
            if step // settings.renew_steps > base:
                base += 1
                pool = [*pool[1:], coming.result()]
                coming = painter.submit(_chunk, settings, base + settings.chunks)
            rng = np.random.default_rng([settings.seed, step])
            wide = step % settings.wide_every == 0
            count, side_px = (settings.batch // 4, 256) if wide else (settings.batch, 128)
            yield step, _draw(rng, pool, count=count, side_px=side_px)
        coming.cancel()


def _draw(
    rng: np.random.Generator, pool: Sequence[TileBatch], *, count: int, side_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw and disturb ``count`` windows, one half at 0.5 and the other at 1 um per pixel."""
    images, targets = [], []
    for i in range(count):
        chunk = pool[int(rng.integers(len(pool)))]
        which = int(rng.integers(len(chunk.images)))
        image, squares = view(
            rng, chunk.images[which], chunk.tissue[which], side_px=side_px, shrink=1 + i % 2
        )
        turns = int(rng.integers(4))
        image, squares = np.rot90(image, turns), np.rot90(squares, turns)
        if rng.integers(2):
            image, squares = image[:, ::-1], squares[:, ::-1]
        images.append(disturb(rng, np.ascontiguousarray(image)))
        targets.append(soft_target(squares))
    return np.stack(images), np.stack(targets)


def view(
    rng: np.random.Generator,
    image: NDArray[np.uint8],
    tissue: NDArray[np.uint8],
    *,
    side_px: int,
    shrink: int,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut a random window of a tile, shrunk by 1 or 2 to ``side_px``; with its tissue, one sample per 8 px."""
    squares = side_px * shrink // 8
    row, column = (int(at) for at in rng.integers(0, tissue.shape[0] - squares, 2, endpoint=True))
    window = image[8 * row : 8 * (row + squares), 8 * column : 8 * (column + squares)]
    labels = tissue[row : row + squares, column : column + squares]
    if shrink > 1:
        window = np.asarray(cv2.resize(window, (side_px, side_px), interpolation=cv2.INTER_AREA))
    return window, labels[shrink // 2 :: shrink, shrink // 2 :: shrink]


def soft_target(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of each tissue in each 32 px square, (H / 32, W / 32, tissues), from one index per 8 px."""
    one_hot = np.eye(len(TISSUES), dtype=np.float32)[squares]
    rows, columns = squares.shape[0] // _SQUARES, squares.shape[1] // _SQUARES
    return np.asarray(one_hot.reshape(rows, _SQUARES, columns, _SQUARES, -1).mean(axis=(1, 3)))


def disturb(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Strong stain and light scanner augmentation: mixed and rescaled optical densities, focus, JPEG."""
    density = -np.log((image.astype(np.float32) + 1) / 256)
    mixing = np.eye(3) * rng.uniform(0.7, 1.4) + rng.normal(0, 0.07, (3, 3))
    density = density @ mixing.astype(np.float32) + rng.normal(0, 0.03, 3).astype(np.float32)
    result = np.asarray(np.clip(256 * np.exp(-density) - 1, 0, 255), dtype=np.uint8)
    if rng.random() < 0.3:
        result = np.asarray(cv2.GaussianBlur(result, (0, 0), float(rng.uniform(0.3, 1.4))))
    if rng.random() < 0.6:
        _, code = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 95))])
        result = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
    return result


# ---- evaluation -----------------------------------------------------------------------------------------------


def _held_out_tiles(count: int = 6) -> list[TileBatch]:
    """Chunks no training step has seen: other scenes, stains and nuclei."""
    return [sample_tiles(_HELD_OUT_SEED + i, 48, 512) for i in range(count)]


@torch.no_grad()
def evaluate(model: VMamba, chunks: Sequence[TileBatch]) -> dict[str, float]:
    """Accuracies on undisturbed tiles, at 1 um per pixel ("far") and at 0.5 ("near")."""
    model.eval()
    rng = np.random.default_rng(0)
    found: dict[str, float] = {}
    for name, shrink in (("near", 1), ("far", 2)):
        right, tumour_truth, tumour_score = [], [], []
        for chunk in chunks:
            views = [
                view(rng, image, tissue, side_px=256, shrink=shrink)
                for image, tissue in zip(chunk.images, chunk.tissue, strict=True)
            ]
            target = np.stack([soft_target(squares) for _, squares in views])
            images = np.stack([image for image, _ in views])
            scores = torch.cat(
                [_dense_logits(model, part).softmax(-1) for part in np.split(images, 6)]
            ).numpy()
            pure = target.max(axis=-1) > 0.9
            right.append((scores.argmax(-1) == target.argmax(-1))[pure])
            tumour_truth.append(target[..., TUMOUR_INDEX].mean(axis=(1, 2)) >= 0.25)
            tumour_score.append(scores[..., TUMOUR_INDEX].mean(axis=(1, 2)) >= 0.25)
        truth, guess = np.concatenate(tumour_truth), np.concatenate(tumour_score)
        found[f"{name}_square_accuracy"] = round(float(np.concatenate(right).mean()), 4)
        found[f"{name}_tumour_tile_accuracy"] = round(float((truth == guess).mean()), 4)
        found[f"{name}_tumour_sensitivity"] = round(float(guess[truth].mean()), 4)
        found[f"{name}_tumour_specificity"] = round(float(1 - guess[~truth].mean()), 4)
    return found


# ---- files ----------------------------------------------------------------------------------------------------


def _save_checkpoint(
    work: Path,
    settings: Settings,
    model: VMamba,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    partial = work / "checkpoint.partial"
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step, "settings": json.dumps(asdict(settings))}, partial)
    partial.replace(work / "checkpoint.pt")


def _resume(work: Path, settings: Settings, model: VMamba, optimizer: torch.optim.Optimizer) -> int:
    """Load the checkpoint of the same settings; returns the step to go on with, 0 without one."""
    path = work / "checkpoint.pt"
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    if state["settings"] != json.dumps(asdict(settings)):
        raise SystemExit(f"{path} was made with other settings; remove it or choose another --work")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    console.say(f"going on from step {state['step']}")
    return int(state["step"])


def _write_weights(out: Path, settings: Settings, model: VMamba, accuracy: dict[str, float]) -> Path:
    """Write the backbone in float16, with what made it in the header."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / WEIGHTS_NAME
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {
        "format": "pt",
        "backbone": BACKBONE,
        "classes": ",".join(TISSUES),
        "recipe": "pipelines/pretrain_pico.py",
        "data": "synthetic only (wsi_vmamba.datasets.synthetic.sample_tiles)",
        "settings": json.dumps(asdict(settings)),
        "held_out_accuracy": json.dumps(accuracy),
        "wsi_vmamba": __version__,
        "torch": torch.__version__,
    }
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial, metadata=metadata)
    partial.replace(path)
    console.say(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return path


if __name__ == "__main__":
    raise SystemExit(main())

"""The state of a fine-tuning between two epochs: enough to go on to the same numbers as if it had never stopped."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wsi_vmamba.config import FinetuneConfig
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import TrainingError
from wsi_vmamba.training.tiles import TileSet

FILE = "checkpoint.pt"
#: What may differ when a fine-tuning is resumed.
_FREE = ("out", "overwrite", "resume", "device", "tiles", "checkpointing")


def identity(
    config: FinetuneConfig, training: TileSet, validation: TileSet, *, weights: str
) -> dict[str, Any]:
    """What a resumed fine-tuning must have in common with the one that was stopped."""
    settings = {key: value for key, value in config.model_dump(mode="json").items() if key not in _FREE}
    return settings | {
        "start": weights,
        "training tiles": _names(training),
        "validation tiles": _names(validation),
    }


def save_state(folder: Path, state: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Write the state; after a crash the previous one is still there."""
    buffer = io.BytesIO()
    torch.save({"identity": dict(asked), "state": dict(state)}, buffer)
    write_atomic(folder / FILE, buffer.getvalue())


def load_state(folder: Path, asked: Mapping[str, Any], *, what: str = "fine-tuning") -> dict[str, Any] | None:
    """Read the state that `save_state` left in a folder; None where there is none.

    Args:
        folder: where it lies.
        asked: what the training that goes on must have in common with the one that was stopped.
        what: it is of, for messages.

    Raises:
        TrainingError: it is damaged, or of one with other settings, weights or tiles; they are named.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        stored, state = content["identity"], content["state"]
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        raise TrainingError(
            f"{file} is damaged or no checkpoint ({type(error).__name__}); begin anew with --overwrite"
        ) from error
    odd = [
        f"{key}: {stored.get(key)!r} in the checkpoint, {asked[key]!r} asked"
        for key in asked
        if stored.get(key) != asked[key]
    ]
    if odd:
        raise TrainingError(
            f"{file} is of another {what} ({'; '.join(odd)}); resume with its settings, or begin anew with "
            "--overwrite or another --out"
        )
    return dict(state)


def _names(tiles: TileSet) -> str:
    """How many tiles there are, and a hash of their names."""
    names = "\n".join(str(tile.path.relative_to(tiles.folder)) for tile in tiles.tiles)
    return f"{len(tiles.tiles)}, {hashlib.sha256(names.encode()).hexdigest()[:12]}"

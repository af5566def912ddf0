"""The state of a training run between two epochs: enough to continue as if it had never stopped."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import TrainingError
from wsi_vmamba.training.run import EpochReport

#: Parts of an identity that hold settings by name.
_SETTINGS = ("settings", "spec")
#: Differences named for each part.
_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What checkpoint.pt holds; plain values and tensors only, so that it loads without unpickling code.

    Attributes:
        identity: settings, model spec, slides, their labels and what the targets of their patches are made from; a
            resumed training must have the same.
        history: the epochs so far.
        model: state of the model.
        average: state of its running average.
        optimizer: state of the optimizer.
        rng: random state by device type.
    """

    identity: Mapping[str, Any]
    history: Sequence[EpochReport]
    model: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    rng: Mapping[str, Tensor]

    def save(self, path: Path) -> None:
        """Write the checkpoint; after a crash the previous one is still there."""
        buffer = io.BytesIO()
        torch.save({**vars(self), "history": [asdict(report) for report in self.history]}, buffer)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint to the CPU.

        Raises:
            TrainingError: the file is damaged or is no checkpoint of this package.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            history = [EpochReport(**row) for row in content.pop("history")]
            return cls(history=history, **content)
        except (
            OSError,
            RuntimeError,
            ValueError,
            TypeError,
            KeyError,
            EOFError,
            pickle.UnpicklingError,
        ) as error:
            raise TrainingError(
                f"{path} is damaged or no checkpoint ({type(error).__name__}); train again with --overwrite"
            ) from error

    def check_identity(self, asked: Mapping[str, Any], *, where: Path) -> None:
        """Refuse to go on with other settings, slides, labels, features or outlines.

        Raises:
            TrainingError: naming what differs.
        """
        differing = []
        for part, stored in self.identity.items():
            if isinstance(stored, dict) and isinstance(asked[part], dict):
                # Names of settings say what they are; names of slides do not.
                what = "" if part in _SETTINGS else f"{part} of "
                odd = [
                    f"{what}{key}: {stored.get(key)!r} in the checkpoint, {asked[part].get(key)!r} asked"
                    for key in (stored if part == "settings" else {**stored, **asked[part]})
                    if stored.get(key) != asked[part].get(key)
                ]
                differing += odd[:_MOST_NAMED]
                if len(odd) > _MOST_NAMED:
                    differing.append(f"{what}{len(odd) - _MOST_NAMED} more")
            elif stored != asked[part]:
                differing.append(f"{part} differ: {_odd_ones(stored, asked[part])}")
        if differing:
            raise TrainingError(
                f"{where} is of another training ({'; '.join(differing)}); "
                "resume with its settings, or train anew under another --name or with --overwrite"
            )


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the generators that training on ``device`` draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Undo what was drawn since `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _odd_ones(stored: Any, asked: Any, limit: int = _MOST_NAMED) -> str:
    if not isinstance(stored, list) or not isinstance(asked, list):
        return f"{stored!r} in the checkpoint, {asked!r} asked"
    odd = [str(item) for item in [*stored, *asked] if (item in stored) != (item in asked)]
    return ", ".join(odd[:limit]) + (" …" if len(odd) > limit else "") if odd else "their order"

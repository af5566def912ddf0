"""The state of a pretraining between two steps: enough to go on as if it had never stopped."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import TrainingError

#: Differences named when a checkpoint is of another training.
_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What checkpoint.pt holds; plain values and tensors only, so that it loads without unpickling code.

    Attributes:
        identity: every setting that shapes the weights; a resumed training must have the same.
        step: steps that are done.
        student: state of backbone and head.
        average: state of their running average.
        objective: state of the objective's own buffers.
        optimizer: state of the optimizer.
        memory: what the loop remembers of the steps before, plain numbers by name.
    """

    identity: Mapping[str, Any]
    step: int
    student: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    objective: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    memory: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write the checkpoint; after a crash the previous one is still there."""
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint to the CPU.

        Raises:
            TrainingError: the file is damaged or is no checkpoint of a pretraining.
        """
        try:
            return cls(**torch.load(path, map_location="cpu", weights_only=True))
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
                f"{path} is damaged or no checkpoint of a pretraining ({type(error).__name__}); train again with "
                "--overwrite"
            ) from error

    def check_identity(self, asked: Mapping[str, Any], *, where: Path) -> None:
        """Refuse to go on with other settings.

        Raises:
            TrainingError: naming those that differ.
        """
        differing = [
            f"{key}: {self.identity.get(key)!r} in the checkpoint, {asked.get(key)!r} asked"
            for key in dict.fromkeys([*self.identity, *asked])
            if self.identity.get(key) != asked.get(key)
        ]
        if differing:
            more = f"; {len(differing) - _MOST_NAMED} more" if len(differing) > _MOST_NAMED else ""
            raise TrainingError(
                f"{where} is of another training ({'; '.join(differing[:_MOST_NAMED])}{more}); resume with its "
                "settings, or train anew in another --out or with --overwrite"
            )

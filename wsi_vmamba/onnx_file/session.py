"""An ONNX file opened with onnxruntime: one input of images, and outputs of which the first is features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_vmamba.errors import UsageError, WeightsError

#: Where onnxruntime computes, best first; those that it was built with are used.
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")

_REFUSALS = (
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoModel",
    "NotImplemented",
    "RuntimeException",
)


class OnnxSession:
    """A file that is ready to run.

    Attributes:
        path: the file.
        digest: its SHA-256 (hex).
        px: side of the images that it takes, or None for any.
        facts: what is written into the file about it, name -> text.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """Open a file.

        Args:
            path: an .onnx file.
            threads: of one forward pass; None takes as many as torch uses.

        Raises:
            UsageError: onnxruntime is not installed.
            WeightsError: the file is not there or damaged, or its input is no batch of images.
        """
        runtime = _runtime(path)
        if not path.is_file():
            raise WeightsError(f"no ONNX file at {path.absolute()}; `wsi-vmamba onnx` writes one")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
        options.log_severity_level = 3
        providers = [name for name in _PROVIDERS if name in runtime.get_available_providers()]
        try:
            self._session: Any = runtime.InferenceSession(str(path), options, providers=providers)
        except _errors() as error:
            raise WeightsError(f"{path} is damaged, or needs a newer onnxruntime: {error}") from error
        self.path = path
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self._input, self.px = self._read_input()
        self.facts: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.outputs = [one.name for one in self._session.get_outputs()]

    def _read_input(self) -> tuple[str, int | None]:
        inputs = self._session.get_inputs()
        shape = inputs[0].shape
        sides = [side if isinstance(side, int) else None for side in shape[2:]]
        images = len(inputs) == 1 and len(shape) == 4 and (shape[1] == 3 or not isinstance(shape[1], int))
        if not images or inputs[0].type != "tensor(float)" or len(set(sides)) != 1:
            listed = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
            raise WeightsError(
                f"{self.path} takes {listed}; expected one input of float32 images (B, 3, H, W) whose sides are free "
                "or one number"
            )
        return inputs[0].name, sides[0]

    def run(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """All outputs of normalised images (B, 3, H, W), in the order of ``outputs``."""
        found = self._session.run(None, {self._input: np.ascontiguousarray(images)})
        return [np.asarray(one, np.float32) for one in found]


def _errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises on a file that it cannot take; its errors have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(getattr(state, name) for name in _REFUSALS)


def _runtime(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"{path} needs onnxruntime ({error}): pip install 'wsi-vmamba[onnx]'") from error
    return onnxruntime

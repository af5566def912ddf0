"""Teachers that a user has: a backbone of the table, or an ONNX file. They give features and learn nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_vmamba.config.pretrain import DistilSettings
from wsi_vmamba.errors import UsageError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.normalise import IMAGENET_MEAN, IMAGENET_STD, normalise
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.timm_windows import WindowBackbone
from wsi_vmamba.model.weights import weights_hash


class Teacher(Protocol):
    """What gives features.

    Attributes:
        dim: their length.
        identity: differs where the features do.
    """

    dim: int
    identity: str

    def features(self, pixels: Tensor) -> Tensor:
        """RGB uint8 (B, H, W, 3) -> float32 (B, dim), on the same device."""
        ...


def build_teacher(settings: DistilSettings, *, seed: int) -> Teacher:
    """Build what the settings name.

    Raises:
        UsageError: they name nothing, or what they name cannot be had.
    """
    if settings.teacher is None:
        raise UsageError(
            "distillation needs a teacher: --set distil.teacher=NAME of a backbone, or =FILE.onnx; its weights are "
            "--set distil.teacher_weights=FILE"
        )
    if settings.teacher.endswith(".onnx"):
        return OnnxTeacher(Path(settings.teacher), teacher_px=settings.teacher_px)
    weights = resolve_weights(settings.teacher, settings.teacher_weights)
    backbone = build_backbone(settings.teacher, weights=weights.source, seed=seed)
    return BackboneTeacher(backbone, teacher_px=settings.teacher_px)


class BackboneTeacher:
    """A backbone of the table, pooled over its last map."""

    def __init__(self, backbone: nn.Module, *, teacher_px: int | None) -> None:
        """Take over ``backbone``; it is put in evaluation mode."""
        self._backbone = backbone.eval().requires_grad_(False)
        self._px = teacher_px
        self.dim = cast(int, backbone.dim)
        self.identity = weights_hash(backbone)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """See `Teacher.features`."""
        backbone: Any = self._backbone.to(pixels.device)
        images = _resized(normalise(pixels, mean=backbone.mean, std=backbone.std), self._px)
        if isinstance(
            backbone, WindowBackbone
        ):  # a view is one window; a larger one would be filled up with white
            return backbone.encode_windows(images).float()
        maps: Tensor = backbone.forward_features(images)
        return maps.float().mean(dim=(2, 3))


class OnnxTeacher:
    """An ONNX file whose one input is (B, 3, H, W), normalised as for ImageNet, and whose first output is taken.

    An output (B, d) is the features, one of (B, d, h, w) is averaged over its map.
    """

    def __init__(self, path: Path, *, teacher_px: int | None) -> None:
        """Open the file.

        Raises:
            UsageError: it is not there, onnxruntime is not installed, or the output is of another shape.
        """
        if not path.is_file():
            raise UsageError(f"no teacher at {path.absolute()}; give an .onnx file or the name of a backbone")
        try:
            import onnxruntime
        except ImportError as error:
            raise UsageError(f"{path} needs onnxruntime ({error}): pip install onnxruntime") from error
        self._session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._px = teacher_px
        self.identity = hashlib.sha256(path.read_bytes()).hexdigest()
        side_px = teacher_px or 224
        self.dim = self.features(torch.zeros(1, side_px, side_px, 3, dtype=torch.uint8)).shape[1]

    def features(self, pixels: Tensor) -> Tensor:
        """See `Teacher.features`."""
        images = _resized(normalise(pixels.cpu(), mean=IMAGENET_MEAN, std=IMAGENET_STD), self._px)
        found = np.asarray(self._session.run(None, {self._input: images.contiguous().numpy()})[0], np.float32)
        if found.ndim not in (2, 4):
            raise UsageError(
                f"the teacher's first output has shape {found.shape}; expected (B, d) or (B, d, h, w): export one that "
                "ends in features"
            )
        pooled = found if found.ndim == 2 else found.mean(axis=(2, 3))
        return torch.from_numpy(pooled).to(pixels.device)


def _resized(images: Tensor, side_px: int | None) -> Tensor:
    """Images (B, 3, H, W) brought to a square of ``side_px``; as they are where that is None."""
    if side_px is None or tuple(images.shape[2:]) == (side_px, side_px):
        return images
    return F.interpolate(images, (side_px, side_px), mode="bicubic", antialias=True, align_corners=False)

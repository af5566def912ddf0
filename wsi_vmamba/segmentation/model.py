"""A segmenter: a VMamba, its head, and all that using it needs; one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from wsi_vmamba.dense.model_file import ModelFile
from wsi_vmamba.model.build import variant
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import weights_hash
from wsi_vmamba.segmentation.classes import ClassTable, Outside
from wsi_vmamba.segmentation.head import HeadSettings, UPerNet


@dataclass(frozen=True, kw_only=True)
class SegmenterSpec:
    """What a segmenter is, but for its weights.

    Attributes:
        backbone: name of the VMamba.
        classes: names of the classes 1, 2 and so on.
        outside: what lies outside them, see `ClassTable`.
        target_mpp: micrometres per pixel that it was trained at; None: pictures without a scale.
        crop_px: side of the squares that it was trained on.
        channels: width of the head.
        pool_scales: of its pooling.
        trained_on: slides that it has seen in training.
    """

    backbone: str
    classes: tuple[str, ...]
    outside: Outside
    target_mpp: float | None
    crop_px: int
    channels: int
    pool_scales: tuple[int, ...]
    trained_on: tuple[str, ...] = ()

    @property
    def table(self) -> ClassTable:
        """Its classes."""
        return ClassTable(names=self.classes, outside=self.outside)


#: The files of segmenters.
SEGMENTERS = ModelFile(kind="segmenter", command="train-segmenter", spec=SegmenterSpec)


class Segmenter(nn.Module):
    """A backbone with a head; ``spec`` says what it was trained for."""

    def __init__(self, spec: SegmenterSpec, backbone: VMamba, *, dropout: float = 0.0, seed: int = 0) -> None:
        """Put a new head, drawn from ``seed``, on a backbone."""
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        settings = HeadSettings(
            dims=tuple(backbone.config.dims),
            outputs=spec.table.outputs,
            channels=spec.channels,
            pool_scales=spec.pool_scales,
            crop_tokens=max(1, spec.crop_px // backbone.stride_px),
            dropout=dropout,
        )
        # Its own random stream: the same seed gives the same weights, and the caller's stream is left alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = UPerNet(settings)

    @property
    def fingerprint(self) -> str:
        """A hash of its weights."""
        return weights_hash(self)

    def packed(self) -> bytes:
        """It as a safetensors file."""
        return SEGMENTERS.packed(self, self.spec)


def read_segmenter(place: str | Path) -> Segmenter:
    """Read a segmenter, in evaluation mode.

    Args:
        place: the file, or the folder that it lies in.

    Raises:
        WeightsError: there is none, it is something else, damaged, or of a newer version.
    """
    file, spec = SEGMENTERS.find(place)
    model = Segmenter(spec, variant(spec.backbone, num_classes=1, weights=None, seed=0))
    SEGMENTERS.fill(model, file)
    return model.eval()

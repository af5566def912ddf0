"""A segmenter: a VMamba, its head, and all that using it needs; one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from wsi_vmamba import __version__
from wsi_vmamba.errors import WeightsError
from wsi_vmamba.model.build import variant
from wsi_vmamba.model.stored import read_header
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import apply_state, check_values, weights_hash
from wsi_vmamba.pretraining.weights_file import in_one_order
from wsi_vmamba.segmentation.classes import ClassTable, Outside
from wsi_vmamba.segmentation.head import HeadSettings, UPerNet

FILE = "model.safetensors"
#: Key of the header that says what a file is, and its value here; the other key holds the rest.
_KIND, _SEGMENTER, _SPEC = "kind", "segmenter", "segmenter"
_REMEDY = "give the folder, or the model.safetensors in it, that `wsi-vmamba segtrain` wrote"


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

    @classmethod
    def from_json(cls, text: str) -> SegmenterSpec:
        """Rebuild it from the header of a file.

        Raises:
            ValueError: it lacks a field, or has one that is unknown here.
        """
        values: Mapping[str, Any] = json.loads(text)
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise ValueError(f"fields {', '.join(sorted(set(values) ^ known))}")
        tuples = {name: tuple(values[name]) for name in ("classes", "pool_scales", "trained_on")}
        return cls(**{**values, **tuples})


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
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        header = {
            "format": "pt", "wsi_vmamba": __version__, _KIND: _SEGMENTER, _SPEC: json.dumps(asdict(self.spec)),
        }  # fmt: skip
        return in_one_order(safetensors.torch.save(tensors, metadata=header))


def load_segmenter(place: str | Path) -> Segmenter:
    """Load a segmenter, in evaluation mode.

    Args:
        place: the file, or the folder that it lies in.

    Raises:
        WeightsError: there is none, it is something else, damaged, or of a newer version.
    """
    path = Path(place)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(f"no segmenter at {file.absolute()}; {_REMEDY}")
    try:
        header = read_header(file)
    except WeightsError as error:
        raise WeightsError(f"{file} is no segmenter ({error}); {_REMEDY}") from error
    if header.get(_KIND) != _SEGMENTER:
        kind = (
            f"weights of {header['backbone']}"
            if "backbone" in header
            else "a safetensors file of another kind"
        )
        raise WeightsError(f"{file} is {kind}, not a segmenter; {_REMEDY}")
    try:
        spec = SegmenterSpec.from_json(header[_SPEC])
        backbone = variant(spec.backbone, num_classes=1, weights=None, seed=0)
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{file} is a segmenter that this version does not know ({error}); it was written by wsi-vmamba "
            f"{header.get('wsi_vmamba', 'of an unknown version')}, this is {__version__}; update the package"
        ) from error
    model = Segmenter(spec, backbone)
    try:
        state = safetensors.torch.load_file(file)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is damaged ({error}); {_REMEDY}") from error
    check_values(state, source=str(file))
    apply_state(model, state, source=str(file))
    return model.eval()

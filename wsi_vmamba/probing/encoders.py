"""Encoders of whole tiles: a backbone as `extract` runs it, a baseline of the table, or a user's own function."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsi_vmamba.config import ProbeConfig
from wsi_vmamba.config.encoder_spec import EncoderSpec, parse_encoder
from wsi_vmamba.device import resolve_device
from wsi_vmamba.encode import Encoder, WindowEncoder, build_encoder, encode_each
from wsi_vmamba.errors import UsageError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.normalise import Rgb, normalise
from wsi_vmamba.model.shipped import resolve_weights, split_choice
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.probing import TILE_ENCODERS
from wsi_vmamba.registry import load_attribute

#: Pictures (B, H, W, 3) uint8 RGB, all of one size, to features (B, D).
Encode = Callable[[NDArray[np.uint8]], NDArray[Any]]
#: Backbones with a longer stride look at windows one by one, and what is missing of a window is filled with white.
_LONGEST_TOKEN_PX = 64
#: How the parameters of a VMamba's head begin.
_HEAD = "classifier.head."
#: Pixels of the tiles that go through a network together, which bounds memory; a larger tile goes strip by strip.
_BATCH_PX = 1 << 19


@dataclass(frozen=True, kw_only=True)
class EncoderFacts:
    """What an encoder is, for tables and records.

    Attributes:
        label: short name, unique among those judged together.
        spec: as it was named.
        name: of the backbone, in the table, or "MODULE:FUNCTION".
        weights: in words.
        weights_hash: SHA-256 (hex) of the parameters; empty where nobody knows.
        precision: of the arithmetic; empty where nobody knows.
        device: where it computes; empty where nobody knows.
        parameters: how many; None where nobody knows.
        weights_bytes: size of the weights file; None where there is none.
        resize_px: shorter side that tiles are resized to; None: as they are.
    """

    label: str
    spec: str
    name: str
    weights: str = ""
    weights_hash: str = ""
    precision: str = ""
    device: str = ""
    parameters: int | None = None
    weights_bytes: int | None = None
    resize_px: int | None = None


@dataclass(frozen=True, kw_only=True)
class TileEncoder:
    """An encoder of whole tiles: one vector for each.

    Attributes:
        facts: what it is.
        encode: the function.
        check_size: raises UsageError for tiles of a size (height, width) that it cannot take.
        encode_map: of a backbone, a picture (H, W, 3) of any size to features (h, w, D); None of others.
    """

    facts: EncoderFacts
    encode: Encode
    check_size: Callable[[int, int], None] = field(default=lambda height_px, width_px: None)
    encode_map: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None = None

    def mean_of_cells(self, picture: NDArray[np.uint8], *, cell_px: int) -> NDArray[np.float16]:
        """Features (rows, columns, D) of the cells of a picture that is whole cells, in one pass of a backbone.

        Raises:
            UsageError: a cell is no whole number of tokens.
        """
        assert self.encode_map is not None
        rows, columns = picture.shape[0] // cell_px, picture.shape[1] // cell_px
        tokens = self.encode_map(picture)
        height, width, dim = tokens.shape
        if height % rows or width % columns:
            raise UsageError(
                f"cells of {cell_px} px are no whole tokens of {self.facts.label}, which are about "
                f"{picture.shape[0] / height:.0f} px; choose a multiple with --cell-px, or with @PX behind its name"
            )
        of_cells = tokens.reshape(rows, height // rows, columns, width // columns, dim)
        return np.asarray(of_cells.mean(axis=(1, 3), dtype=np.float32), dtype=np.float16)


def load_encoders(config: ProbeConfig) -> list[TileEncoder]:
    """Build every encoder that is named, each with a label of its own.

    Raises:
        UsageError: a function cannot be loaded, or weights are missing.
        WeightsError: weights do not fit.
    """
    specs = [parse_encoder(text) for text in config.encoder]
    return [_load(spec, label, config) for spec, label in zip(specs, _labels(specs), strict=True)]


def _labels(specs: list[EncoderSpec]) -> list[str]:
    """The short name of each where no two have the same, else what was given."""
    short = [_short(spec) for spec in specs]
    return [name if short.count(name) == 1 else spec.text for name, spec in zip(short, specs, strict=True)]


def _short(spec: EncoderSpec) -> str:
    sized = f"@{spec.resize_px}" if spec.resize_px else ""
    if spec.is_own:
        module, _, attribute = spec.name.partition(":")
        return f"{Path(module).name}:{attribute}{sized}"
    file = f"={Path(spec.weights).name}" if spec.weights not in ("", "auto") else ""
    return f"{spec.name}{file}{sized}"


def _load(spec: EncoderSpec, label: str, config: ProbeConfig) -> TileEncoder:
    resize_px = spec.resize_px or config.resize
    if spec.is_own:
        function = _own_function(spec.name)
        facts = EncoderFacts(
            label=label,
            spec=spec.text,
            name=spec.name,
            weights="its own",
            parameters=_count(function),
            resize_px=resize_px,
        )
        return TileEncoder(facts=facts, encode=function)
    if spec.name in TILE_ENCODERS:
        facts = EncoderFacts(
            label=label,
            spec=spec.text,
            name=spec.name,
            weights="it has no weights",
            parameters=0,
            resize_px=resize_px,
        )
        return TileEncoder(facts=facts, encode=TILE_ENCODERS.resolve(spec.name))
    return _backbone(spec, label, config, resize_px=resize_px)


def _backbone(spec: EncoderSpec, label: str, config: ProbeConfig, *, resize_px: int | None) -> TileEncoder:
    weights = resolve_weights(spec.name, spec.weights)
    backbone = build_backbone(spec.name, weights=weights.source, seed=config.seed)
    in_batches = (
        config.precision == "auto"
        and not config.images
        and resolve_device(config.device) == "cpu"
        and isinstance(backbone, VMamba)
    )
    encoder = build_encoder(
        spec.name,
        weights=spec.weights,
        precision="fp32" if in_batches else config.precision,
        device=config.device,
        seed=config.seed,
        patch_px=config.cell_px if config.images else None,
    )
    facts = EncoderFacts(
        label=label,
        spec=spec.text,
        name=spec.name,
        weights=weights.note,
        weights_hash=encoder.weights_hash,
        precision=encoder.precision,
        device=encoder.device,
        parameters=_count(backbone),
        weights_bytes=split_choice(weights.path)[0].stat().st_size if weights.path else None,
        resize_px=resize_px,
    )
    return TileEncoder(
        facts=facts,
        encode=tiles_in_batches(backbone, encoder)
        if in_batches
        else lambda tiles: encode_tiles(encoder, tiles),
        check_size=lambda height_px, width_px: check_tile(encoder, height_px=height_px, width_px=width_px),
        encode_map=encoder.encode,
    )


def tiles_in_batches(backbone: nn.Module, encoder: Encoder) -> Encode:
    """Small tiles together through the network as it is; ``encoder`` is made for large regions, one at a time."""
    backbone.eval()
    mean, std = cast(Rgb, backbone.mean), cast(Rgb, backbone.std)

    def encode(tiles: NDArray[np.uint8]) -> NDArray[np.float16]:
        size_px = tiles.shape[1] * tiles.shape[2]
        if size_px > _BATCH_PX:
            return encode_tiles(encoder, tiles)
        with torch.inference_mode():
            means = [
                backbone.forward_features(normalise(part, mean=mean, std=std)).mean(dim=(2, 3))  # type: ignore[operator]
                for part in torch.split(torch.from_numpy(tiles), _BATCH_PX // size_px)
            ]
        return np.asarray(torch.cat(means).numpy(), dtype=np.float16)

    return encode


def encode_tiles(encoder: Encoder, tiles: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Mean over the tokens of each tile (B, H, W, 3), in the numbers that a feature file holds: (B, dim) float16."""
    if isinstance(encoder, WindowEncoder) and encoder.any_window:
        return encoder.encode_windows(tiles).astype(np.float16)
    maps = encode_each(encoder, enumerate(tiles))
    means = [tokens.mean(axis=(0, 1), dtype=np.float32) for _, tokens in maps]
    return np.stack(means).astype(np.float16)


def check_tile(encoder: Encoder, *, height_px: int, width_px: int) -> None:
    """Refuse a size of tiles that an encoder would see mostly emptiness in.

    Raises:
        UsageError: naming the least size and how to resize.
    """
    if isinstance(encoder, WindowEncoder) and encoder.any_window:
        if height_px != width_px:
            raise UsageError(
                f"{encoder.name} sees a tile as one window, which is a square, and tiles are {width_px} x {height_px} "
                "px; cut squares of them"
            )
        return
    stride = encoder.stride_px
    remedy = f"resize them with --resize {stride}, or for this encoder alone with @{stride} behind its name"
    if min(height_px, width_px) < stride:
        raise UsageError(
            f"tiles of {width_px} x {height_px} px are too small for {encoder.name}, which needs at least {stride} px "
            f"on each side; {remedy}"
        )
    if stride > _LONGEST_TOKEN_PX and (height_px % stride or width_px % stride):
        raise UsageError(
            f"{encoder.name} looks at windows of {stride} px, and tiles of {width_px} x {height_px} px are no whole "
            f"windows; {remedy}"
        )


def _own_function(name: str) -> Encode:
    """The function of ``module:attribute``, or of ``file.py:attribute``.

    Raises:
        UsageError: it cannot be loaded or cannot be called.
    """
    module, _, attribute = name.rpartition(":")
    try:
        found: Any = _of_file(Path(module), attribute) if module.endswith(".py") else load_attribute(name)
    except (ImportError, AttributeError, OSError) as error:
        raise UsageError(
            f"encoder {name!r} cannot be loaded ({error}); expected FILE.py:FUNCTION or MODULE:FUNCTION, a function of "
            "tiles (B, H, W, 3) to features (B, D)"
        ) from error
    if not callable(found):
        raise UsageError(
            f"encoder {name!r} is {type(found).__name__}; expected a function of tiles (B, H, W, 3)"
        )
    function: Encode = found
    return function


def _of_file(path: Path, attribute: str) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path.absolute()}")
    name = f"wsi_vmamba_probe_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return getattr(module, attribute)


def _count(thing: object) -> int | None:
    """Parameters of a module, without the head of a classifier, which gives no features."""
    if not isinstance(thing, nn.Module):
        return None
    return sum(values.numel() for name, values in thing.named_parameters() if not name.startswith(_HEAD))

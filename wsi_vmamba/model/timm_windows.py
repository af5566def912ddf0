"""A model of timm slid over the region, one feature per window; needs the extra `timm`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.normalise import Rgb
from wsi_vmamba.model.timm_create import create_model, import_timm, pretrained_facts
from wsi_vmamba.model.timm_known import known
from wsi_vmamba.model.timm_tokens import Pooled
from wsi_vmamba.model.variants import WINDOW_PX
from wsi_vmamba.model.window_names import Given, WindowName, parse_window_name

#: Baseline of the field -> model of timm. Their windows are 256 px whatever the patch.
MODELS: Mapping[str, str] = {
    "timm_resnet152": "resnet152.a1h_in1k",
    "timm_swin_tiny": "swin_tiny_patch4_window7_224.ms_in1k",
    "timm_vit_small": "vit_small_patch16_224.augreg_in21k_ft_in1k",
}
#: Side that a window of a baseline is resized to: what the three models were trained on.
INPUT_PX = 224
#: Windows of 224 px in one forward pass; fewer of larger ones.
BATCH = 64

Interpolation = Literal["bilinear", "bicubic"]


class WindowBackbone(nn.Module):
    """A network without its head over windows that do not overlap: ``stride_px`` is the window.

    Attributes:
        dim: features of a window.
        stride_px: side of a window.
        mean: how windows are normalised; std likewise.
        input_px: side that the network sees; windows of another size are resized.
        facts: what else than weights makes its features what they are, for records.
        any_window: whether the window may be chosen; else it is that of the baselines.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        dim: int,
        mean: Rgb,
        std: Rgb,
        input_px: int = INPUT_PX,
        interpolation: Interpolation = "bilinear",
        facts: Mapping[str, Any] | None = None,
        any_window: bool = False,
    ) -> None:
        """Wrap ``model``, which maps (n, 3, input_px, input_px), normalised with ``mean`` and ``std``, to (n, dim)."""
        super().__init__()
        self.model = model
        self.dim, self.stride_px = dim, WINDOW_PX
        self.mean, self.std = mean, std
        self.input_px, self.facts, self.any_window = input_px, dict(facts or {}), any_window
        self._interpolation = interpolation

    def forward_features(self, x: Tensor) -> Tensor:
        """Map normalised (B, 3, H, W) -> (B, dim, ceil(H/stride), ceil(W/stride)); white fills cut windows."""
        filled, side = self._fill_windows(x), self.stride_px
        rows = filled.shape[2] // side
        windows = rearrange(filled, "b c (rows y) (cols x) -> (b rows cols) c y x", y=side, x=side)
        return rearrange(
            self.encode_windows(windows), "(b rows cols) d -> b d rows cols", b=len(x), rows=rows
        )

    def encode_windows(self, windows: Tensor) -> Tensor:
        """Map normalised squares (n, 3, side, side) of any side -> (n, dim), a batch at a time."""
        return torch.cat([self._encode(part) for part in torch.split(windows, self.batch)])

    @property
    def input_facts(self) -> Mapping[str, Any]:
        """Of ``facts`` those that hold whatever release of timm runs the network; see `weights_hash`."""
        return {name: value for name, value in self.facts.items() if name != "timm"}

    @property
    def batch(self) -> int:
        """Windows in one forward pass."""
        return max(1, BATCH * INPUT_PX**2 // self.input_px**2)

    def _fill_windows(self, x: Tensor) -> Tensor:
        """Whole windows: white right of the images and below them."""
        height, width = x.shape[2:]
        whole = [-(-length // self.stride_px) * self.stride_px for length in (height, width)]
        filled = self._limits(x)[1].repeat(len(x), 1, *whole)
        filled[:, :, :height, :width] = x
        return filled

    def _limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Black and white as the network sees them, (1, 3, 1, 1) each."""
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return -mean / std, (1 - mean) / std

    def _encode(self, windows: Tensor) -> Tensor:
        if windows.shape[-1] != self.input_px:
            size = (self.input_px, self.input_px)
            windows = F.interpolate(windows, size=size, mode=self._interpolation, antialias=True)
            if self._interpolation == "bicubic":  # it overshoots; no picture is whiter than white
                black, white = self._limits(windows)
                windows = windows.clamp(black, white)
        features: Tensor = self.model(windows)
        return features


def build(name: str, *, num_classes: int | None, weights: str | Path | None, seed: int) -> WindowBackbone:
    """Build one of `MODELS`; without a weights file its weights are drawn from ``seed``.

    Raises:
        UsageError: timm is not installed or does not know the model, or a head was asked for.
        WeightsError: the file does not fit.
    """
    _refuse_head(name, num_classes)
    asked = WindowName(text=name, model=MODELS[name], repository=None, tokens=None, input_px=None)
    model = create_model(asked, weights=weights, seed=seed)
    mean, std = (cast(Rgb, tuple(pretrained_facts(model)[which])) for which in ("mean", "std"))
    return WindowBackbone(model, dim=int(cast(int, model.num_features)), mean=mean, std=std)


def build_named(
    name: str, *, num_classes: int | None, weights: str | Path | Given | None, seed: int
) -> WindowBackbone:
    """Build what ``timm:NAME`` or ``hf-hub:ORG/NAME`` stands for, with what timm knows of its input and pooling.

    Raises:
        UsageError: timm is not installed or does not know the model, the hub does not give it, or it cannot be run
            over windows.
        WeightsError: the weights do not fit.
    """
    _refuse_head(name, num_classes)
    asked = parse_window_name(name)
    model = create_model(asked, weights=weights, seed=seed)
    told, card = pretrained_facts(model), known(asked.repository)
    tokens = asked.tokens or card.tokens
    mean, std = (_rgb(name, which, getattr(card, which) or told.get(which)) for which in ("mean", "std"))
    input_px, interpolation = _input_px(name, told), _interpolation(name, told)
    pooled = Pooled(model, name=name, tokens=tokens)
    facts = {
        "timm": str(getattr(import_timm(name), "__version__", "unknown")),
        "architecture": ".".join(
            filter(None, (str(told.get("architecture", "")), str(told.get("tag") or "")))
        ),
        "tokens": pooled.rule,
        "input_px": input_px,
        "interpolation": interpolation,
        "mean": list(mean),
        "std": list(std),
    }
    dim = _try_out(pooled, name, input_px)
    return WindowBackbone(
        pooled, dim=dim, mean=mean, std=std, input_px=input_px, interpolation=interpolation, facts=facts,
        any_window=True,
    )  # fmt: skip


def _refuse_head(name: str, num_classes: int | None) -> None:
    if num_classes is not None:
        raise UsageError(f"backbone {name!r} is for features and has no head; leave num_classes out")


def _rgb(name: str, which: str, values: Any) -> Rgb:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"backbone {name!r}: its configuration should say {which} as three numbers, got {values!r}"
        ) from error
    return red, green, blue


def _input_px(name: str, told: Mapping[str, Any]) -> int:
    channels, height, width = (*told.get("input_size", ()), 0, 0, 0)[:3]
    if channels != 3 or height != width or height < 1:
        raise UsageError(
            f"backbone {name!r}: windows are RGB squares, and it takes {told.get('input_size')!r} (channels, height, "
            "width)"
        )
    return int(height)


def _interpolation(name: str, told: Mapping[str, Any]) -> Interpolation:
    found = told.get("interpolation") or "bicubic"
    if found not in ("bilinear", "bicubic"):
        raise UsageError(
            f"backbone {name!r} was trained on pictures resized by {found!r}; bilinear and bicubic are had here"
        )
    return cast(Interpolation, found)


@torch.inference_mode()
def _try_out(pooled: Pooled, name: str, input_px: int) -> int:
    """Run one window through the network; gives the number of features.

    Raises:
        UsageError: it does not take one, or gives something else than a vector.
    """
    try:
        found = pooled.eval()(torch.zeros(1, 3, input_px, input_px))
    except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        said = " ".join(str(error).split())[:300]
        raise UsageError(f"backbone {name!r} does not take a window of {input_px} px: {said}") from error
    if found.ndim != 2:
        raise UsageError(
            f"backbone {name!r} gives {tuple(found.shape)} for one window; expected (1, features)"
        )
    return int(found.shape[1])

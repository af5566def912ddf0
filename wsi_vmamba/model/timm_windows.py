"""Baselines of the field: a timm model slid over the region, one feature per window; needs the extra `timm`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wsi_vmamba.errors import UsageError, WeightsError
from wsi_vmamba.model.normalise import Rgb
from wsi_vmamba.model.variants import WINDOW_PX
from wsi_vmamba.model.weights import read_tensors

#: Backbone -> model of timm.
MODELS: Mapping[str, str] = {
    "timm_resnet152": "resnet152.a1h_in1k",
    "timm_swin_tiny": "swin_tiny_patch4_window7_224.ms_in1k",
    "timm_vit_small": "vit_small_patch16_224.augreg_in21k_ft_in1k",
}
#: Side that a window is resized to: what the three models were trained on.
INPUT_PX = 224
#: Windows in one forward pass.
BATCH = 64


class WindowBackbone(nn.Module):
    """A classifier without its head over windows that do not overlap: ``stride_px`` is the window."""

    stride_px = WINDOW_PX

    def __init__(self, model: nn.Module, *, mean: Rgb, std: Rgb) -> None:
        """Wrap ``model``, which maps (n, 3, 224, 224), normalised with ``mean`` and ``std``, to (n, dim)."""
        super().__init__()
        self.model = model
        self.dim = int(cast(int, model.num_features))
        self.mean, self.std = mean, std

    def forward_features(self, x: Tensor) -> Tensor:
        """Map normalised (B, 3, H, W) -> (B, dim, ceil(H/256), ceil(W/256)); white fills the windows at the border."""
        filled = self._fill_windows(x)
        rows = filled.shape[2] // WINDOW_PX
        windows = rearrange(filled, "b c (rows y) (cols x) -> (b rows cols) c y x", y=WINDOW_PX, x=WINDOW_PX)
        features = torch.cat([self._encode(part) for part in torch.split(windows, BATCH)])
        return rearrange(features, "(b rows cols) d -> b d rows cols", b=len(x), rows=rows)

    def _fill_windows(self, x: Tensor) -> Tensor:
        """Whole windows: white right of the images and below them."""
        height, width = x.shape[2:]
        white = x.new_tensor([(1 - mean) / std for mean, std in zip(self.mean, self.std, strict=True)])
        filled = white.view(1, 3, 1, 1).repeat(len(x), 1, _whole_windows_px(height), _whole_windows_px(width))
        filled[:, :, :height, :width] = x
        return filled

    def _encode(self, windows: Tensor) -> Tensor:
        resized = F.interpolate(windows, size=(INPUT_PX, INPUT_PX), mode="bilinear", antialias=True)
        features: Tensor = self.model(resized)
        return features


def _whole_windows_px(length_px: int) -> int:
    return -(-length_px // WINDOW_PX) * WINDOW_PX


def build(name: str, *, num_classes: int | None, weights: str | Path | None, seed: int) -> WindowBackbone:
    """Build one of `MODELS`; without a weights file its weights are drawn from ``seed``.

    Raises:
        UsageError: timm is not installed or does not know the model, or a head was asked for.
        WeightsError: the file does not fit.
    """
    if num_classes is not None:
        raise UsageError(f"backbone {name!r} is for features and has no head; leave num_classes out")
    timm = _timm(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: nn.Module = timm.create_model(MODELS[name], pretrained=False, num_classes=0)
        except RuntimeError as error:
            raise UsageError(f"this timm does not build {MODELS[name]}: {error}; update it") from error
    facts: Mapping[str, Any] = cast(Any, model).pretrained_cfg
    if weights is not None:
        _load(model, weights, head=facts.get("classifier") or ())
    mean, std = (cast(Rgb, tuple(facts[which])) for which in ("mean", "std"))
    return WindowBackbone(model, mean=mean, std=std)


def _timm(name: str) -> Any:
    try:
        import timm
    # With a torchvision built for another torch, importing it ends in a RuntimeError or an AttributeError.
    except (ImportError, RuntimeError, AttributeError) as error:
        raise UsageError(
            f"backbone {name!r} needs timm, which cannot be imported here ({error}): pip install 'wsi-vmamba[timm]', "
            "with a torchvision that matches torch"
        ) from error
    return timm


def _load(model: nn.Module, path: str | Path, *, head: str | tuple[str, ...]) -> None:
    """Copy a checkpoint into the model; its head, and nothing else, may be left over."""
    heads = (head,) if isinstance(head, str) else tuple(head)
    state = read_tensors(path)
    body = {key: value for key, value in state.items() if not any(key.startswith(f"{one}.") for one in heads)}
    own = model.state_dict()
    odd = sorted(
        key
        for key in own.keys() | body.keys()
        if key not in own
        or key not in body
        or own[key].shape != body[key].shape
        or own[key].is_floating_point() != body[key].is_floating_point()
    )
    if odd:
        raise WeightsError(
            f"{path} does not fit the model: missing, unexpected, of another shape or kind: {', '.join(odd[:6])}"
        )
    model.load_state_dict(body)

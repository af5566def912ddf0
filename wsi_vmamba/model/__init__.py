"""Backbones: the VMamba family and a stand-in without weights.

Importing this module loads no torch; building a backbone does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.config import VMambaConfig
from wsi_vmamba.model.window_names import HUB, TIMM, Given
from wsi_vmamba.registry import Family, Table

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BACKBONES", "VMambaConfig", "build_backbone", "stride_px"]

_VARIANT = "wsi_vmamba.model.build:variant"
_TIMM = "wsi_vmamba.model.timm_windows:build"
_BY_NAME = {
    "target": "wsi_vmamba.model.timm_windows:build_named",
    "check": "wsi_vmamba.model.window_names:check_window_name",
}

#: Name -> builder, called as ``builder(name, num_classes=, weights=, seed=)``; what it returns is an nn.Module
#: with ``dim``, ``stride_px``, ``mean`` and ``std`` (three numbers of RGB / 255 each: how its input is normalised) and
#: ``forward_features(x (B, 3, H, W)) -> (B, dim, ~H/stride, ~W/stride)``.
BACKBONES = Table(
    "backbone",
    {
        "vmamba_pico": _VARIANT,
        "vmamba_tiny_s1l8": _VARIANT,
        "vmamba_tiny_s2l5": _VARIANT,
        "vmamba_small_s1l20": _VARIANT,
        "vmamba_small_s2l15": _VARIANT,
        "vmamba_base_s1l20": _VARIANT,
        "vmamba_base_s2l15": _VARIANT,
        "vmamba_large": _VARIANT,
        "vmamba_tiny_v0": _VARIANT,
        "vmamba_small_v0": _VARIANT,
        "vmamba_base_v0": _VARIANT,
        "null": "wsi_vmamba.model.build:null",
        # Any network in a file, which is given as its weights; needs the extra `onnx`.
        "onnx": "wsi_vmamba.onnx_file.backbone:build",
        # Baselines of the field, window by window; they need the extra `timm`.
        "timm_resnet152": _TIMM,
        "timm_swin_tiny": _TIMM,
        "timm_vit_small": _TIMM,
    },
    # Any model of timm, and any of the hub that timm builds.
    families={
        TIMM: Family(shown="timm:NAME", **_BY_NAME),
        HUB: Family(shown="hf-hub:ORG/NAME", **_BY_NAME),
    },
)


def stride_px(name: str) -> int | None:
    """Pixels per token of a backbone along each axis; None where only the backbone itself, once built, can tell.

    Raises:
        UnknownNameError: no such backbone.
    """
    from wsi_vmamba.model.variants import STRIDES_PX

    return STRIDES_PX.get(BACKBONES.check(name))


def build_backbone(
    name_or_config: str | VMambaConfig | Mapping[str, Any],
    *,
    num_classes: int | None = None,
    weights: str | Path | Given | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build a backbone by name, from a `VMambaConfig`, or from a plain mapping of its fields.

    Args:
        name_or_config: a name in `BACKBONES`, or the numbers of a VMamba.
        num_classes: outputs of the head; None takes the weights file's, else the configuration's.
        weights: a .pth or .safetensors file; None initialises at random from ``seed``; `Given.BY_TIMM`, of a model of
            timm, those that timm finds or downloads.
        seed: of the initialisation; the global random state is left alone.

    Raises:
        UnknownNameError: no such backbone; the message lists them.
        UsageError: a field of the configuration is unknown or wrong.
        WeightsError: the file does not fit, or is not safe to load.
    """
    if isinstance(name_or_config, str):
        builder = BACKBONES.resolve(name_or_config)
        backbone: nn.Module = builder(name_or_config, num_classes=num_classes, weights=weights, seed=seed)
        return backbone
    if not isinstance(name_or_config, VMambaConfig | Mapping):
        raise UsageError(
            "a backbone is a name, a VMambaConfig or a mapping of its fields; "
            f"got {type(name_or_config).__name__}"
        )
    if isinstance(weights, Given):
        raise UsageError("a VMamba has no weights that timm finds; give a file, or none")
    from wsi_vmamba.model.build import from_config

    return from_config(name_or_config, num_classes=num_classes, weights=weights, seed=seed)

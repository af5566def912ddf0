"""The published VMambas and two of our own, small and large, as one table of numbers.

Widths double from stage to stage. s1/s2 is the ssm_ratio and l the depth of the third stage, as in the
published names; v0 is the first ("vanilla") generation: 16 states, a gate, no MLP. vmamba_pico and vmamba_large
are ours, nobody published them: the large one goes on where tiny, small and base end (206 M parameters).
"""

from __future__ import annotations

from collections.abc import Mapping

from wsi_vmamba.config import PlanConfig, default_of
from wsi_vmamba.model.config import VMambaConfig


def _second(depths: tuple[int, ...], width: int, ssm_ratio: float) -> VMambaConfig:
    return VMambaConfig(depths=depths, dims=_doubling(width), ssm_ratio=ssm_ratio)


def _vanilla(depths: tuple[int, ...], width: int) -> VMambaConfig:
    return VMambaConfig(
        depths=depths,
        dims=_doubling(width),
        ssm_ratio=2.0,
        d_state=16,
        mlp_ratio=0.0,
        gated=True,
        conv_bias=True,
        patch_embed=1,
        downsample=1,
        norm_layout="ln",
    )


def _doubling(width: int) -> tuple[int, ...]:
    return (width, 2 * width, 4 * width, 8 * width)


# fmt: off
VARIANTS: Mapping[str, VMambaConfig] = {
    "vmamba_pico":        _second((2, 2, 4, 2),   32, 1.0),
    "vmamba_tiny_s1l8":   _second((2, 2, 8, 2),   96, 1.0),
    "vmamba_tiny_s2l5":   _second((2, 2, 5, 2),   96, 2.0),
    "vmamba_small_s1l20": _second((2, 2, 20, 2),  96, 1.0),
    "vmamba_small_s2l15": _second((2, 2, 15, 2),  96, 2.0),
    "vmamba_base_s1l20":  _second((2, 2, 20, 2), 128, 1.0),
    "vmamba_base_s2l15":  _second((2, 2, 15, 2), 128, 2.0),
    "vmamba_large":       _second((2, 2, 22, 2), 192, 1.0),
    "vmamba_tiny_v0":     _vanilla((2, 2, 9, 2),   96),
    "vmamba_small_v0":    _vanilla((2, 2, 27, 2),  96),
    "vmamba_base_v0":     _vanilla((2, 2, 27, 2), 128),
}
# fmt: on

#: Side of the squares that the backbone without weights averages over.
SQUARE_PX = 32
#: Side of the window of the timm backbones in region pixels: the default patch, so that patches are those of others.
WINDOW_PX: int = default_of(PlanConfig, "patch_px")
#: Baselines of timm that have names of their own.
TIMM_ALIASES = ("timm_resnet152", "timm_swin_tiny", "timm_vit_small")
#: Backbone -> pixels per token, of those whose stride is known before they are built.
STRIDES_PX: Mapping[str, int] = {
    **{name: config.stride_px for name, config in VARIANTS.items()},
    "null": SQUARE_PX,
    **dict.fromkeys(TIMM_ALIASES, WINDOW_PX),
}

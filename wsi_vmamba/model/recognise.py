"""Which VMamba a state dict is of, from the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from wsi_vmamba.errors import UsageError, WeightsError
from wsi_vmamba.model.config import Downsample, VMambaConfig
from wsi_vmamba.model.key_names import as_linear
from wsi_vmamba.model.variants import VARIANTS

_BLOCK = re.compile(r"^layers\.(\d+)\.blocks\.(\d+)\.")
#: What shapes do not show; a variant has its own.
_UNSEEN = ("norm_layout", "num_classes")


def recognise(state: Mapping[str, Tensor]) -> str:
    """Return the name in `VARIANTS` that a state dict with today's key names is of.

    Raises:
        WeightsError: it is of no VMamba, or of one that is not in the table; the message says of which.
    """
    found = config_of(state)
    for name, known in VARIANTS.items():
        if replace(found, **{field: getattr(known, field) for field in _UNSEEN}) == known:
            return name
    raise WeightsError(
        f"these are weights of a VMamba that is not in the table: {_described(found)}. Its variants are "
        + "; ".join(f"{name}: {_described(known)}" for name, known in VARIANTS.items())
    )


def config_of(state: Mapping[str, Tensor]) -> VMambaConfig:
    """The numbers of the model, as far as shapes show them.

    Raises:
        WeightsError: tensors are missing, or contradict each other.
    """
    try:
        return _config(state)
    except KeyError as error:
        raise WeightsError(
            f"these are no weights of a VMamba: {error.args[0]} is missing among {len(state)} tensors "
            f"({', '.join(list(state)[:3])}, ...)"
        ) from None
    except (IndexError, ZeroDivisionError, UsageError) as error:
        raise WeightsError(f"these are no weights of a VMamba: {error}") from error


def _config(state: Mapping[str, Tensor]) -> VMambaConfig:
    places = [(int(found[1]), int(found[2])) for key in state if (found := _BLOCK.match(key))]
    if not places:
        raise KeyError("layers.0.blocks.0.norm.weight")
    stages = range(1 + max(stage for stage, _ in places))
    first = "layers.0.blocks.0."
    scan = f"{first}op."
    width = _rows(state, f"{first}norm.weight")
    d_inner = _rows(state, f"{scan}out_norm.weight")
    mlp = f"{first}mlp.fc1.weight"
    return VMambaConfig(
        depths=tuple(1 + max((block for at, block in places if at == stage), default=-1) for stage in stages),
        dims=tuple(_rows(state, f"layers.{stage}.blocks.0.norm.weight") for stage in stages),
        ssm_ratio=d_inner / width,
        d_state=state[f"{scan}A_logs"].shape[-1],
        mlp_ratio=_rows(state, mlp) / width if mlp in state else 0.0,
        gated=_rows(state, f"{scan}in_proj.weight") == 2 * d_inner,
        conv_bias=f"{scan}conv2d.bias" in state,
        patch_embed=2 if "patch_embed.5.weight" in state else 1,
        downsample=_downsample(state, stages=len(stages)),
        share_directions=_rows(state, f"{scan}x_proj_weight") == 1,
    )


def _downsample(state: Mapping[str, Tensor], *, stages: int) -> Downsample:
    if stages == 1 or "layers.0.downsample.reduction.weight" in state:
        return 1 if stages > 1 else 3
    side = as_linear(state["layers.0.downsample.1.weight"]).shape[-1]
    return 2 if side == 2 else 3


def _rows(state: Mapping[str, Tensor], key: str) -> int:
    return int(state[key].shape[0])


def _described(config: VMambaConfig) -> str:
    return (
        f"depths {config.depths}, dims {config.dims}, ssm_ratio {config.ssm_ratio:g}, {config.d_state} states, "
        f"mlp_ratio {config.mlp_ratio:g}"
        + ", gated" * config.gated
        + ", shared directions" * config.share_directions
        + f", stem {config.patch_embed}, downsampling {config.downsample}"
    )

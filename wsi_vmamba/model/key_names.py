"""The many names that checkpoints of VMamba give one tensor, brought to today's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from wsi_vmamba.errors import WeightsError

#: Names of earlier releases of the published code -> today's.
_RENAMES = (
    (re.compile(r"^patch_embed\.proj\."), "patch_embed.0."),
    (re.compile(r"^patch_embed\.norm\."), "patch_embed.2."),
    (re.compile(r"^(layers\.\d+\.blocks\.\d+)\.ln_1\."), r"\1.norm."),
    (re.compile(r"^(layers\.\d+\.blocks\.\d+)\.self_attention\."), r"\1.op."),
    (re.compile(r"^(norm|head)\."), r"classifier.\1."),
)
#: One linear layer for each direction of the scan, where today's tensor holds all of them.
_ONE_EACH = re.compile(r"^(.*\.op\.(?:x_proj|dt_projs))\.(\d+)\.(weight|bias)$")
#: What counters and averages leave among the weights: profilers, torch's running average of a model.
_BOOKKEEPING = re.compile(r"(^|\.)(total_ops|total_params|n_averaged)$")


def todays_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename, join and leave out until the keys are those of `wsi_vmamba.model.vmamba`; values are not changed.

    Raises:
        WeightsError: two keys stand for one tensor, or the layers of a scan's directions do not belong together.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if _BOOKKEEPING.search(key):
            continue
        new = todays_name(key)
        if new in renamed:
            raise WeightsError(
                f"the checkpoint holds {new} twice, once as {key}; save the state dict of one model"
            )
        renamed[new] = value
    return _scan_shapes(_joined(renamed))


def todays_name(key: str) -> str:
    """Today's name of one key."""
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    return key


def as_linear(value: Tensor) -> Tensor:
    """The weight of a 1x1 convolution as that of the linear layer it is; anything else as it is."""
    return value.flatten(1) if value.ndim == 4 and value.shape[2:] == (1, 1) else value


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stack ``x_proj.0.weight``, ``x_proj.1.weight`` ... to ``x_proj_weight``."""
    joined = {key: value for key, value in state.items() if not _ONE_EACH.match(key)}
    lists: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for key, value in state.items():
        if found := _ONE_EACH.match(key):
            lists[f"{found[1]}_{found[3]}"][int(found[2])] = value
    for key, parts in lists.items():
        shapes = {tuple(part.shape) for part in parts.values()}
        if sorted(parts) != list(range(len(parts))) or len(shapes) > 1 or key in joined:
            raise WeightsError(
                f"the checkpoint gives {key} one direction at a time, but those do not belong together: directions "
                f"{sorted(parts)}, shapes {sorted(shapes)}{', and the whole besides' if key in joined else ''}"
            )
        joined[key] = torch.stack([parts[number] for number in sorted(parts)])
    return joined


def _scan_shapes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A and D by direction, (K, D, N) and (K, D), laid end to end as they are today."""
    rank = {"A_logs": 3, "Ds": 2}
    return {
        key: value.flatten(0, 1) if value.ndim == rank.get(key.rpartition(".")[2]) else value
        for key, value in state.items()
    }

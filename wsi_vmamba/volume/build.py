"""From a name and weights to a network for volumes; weights of a two-dimensional network are inflated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.config import VMambaConfig
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.weights import apply_state, classes_in, read_state
from wsi_vmamba.ops.volume import PATHS, PLANE_PATHS
from wsi_vmamba.volume.network import VMamba3D

#: What the names of parameters that only a network for volumes has end with.
_ONLY_VOLUMES = ".op.conv_t.weight"
#: The direction of a map that each path through the planes begins as a copy of: along rows, and its reverse.
_COPIED = [0, 2]


def build_volume(
    name_or_config: str | VMambaConfig,
    *,
    num_classes: int | None = None,
    weights: str | Path | None = None,
    frames_per_token: int = 1,
    seed: int = 0,
) -> VMamba3D:
    """Build a VMamba for volumes.

    Args:
        name_or_config: a VMamba of the table of backbones, or its numbers.
        num_classes: outputs of the head; None takes those of the weights, else the configuration's.
        weights: a file of such a network, or of a two-dimensional one, which is then inflated (`inflate`); None
            draws from ``seed``.
        frames_per_token: planes that the stem takes together.
        seed: of random weights; the global random state is left alone.

    Raises:
        UsageError: the name is no VMamba's.
        WeightsError: the file does not fit.
    """
    if isinstance(name_or_config, str) and name_or_config not in VARIANTS:
        raise UsageError(
            f"only VMamba backbones have a form for volumes, {name_or_config} is none; choose from "
            f"{', '.join(VARIANTS)}"
        )
    config = VARIANTS[name_or_config] if isinstance(name_or_config, str) else name_or_config
    state = None if weights is None else read_state(weights)
    classes = num_classes if num_classes is not None else None if state is None else classes_in(state)
    if classes is not None:
        config = config.with_classes(classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VMamba3D(config, frames_per_token=frames_per_token)
    if state is not None:
        apply_state(model, for_volumes(state, frames_per_token=frames_per_token), source=str(weights))
    return model


def for_volumes(state: Mapping[str, Tensor], *, frames_per_token: int) -> dict[str, Tensor]:
    """A state dict as it is if it is that of a network for volumes, else inflated."""
    if any(name.endswith(_ONLY_VOLUMES) for name in state):
        return dict(state)
    return inflate(state, frames_per_token=frames_per_token)


def inflate(state: Mapping[str, Tensor], *, frames_per_token: int = 1) -> dict[str, Tensor]:
    """The weights of a two-dimensional VMamba, for volumes.

    The four paths within planes have the weights of the four directions. The two through the planes begin as copies of
    the directions along rows whose C and D are zero: they add nothing yet, and learn from the first step on. The
    convolution across planes begins as the identity, and a stem that takes several planes as their mean. So a volume
    of one plane, or of as many equal planes as the stem takes, has the features of that picture.

    Args:
        state: of a `VMamba`, under today's names.
        frames_per_token: of the network for volumes.
    """
    grown = {name: _grown(name, value, state) for name, value in state.items()}
    for name, value in state.items():
        if name.endswith(".op.conv2d.weight"):
            identity = value.new_zeros(len(value), 1, 3)
            identity[:, :, 1] = 1
            grown[name.removesuffix("conv2d.weight") + "conv_t.weight"] = identity
    stem = grown.get("patch_embed.0.weight")
    if stem is not None:
        grown["patch_embed.0.weight"] = stem.repeat(1, frames_per_token, 1, 1) / frames_per_token
    return grown


def _grown(name: str, value: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """One parameter with the sets of the two paths through the planes behind those of the four directions."""
    part = name.rpartition(".op.")[2]
    if part not in {"x_proj_weight", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds"}:
        return value
    flat = part in {"A_logs", "Ds"}
    if len(value) % PLANE_PATHS or (not flat and len(value) != PLANE_PATHS):
        return value  # not the weights of such a network; loading them says so
    by_direction = value.reshape(PLANE_PATHS, -1, *value.shape[1:]) if flat else value
    added = by_direction[_COPIED].clone()
    if part == "Ds":
        added.zero_()
    if part == "x_proj_weight":
        states = state[name.removesuffix("x_proj_weight") + "A_logs"].shape[1]
        added[:, -states:] = 0
    whole = torch.cat([by_direction, added])
    assert len(whole) == PATHS
    return whole.flatten(0, 1) if flat else whole

"""From a name or a configuration to a backbone with weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.config import VMambaConfig
from wsi_vmamba.model.null import NullBackbone
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import apply_state, classes_in, read_state


def vmamba(config: VMambaConfig, *, num_classes: int | None, weights: str | Path | None, seed: int) -> VMamba:
    """Build a VMamba; its head follows ``num_classes``, else the weights file, else the configuration."""
    state = None if weights is None else read_state(weights)
    found = None if state is None else classes_in(state)
    classes = num_classes if num_classes is not None else found
    if classes is not None:
        config = config.with_classes(classes)
    # Its own random stream: the same seed gives the same weights, and the caller's stream is left alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VMamba(config)
    if state is not None:
        apply_state(model, state, source=str(weights))
    return model


def variant(name: str, *, num_classes: int | None, weights: str | Path | None, seed: int) -> VMamba:
    """Build one of the `VARIANTS` by name."""
    return vmamba(VARIANTS[name], num_classes=num_classes, weights=weights, seed=seed)


def null(name: str, *, num_classes: int | None, weights: str | Path | None, seed: int) -> NullBackbone:
    """Build the backbone without weights; it has no head and nothing to load or to draw."""
    if weights is not None or num_classes is not None:
        raise UsageError(
            f"backbone {name!r} has neither weights nor a head; leave weights and num_classes out"
        )
    return NullBackbone()


def from_config(
    config: VMambaConfig | Mapping[str, Any],
    *,
    num_classes: int | None,
    weights: str | Path | None,
    seed: int,
) -> nn.Module:
    """Build from explicit fields."""
    if not isinstance(config, VMambaConfig):
        config = VMambaConfig.from_mapping(config)
    return vmamba(config, num_classes=num_classes, weights=weights, seed=seed)

"""The encoder of a run, built once by whoever encodes and passed on, and what it is in words."""

from __future__ import annotations

import json

import torch

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.encode import Encoder, build_encoder, facts_of, scans
from wsi_vmamba.extraction.focal_stacks import load_focal_encoder
from wsi_vmamba.extraction.in_scratch import in_scratch
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.ops import choose_backend


def load_encoder(config: ExtractConfig) -> Encoder:
    """Build the encoder that a configuration asks for.

    Raises:
        UsageError: the backbone has no weights of its own and none are named, or the device is not there.
        WeightsError: the weights do not fit.
    """
    if config.focal_planes == "all":
        stacked = load_focal_encoder(config)
        in_scratch(config, stacked)
        return stacked
    encoder = build_encoder(
        config.backbone,
        weights=config.weights,
        precision=config.precision,
        device=config.device,
        seed=config.seed,
        memory_limit=None if config.memory_limit_gb is None else int(config.memory_limit_gb * 1e9),
        patch_px=config.patch_px,
    )
    in_scratch(config, encoder)  # refuses what no slide can be
    return encoder


def describe_encoder(config: ExtractConfig, encoder: Encoder) -> dict[str, str]:
    """What makes the features of an encoder what they are: model, weights, device, precision."""
    kernel, why = choose_backend(torch.device(encoder.device), torch.float32)
    scan = {"scan_kernel": kernel, "scan_kernel_why": why} if scans(encoder) else {}
    facts = facts_of(encoder)
    return {
        "backbone": encoder.name,
        "weights": resolve_weights(config.backbone, config.weights).note,
        "weights_hash": encoder.weights_hash,
        "device": encoder.device,
        "precision": encoder.precision,
        **scan,
        **({"encoder": json.dumps(facts, sort_keys=True)} if facts else {}),
    }

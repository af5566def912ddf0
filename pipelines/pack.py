"""Recipe: a trained run to one file."""

from __future__ import annotations

from wsi_vmamba import console
from wsi_vmamba.config import PackConfig
from wsi_vmamba.prediction.packing import pack


def run(config: PackConfig) -> bool:
    """Pack the run; return True."""
    packed = pack(config)
    reference = packed.model.reference
    assert reference is not None  # pack refuses a model without one
    origin = reference.origin
    weights = (
        "with the backbone's weights"
        if packed.with_encoder
        else f"backbone {origin.model} by its hash {origin.weights_hash[:12]}…"
    )
    console.say(
        f"{packed.path}: {packed.n_bytes / 1e6:.1f} MB, {len(packed.model.members)} classifier(s), {weights}, "
        f"{len(reference.slide_ids)} training slides summed up"
    )
    console.say(f"use it with: wsi-vmamba predict {packed.path} SLIDES")
    return True

"""Judging encoders on labelled tiles: linear probe, nearest neighbours, few shots, leakage of the slide of origin.

Importing this module loads no torch.
"""

from __future__ import annotations

from wsi_vmamba.registry import Table

__all__ = ["TILE_ENCODERS"]

#: Name -> function ``(tiles (B, H, W, 3) uint8 RGB) -> (B, D)``, for what is no backbone.
TILE_ENCODERS = Table(
    "tile encoder",
    {
        "colour_texture": "wsi_vmamba.probing.colour_texture:encode",
    },
)

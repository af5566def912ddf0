"""The C++ kernels of the CPU in one place; `available` says whether they are here, `why` why not."""

from __future__ import annotations

import torch

from wsi_vmamba.ops.cpu_module import available, instruction_sets, isa, why
from wsi_vmamba.ops.local import depthwise_silu, layer_norm, silu_
from wsi_vmamba.ops.packing import ScanWeights, pack_scan
from wsi_vmamba.ops.strips import StripCarries
from wsi_vmamba.ops.walked_map import walk_map, walk_map_gradients
from wsi_vmamba.ops.whole_map import STORAGE, scan_map, scan_map_gradients, ss2d_scan

__all__ = [
    "ScanWeights",
    "StripCarries",
    "available",
    "depthwise_silu",
    "instruction_sets",
    "isa",
    "layer_norm",
    "pack_scan",
    "scan_map",
    "scan_map_gradients",
    "silu_",
    "ss2d_scan",
    "supports",
    "walk_map",
    "walk_map_gradients",
    "why",
]


def supports(dtype: torch.dtype) -> bool:
    """Tell whether the kernels take maps of this dtype."""
    return dtype in STORAGE

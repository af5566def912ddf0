"""What a VMamba sees, from where and in which direction: receptive field, activation, ablation, oriented textures.

Importing this module loads no torch.
"""

from __future__ import annotations

from wsi_vmamba.registry import Table

__all__ = ["ANALYSES"]

#: Name -> function ``(config: AnalyseConfig, *, report) -> Finding`` (`wsi_vmamba/analysis/finding.py`).
ANALYSES = Table(
    "analysis",
    {
        "erf": "wsi_vmamba.analysis.erf:analyse_erf",
        "activation": "wsi_vmamba.analysis.activation:analyse_activation",
        "directions": "wsi_vmamba.analysis.directions:analyse_directions",
        "scan-order": "wsi_vmamba.analysis.scan_order:analyse_scan_order",
    },
)

"""Aggregators: the cells of a slide in, one decision out. Any number of cells fits in memory."""

from wsi_vmamba.registry import Table

AGGREGATORS = Table(
    "aggregator",
    {
        "abmil": "wsi_vmamba.mil.abmil:GatedAbmil",
        "max": "wsi_vmamba.mil.max:MaxPool",
        "mean": "wsi_vmamba.mil.mean:MeanPool",
    },
)

__all__ = ["AGGREGATORS"]

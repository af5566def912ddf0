"""Aggregators: from the patches of a slide to one decision. Slides of any number of patches fit in memory."""

from wsi_vmamba.registry import Table

AGGREGATORS = Table(
    "aggregator",
    {
        "abmil": "wsi_vmamba.mil.abmil:ABMIL",
        "clam_mb": "wsi_vmamba.mil.clam_mb:CLAM_MB",
        "clam_sb": "wsi_vmamba.mil.clam_sb:CLAM_SB",
        "dsmil": "wsi_vmamba.mil.dsmil:DSMIL",
        "max": "wsi_vmamba.mil.max:MaxPool",
        "mean": "wsi_vmamba.mil.mean:MeanPool",
        "ss2d": "wsi_vmamba.mil.ss2d:SS2DMIL",
        "transmil": "wsi_vmamba.mil.transmil:TransMIL",
    },
)

#: What `train --supervision` offers; each is a `Supervision`.
SUPERVISIONS = Table(
    "supervision",
    {
        "both": "wsi_vmamba.mil.supervision:BOTH",
        "dense": "wsi_vmamba.mil.supervision:DENSE",
        "slide": "wsi_vmamba.mil.supervision:SLIDE",
    },
)

__all__ = ["AGGREGATORS", "SUPERVISIONS"]

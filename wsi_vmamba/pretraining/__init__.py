"""Pretraining of a backbone, straight from slides: what is learned (OBJECTIVES), from what, and the loop around it.

Importing this loads no torch; an objective does.
"""

from wsi_vmamba.registry import Table

#: Name -> a subclass of `wsi_vmamba.pretraining.objectives.base.Objective`.
OBJECTIVES = Table(
    "objective",
    {
        "barlow_twins": "wsi_vmamba.pretraining.objectives.barlow_twins:BarlowTwins",
        "dino": "wsi_vmamba.pretraining.objectives.dino:Dino",
        "distil": "wsi_vmamba.pretraining.objectives.distil:Distil",
        "measured": "wsi_vmamba.pretraining.objectives.measured:Measured",
        "painted": "wsi_vmamba.pretraining.objectives.painted:PaintedTissue",
    },
)

__all__ = ["OBJECTIVES"]

"""A VMamba some of whose scans give nothing, in every block."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.ss2d import DIRECTIONS, SS2D
from wsi_vmamba.model.vmamba import VMamba


def without_scans(model: VMamba, scans: Sequence[int]) -> VMamba:
    """A copy in which some of the four scans give 0 everywhere: their C and their skip D are 0.

    What is left is added and normalised as before. Without all four, a block's branch is the constant that its norm's
    bias makes through the output projection (times the gate, where there is one).

    Raises:
        UsageError: a scan is not one of 0 to 3, or is named twice.
    """
    if len(set(scans)) != len(scans) or not set(scans) <= set(range(DIRECTIONS)):
        raise UsageError(f"scans are different numbers from 0 to {DIRECTIONS - 1}, got {list(scans)}")
    changed = copy.deepcopy(model)
    for module in changed.modules():
        if isinstance(module, SS2D):
            silence(module, scans)
    return changed


@torch.no_grad()
def silence(op: SS2D, scans: Sequence[int]) -> None:
    """Have some scans of one layer give 0; parameters that all four share are spelt out first."""
    names = ("x_proj_weight", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds")
    for name, values in zip(names, op.scan_parameters(), strict=True):
        trained = getattr(op, name).requires_grad
        setattr(op, name, nn.Parameter(values.detach().clone(), requires_grad=trained))
    first_of_c = op.dt_rank + op.d_state
    for scan in scans:
        op.x_proj_weight[scan, first_of_c:] = 0
        op.Ds[scan * op.d_inner : (scan + 1) * op.d_inner] = 0

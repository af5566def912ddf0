"""Whether features still differ from one another, which self-supervised training can lose while its loss looks well."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

#: Beneath these, features are taken to have collapsed.
LEAST_STD, LEAST_RANK = 0.02, 1.5


@torch.no_grad()
def feature_std(features: Tensor) -> float:
    """Spread of unit features (n, dim) over a batch: 1 where directions are evenly spread, 0 where all are the same."""
    units = F.normalize(features.float(), dim=1)
    return float(units.std(dim=0, correction=0).square().sum().sqrt())


@torch.no_grad()
def effective_rank(features: Tensor) -> float:
    """Directions that features (n, dim) use: exp of the entropy of the singular values of the centred unit features.

    Roy and Vetterli 2007; from 1 to min(n - 1, dim). 0 where all features are the same.
    """
    units = F.normalize(features.float(), dim=1)
    values = torch.linalg.svdvals(units - units.mean(dim=0))
    if float(values.sum()) < 1e-6:
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def describe_collapse(numbers: Mapping[str, float]) -> str:
    """Say how the numbers of a batch show that features have collapsed; empty where they do not."""
    if numbers["feature_std"] < LEAST_STD:
        return f"features of all squares are nearly the same (feature_std {numbers['feature_std']:.2g})"
    if numbers["effective_rank"] < LEAST_RANK:
        return f"features differ in one direction only (effective_rank {numbers['effective_rank']:.2f})"
    return ""

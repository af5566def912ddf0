"""What training minimises: the loss of a slide, from its label, its outlines or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from wsi_vmamba.bags import Bag
from wsi_vmamba.mil.supervision import Supervision
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.training.model import SlideOutput
from wsi_vmamba.training.slides import label_of

#: Gives the targets of a slide's patches, (N,) float32: 1 tumour, 0 none, NaN unknown.
LoadTargets = Callable[[SlideRecord, Bag], NDArray[np.float32]]
#: Says what the targets of a slide are made from, in a few words that change when that does.
DescribeTargets = Callable[[SlideRecord], str]


class Objective:
    """The loss of a slide: cross-entropy of its label, weighted by class, plus that of its patches."""

    def __init__(
        self, supervision: Supervision, class_weights: Sequence[float], load_targets: LoadTargets
    ) -> None:
        """Keep what is supervised, the weight of each label, and where targets of patches come from."""
        self.supervision = supervision
        self.class_weights = class_weights
        self.load_targets = load_targets

    def training_loss(self, output: SlideOutput, record: SlideRecord, bag: Bag) -> Tensor:
        """Loss () of a slide, the aggregator's auxiliary loss included."""
        loss = self.validation_loss(output, record, bag)
        if output.auxiliary is None:
            return loss
        label = label_of(record)
        return loss + output.auxiliary(label).float() * self.class_weights[label]

    def validation_loss(self, output: SlideOutput, record: SlideRecord, bag: Bag) -> Tensor:
        """Loss () of a slide without the auxiliary part, which says nothing about predictions."""
        loss = output.logits.new_zeros((), dtype=torch.float32)
        label = label_of(record)
        if self.supervision.slides:
            target = torch.tensor(label, device=output.logits.device)
            loss = loss + F.cross_entropy(output.logits.float(), target) * self.class_weights[label]
        if self.supervision.patches and output.patches is not None:
            targets = torch.from_numpy(self.load_targets(record, bag)).to(output.patches.device)
            loss = loss + patch_loss(output.patches.float(), targets)
        return loss


def patch_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of patches, half of it from tumour and half from the rest, however few those are.

    Args:
        logits: (N,).
        targets: (N,): 1, 0, or NaN for patches that are left out.

    Returns:
        The loss (); a kind of patch that the slide does not have adds nothing.
    """
    losses = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(targets), reduction="none")
    total = 0.0 * logits.sum()  # a slide without known patches still has gradients: zeros
    for kind in (targets == 0, targets == 1):
        total = total + 0.5 * torch.where(kind, losses, 0.0).sum() / kind.sum().clamp_min(1)
    return total

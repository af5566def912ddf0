"""The instance loss of CLAM: the patches with the highest and the lowest attention are classified, per class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Patches of each kind that are looked at, fewer on slides with fewer than twice as many.
SAMPLED_PATCHES = 8
#: Weight against the loss of the slide: the authors give them 0.3 and 0.7.
WEIGHT = 0.3 / 0.7


class InstanceLoss(nn.Module):
    """One binary classifier of patches per class; that of the slide's label calls its most attended patches 1.

    Of more than two classes a slide is of one only (the authors' subtyping): the classifier of every other class calls
    the patches that it would be most attended for 0, and the loss is the mean over the classes.

    Differs from the authors' code in the loss: cross-entropy, which they offer too, for their smoothed SVM.
    """

    def __init__(self, hidden_dim: int, num_classes: int) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(nn.Linear(hidden_dim, 2) for _ in range(num_classes))

    def forward(self, features: Tensor, scores: Tensor, embed: nn.Module, *, label: int) -> Tensor:
        """Loss () of a slide; 0 where it has one patch.

        Args:
            features: (N, in_dim).
            scores: (N, branches), attention before the softmax, of each class or of all together.
            embed: takes patches (n, in_dim) to (n, hidden_dim).
            label: of the slide.
        """
        sampled = min(SAMPLED_PATCHES, len(features) // 2)
        if sampled == 0:
            return scores.new_zeros(())
        own = self._inside(features, _branch(scores, label), embed, label=label, sampled=sampled)
        if len(self.classifiers) == 2:
            return own
        others = [
            self._outside(features, _branch(scores, other), embed, other=other, sampled=sampled)
            for other in range(len(self.classifiers))
            if other != label
        ]
        return torch.stack([own, *others]).mean()

    def _outside(
        self, features: Tensor, scores: Tensor, embed: nn.Module, *, other: int, sampled: int
    ) -> Tensor:
        """Loss () of a class that the slide is not of."""
        logits = self.classifiers[other](embed(features[scores.topk(sampled).indices]))
        return WEIGHT * F.cross_entropy(logits, logits.new_zeros(sampled, dtype=torch.int64))

    def _inside(
        self, features: Tensor, scores: Tensor, embed: nn.Module, *, label: int, sampled: int
    ) -> Tensor:
        """Loss () of the class that the slide is of."""
        most, least = (scores.topk(sampled, largest=largest).indices for largest in (True, False))
        # Only these few are embedded again, which is cheaper than keeping the embedding of every patch.
        logits = self.classifiers[label](embed(features[torch.cat([most, least])]))
        target = torch.ones(2 * sampled, dtype=torch.int64, device=logits.device)
        target[sampled:] = 0
        return WEIGHT * F.cross_entropy(logits, target)


def _branch(scores: Tensor, label: int) -> Tensor:
    """Scores (N,) of a class, or those that all classes share."""
    return scores[:, label if scores.shape[1] > 1 else 0]

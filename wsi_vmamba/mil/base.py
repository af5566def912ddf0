"""What every aggregator shares: its output, the check of its input, and patches taken in pieces."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wsi_vmamba.errors import DatasetError, UsageError

#: Patches embedded at a time; bounds memory whatever the slide's size. Smaller pieces need more memory, not less:
#: their blocks come from the heap, where the results in between keep the freed ones from being used again.
CHUNK_PATCHES = 65_536

T = TypeVar("T")


class MilOutput(NamedTuple):
    """What an aggregator says of one slide.

    Attributes:
        logits: (num_classes,).
        attention: (N,), sums to 1, from an aggregator that weighs patches; else None.
        auxiliary: from an aggregator that learns more than the slide's label: takes the label of the slide and
            returns a loss () to be added to that of the logits. A function, so that `forward` never sees labels.
        class_attention: (num_classes, N), each row sums to 1, from an aggregator whose classes weigh patches apart.
    """

    logits: Tensor
    attention: Tensor | None
    auxiliary: Callable[[int], Tensor] | None = None
    class_attention: Tensor | None = None


def check_patches(features: Tensor, coords: Tensor, *, in_dim: int) -> None:
    """Check the input of an aggregator.

    Args:
        features: (N, in_dim) floating point, N at least 1.
        coords: (N, 2) int64, place (col, row) of each patch on the slide's patch grid.
        in_dim: the length of a feature the aggregator was built for.

    Raises:
        DatasetError: the bag is empty.
        UsageError: shapes or types do not match.
    """
    if features.ndim != 2 or features.shape[1] != in_dim or not features.is_floating_point():
        raise UsageError(
            f"expected features of shape (N, {in_dim}), floating point; "
            f"got {tuple(features.shape)} {features.dtype}"
        )
    if len(features) == 0:
        raise DatasetError("the bag is empty: a slide without patches cannot be classified")
    if coords.shape != (len(features), 2) or coords.dtype != torch.int64:
        raise UsageError(
            f"expected coords of shape ({len(features)}, 2), int64; got {tuple(coords.shape)} {coords.dtype}"
        )


def map_patches(function: Callable[..., T], *patches: Tensor) -> list[T]:
    """Apply ``function`` to pieces of at most CHUNK_PATCHES patches, the same piece of each tensor.

    With gradients on and more than one piece, what happens inside a piece is computed again in the backward
    pass instead of being kept, so that memory is bounded in training too.
    """
    pieces = list(zip(*(torch.split(tensor, CHUNK_PATCHES) for tensor in patches), strict=True))
    if len(pieces) == 1 or not torch.is_grad_enabled():
        return [function(*piece) for piece in pieces]
    return [checkpoint(function, *piece, use_reentrant=False) for piece in pieces]


def patch_embedding(*, in_dim: int, hidden_dim: int, dropout: float) -> nn.Sequential:
    """Build the layer that all aggregators put before pooling: linear, ReLU, dropout."""
    return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.ReLU(), nn.Dropout(dropout))


class Aggregator(nn.Module):
    """Abstract: embed each patch of a slide, bring the embeddings down to the slide's logits."""

    def __init__(
        self, in_dim: int, num_classes: int, *, hidden_dim: int = 128, dropout: float = 0.25
    ) -> None:
        """Build the layers.

        Args:
            in_dim: length of a patch's feature.
            num_classes: logits of a slide.
            hidden_dim: length of an embedding.
            dropout: of the embedding, in training.
        """
        super().__init__()
        self.in_dim = in_dim
        self.embed = patch_embedding(in_dim=in_dim, hidden_dim=hidden_dim, dropout=dropout)
        self.add_layers(hidden_dim=hidden_dim, num_classes=num_classes, dropout=dropout)

    @abstractmethod
    def add_layers(self, *, hidden_dim: int, num_classes: int, dropout: float) -> None:
        """Add the layers behind the embedding."""

    @abstractmethod
    def classify(self, features: Tensor, coords: Tensor) -> MilOutput:
        """As `forward`, of input that was checked."""

    def forward(self, features: Tensor, coords: Tensor) -> MilOutput:
        """Classify one slide: features (N, in_dim) and coords (N, 2) int64 (col, row).

        Raises:
            DatasetError: the bag is empty.
            UsageError: shapes or types do not match.
        """
        check_patches(features, coords, in_dim=self.in_dim)
        return self.classify(features, coords)


class PlainPool(Aggregator):
    """Abstract: the embeddings of a slide become one, which is classified. Gives no attention."""

    def add_layers(self, *, hidden_dim: int, num_classes: int, dropout: float) -> None:
        """See `Aggregator.add_layers`."""
        self.classifier = nn.Linear(hidden_dim, num_classes)

    @abstractmethod
    def pool(self, features: Tensor) -> Tensor:
        """Bring features (N, in_dim) down to one embedding (hidden_dim,)."""

    def classify(self, features: Tensor, coords: Tensor) -> MilOutput:
        """Classify one slide: features (N, in_dim), coords (N, 2) int64 (col, row) to logits (num_classes,)."""
        return MilOutput(logits=self.classifier(self.pool(features)), attention=None)

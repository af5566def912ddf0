"""What a model of timm gives for a window, brought to one vector: its own pooling, or a choice of its tokens."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.window_names import Tokens

#: timm's words for how a transformer pools -> ours.
_OWN_WORDS = {"token": "class", "avg": "mean"}


class Pooled(nn.Module):
    """Normalised windows (n, 3, px, px) to features (n, dim).

    Without ``tokens`` the model pools as its configuration says. One that says nothing gives all its tokens: its class
    token and the mean of its patch tokens are taken, or the mean alone where it has no class token. Prefix tokens
    (class, distillation, registers) are never averaged.
    """

    def __init__(self, model: nn.Module, *, name: str, tokens: Tokens | None) -> None:
        """Wrap a model without a head; ``name`` is for messages."""
        super().__init__()
        self.model = model
        self._name, self._tokens = name, tokens

    @property
    def rule(self) -> str:
        """What is taken, in a word: "class", "mean", "class+mean", or timm's word for the model's own pooling."""
        if self._tokens is not None:
            return self._tokens
        own = _own_pooling(self.model)
        if own == "":
            return self._default_tokens()
        return _OWN_WORDS.get(own, own) if _n_prefix(self.model) is not None else own

    def forward(self, windows: Tensor) -> Tensor:
        """See the class.

        Raises:
            UsageError: the model has no such tokens, or gives something else than tokens or a vector.
        """
        model = cast(Any, self.model)
        if self._tokens is not None:
            return self._choose(
                model.forward_features(windows), self._tokens, norm=getattr(model, "fc_norm", None)
            )
        found: Tensor = model(windows)
        return found if found.ndim == 2 else self._choose(found, self._default_tokens(), norm=None)

    def _default_tokens(self) -> Tokens:
        return "class+mean" if _has_class_token(self.model) else "mean"

    def _choose(self, tokens: Tensor, which: Tokens, *, norm: nn.Module | None) -> Tensor:
        n_prefix = _n_prefix(self.model)
        if tokens.ndim != 3 or n_prefix is None:
            raise UsageError(
                f"backbone {self._name!r} gives {tuple(tokens.shape[1:])} for a window, no tokens to choose from; "
                "leave the choice of tokens to the model, or take one that pools its map"
            )
        if which != "mean" and not _has_class_token(self.model):
            raise UsageError(f"backbone {self._name!r} has no class token; ask for :mean")
        parts = []
        if which != "mean":
            parts.append(tokens[:, 0])
        if which != "class":
            parts.append(tokens[:, n_prefix:].mean(dim=1))
        return torch.cat([part if norm is None else norm(part) for part in parts], dim=1)


def _n_prefix(model: nn.Module) -> int | None:
    """Tokens before those of patches; None of a model without tokens."""
    found = getattr(model, "num_prefix_tokens", None)
    return None if found is None else int(found)


def _has_class_token(model: nn.Module) -> bool:
    return getattr(model, "cls_token", None) is not None


def _own_pooling(model: nn.Module) -> str:
    """Timm's word for how the model pools; "" where it hands out all its tokens."""
    found = getattr(model, "global_pool", None)
    if isinstance(found, str):
        return found
    # Convolutional networks keep a layer there, or in their head.
    layer = found if found is not None else getattr(getattr(model, "head", None), "global_pool", None)
    return str(getattr(layer, "pool_type", "") or "own")

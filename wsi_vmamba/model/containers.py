"""Which of the things in a checkpoint is the state dict: the one that is there, or the one that is named."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wsi_vmamba.errors import WeightsError
from wsi_vmamba.model.shipped import CHOICE

#: Where most checkpoints keep their state dict, whatever its keys look like.
_USUAL = ("model", "state_dict")


def find_state(content: object, *, source: str, choice: str | None = None) -> dict[str, Tensor]:
    """Find the state dict in what a checkpoint holds.

    Args:
        content: what was loaded.
        source: the file, for messages.
        choice: which of several to take.

    Raises:
        WeightsError: there is none, none of that name, or several that differ.
    """
    if choice is None and _is_state(content):
        return dict(content)  # type: ignore[call-overload, no-any-return]
    states = _states(content)
    if choice is not None:
        if choice not in states:
            raise WeightsError(
                f"{source} holds no state dict named {choice!r}; it has {_listed(states) or 'none'}"
            )
        return states[choice]
    if not states:
        raise WeightsError(
            f"{source} holds no state dict: expected a mapping of names to tensors, at the top or under a name such as "
            f"{' or '.join(repr(name) for name in _USUAL)}"
        )
    first, *others = states
    if not all(_equal(states[first], states[other]) for other in others):
        raise WeightsError(
            f"{source} holds several state dicts that differ: {_listed(states)} (one named 'ema' is a running "
            f"average of the training); choose one by putting it behind the file: {source}{CHOICE}{first}"
        )
    return states[first]


def _states(content: object) -> dict[str, dict[str, Tensor]]:
    """Every state dict one level down; mappings whose names have no dots are other things, such as random states."""
    if not isinstance(content, Mapping):
        return {}
    return {
        name: dict(part)
        for name, part in content.items()
        if isinstance(name, str) and _is_state(part) and (name in _USUAL or any("." in key for key in part))
    }


def _is_state(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _listed(states: Mapping[str, object]) -> str:
    return ", ".join(repr(name) for name in states)

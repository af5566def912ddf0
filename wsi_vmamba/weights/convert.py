"""From a checkpoint of any form to the tensors of one of our variants, and what had to be done for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wsi_vmamba.errors import WeightsError
from wsi_vmamba.model.key_names import todays_names
from wsi_vmamba.model.recognise import recognise
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import check_values, classes_in, fitted, read_found, without_wrappers

#: First tensors of a VMamba, of today's and of the first releases: what is before them is the name of the part.
_FIRST = ("patch_embed.0.weight", "patch_embed.proj.weight")
_NORM, _HEAD = "classifier.norm", "classifier.head"


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Weights with today's keys and shapes; their numbers are those of the checkpoint.

    Attributes:
        tensors: all that the variant has.
        variant: name in `VARIANTS`.
        changes: what was renamed, reshaped, left out or made up, a line each.
    """

    tensors: Mapping[str, Tensor]
    variant: str
    changes: tuple[str, ...]


def convert(source: str | Path, *, part: str | None = None) -> Converted:
    """Read a checkpoint, recognise its variant by the shapes, and account for every key.

    Args:
        source: the file; with ``#NAME`` behind it, that of its state dicts.
        part: where the keys of the wanted model begin, such as ``teacher.backbone``; by default the only one there.

    Raises:
        WeightsError: it is damaged, unsafe, of no variant of ours, ambiguous, or has keys that are missing, left over
            or of another shape.
    """
    found = without_wrappers(read_found(source), source=str(source))
    prefix = _prefix(found, part, source=str(source))
    own = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    left_out = [key for key in found if not key.startswith(prefix)]
    check_values(own, source=str(source))
    state = todays_names(own)
    changes = [*_changed_names(own, state, prefix), *_norm_of_detector(state, left_out)]
    variant = recognise(state)
    changes += _missing_head(state)
    with torch.device("meta"):
        model = VMamba(VARIANTS[variant].with_classes(classes_in(state) or 1))
    tensors = fitted(model, state, source=str(source))
    flat = sum(tensors[key].ndim != state[key].ndim for key in state)
    changes += [f"{flat} weights of 1x1 convolutions made those of linear layers"] if flat else []
    changes += [f"left out: {_counted(left_out)}"] if left_out else []
    return Converted(tensors=tensors, variant=variant, changes=tuple(changes))


def _prefix(state: Mapping[str, Tensor], part: str | None, *, source: str) -> str:
    """What stands before the keys of the model that is meant."""
    prefixes = sorted(
        {key.removesuffix(first) for key in state for first in _FIRST if f".{key}".endswith(f".{first}")}
    )
    names = ", ".join(repr(prefix.rstrip(".")) for prefix in prefixes)
    if part is not None:
        wanted = f"{part.rstrip('.')}." if part else ""
        if wanted not in prefixes:
            raise WeightsError(f"{source} holds no VMamba in its part {part!r}; it has {names or 'none'}")
        return wanted
    if not prefixes:
        raise WeightsError(
            f"{source} holds no weights of a VMamba: no key ends in {' or '.join(_FIRST)}; it has {len(state)} keys: "
            f"{', '.join(list(state)[:3])}, ..."
        )
    if len(prefixes) > 1:
        raise WeightsError(f"{source} holds several models, in its parts {names}; choose one with --part")
    return prefixes[0]


def _changed_names(own: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: str) -> list[str]:
    changes = [f"{prefix!r} taken off the keys"] if prefix else []
    renamed = sum(key not in own for key in state)
    return changes + ([f"{renamed} keys of {len(state)} given today's names"] if renamed else [])


def _norm_of_detector(state: dict[str, Tensor], left_out: list[str]) -> list[str]:
    """Take the norm behind the last stage, as detectors name it, for the classifier's; those of other stages go."""
    norms = {key for key in state if key.startswith("outnorm")}
    stages = {int(key[7:].partition(".")[0]) for key in norms if key[7:].partition(".")[0].isdigit()}
    changes = []
    last = f"outnorm{max(stages)}" if stages else None
    if (
        last
        and f"{_NORM}.weight" not in state
        and f"layers.{max(stages) + 1}.blocks.0.norm.weight" not in state
    ):
        for end in ("weight", "bias"):
            if f"{last}.{end}" in state:
                state[f"{_NORM}.{end}"] = state.pop(f"{last}.{end}")
        changes.append(f"{last} taken for {_NORM}")
    for key in norms & state.keys():
        del state[key]
        left_out.append(key)
    return changes


def _missing_head(state: dict[str, Tensor]) -> list[str]:
    """Put a head of one output, all zeros, where a checkpoint has none: features do not depend on it."""
    keys = [f"{_HEAD}.weight", f"{_HEAD}.bias"]
    norm = state.get(f"{_NORM}.weight")
    if norm is None or any(key in state for key in keys):
        return []
    state[keys[0]] = torch.zeros(1, norm.shape[0], dtype=norm.dtype)
    state[keys[1]] = torch.zeros(1, dtype=norm.dtype)
    return ["no classifier in the checkpoint: its place is filled with zeros, which no feature depends on"]


def _counted(keys: Iterable[str]) -> str:
    """Keys by the part that they are of: "decode_head (34), neck (8)"."""
    parts = Counter(key.partition(".")[0] for key in keys)
    return ", ".join(f"{name} ({count} tensors)" for name, count in sorted(parts.items()))

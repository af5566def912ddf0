"""Where a pretraining starts, and the file that its backbone ends in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from wsi_vmamba import __version__
from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.build import variant
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import apply_state, read_state

_HEAD = "classifier.head."


def start(backbone: str, init: str, *, classes: Sequence[str], seed: int) -> tuple[VMamba, str]:
    """The backbone with the weights to start from, and a line on where they are from.

    Args:
        backbone: its name.
        init: auto, random or a file.
        classes: what its classifier is to tell apart. It is new, unless the file says that it tells apart just these;
            where there are none, it is one output of zeros.
        seed: of what is new.

    Raises:
        UsageError: the backbone is no VMamba, or there are no such weights.
        WeightsError: the file does not fit.
    """
    if backbone not in VARIANTS:
        raise UsageError(f"only VMamba backbones are pretrained here, {backbone} is none")
    weights = resolve_weights(backbone, init)
    model = variant(backbone, num_classes=len(classes) or 1, weights=None, seed=seed)
    if not classes:
        for parameter in model.classifier.get_submodule("head").parameters():
            nn.init.zeros_(parameter).requires_grad_(False)
    if weights.path is not None:
        state = read_state(weights.path)
        if not classes or _classes_of(weights.path) != ",".join(classes):
            own = {key: value for key, value in model.state_dict().items() if key.startswith(_HEAD)}
            state = {**{key: value for key, value in state.items() if not key.startswith(_HEAD)}, **own}
        apply_state(model, state, source=str(weights.path))
    return model, weights.note


def _classes_of(path: Path) -> str | None:
    """What the header of a weights file calls its classes; None where it says nothing."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        found: str | None = (file.metadata() or {}).get("classes")
    return found


def packed(
    state: Mapping[str, Tensor], *, name: str, classes: Sequence[str], facts: Mapping[str, str]
) -> bytes:
    """The state of a backbone as a safetensors file in float16, with what made it in the header."""
    tensors = {key: value.detach().half().cpu().contiguous() for key, value in state.items()}
    header = {
        "format": "pt",
        "backbone": name,
        "classes": ",".join(classes),
        **facts,
        "wsi_vmamba": __version__,
        "torch": str(torch.__version__),
    }
    return in_one_order(safetensors.torch.save(tensors, metadata=header))


def in_one_order(content: bytes) -> bytes:
    """The same safetensors file with the keys of its header sorted: the library writes the metadata in any order."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]

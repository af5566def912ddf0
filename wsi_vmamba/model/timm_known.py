"""Models on the hub whose configuration does not say all that it takes to build them: what their model cards say.

Checked against the cards' own examples; the models themselves are gated and were not at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wsi_vmamba.model.normalise import Rgb
from wsi_vmamba.model.window_names import Tokens


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a model card adds to the configuration on the hub.

    Attributes:
        arguments: of `timm.create_model`.
        layers: further arguments, whose values are names in `timm.layers` or `torch.nn`.
        tokens: what the card makes a feature of; None leaves it to the model.
        mean: how its input is normalised, where the card gives it as numbers.
        std: likewise.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)
    tokens: Tokens | None = None
    mean: Rgb | None = None
    std: Rgb | None = None


_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
_VIRCHOW = Known(layers=_SWIGLU, tokens="class+mean")
_OPTIMUS = Known(
    arguments={"init_values": 1e-5, "dynamic_img_size": False},
    mean=(0.707223, 0.578729, 0.703617),
    std=(0.211883, 0.230117, 0.177517),
)
_UNI = Known(arguments={"init_values": 1e-5, "dynamic_img_size": True})

_UNI2 = Known(
    arguments={
        "img_size": 224, "patch_size": 14, "depth": 24, "num_heads": 24, "init_values": 1e-5, "embed_dim": 1536,
        "mlp_ratio": 2.66667 * 2, "no_embed_class": True, "reg_tokens": 8, "dynamic_img_size": True,
    },
    layers=_SWIGLU,
)  # fmt: skip

#: Repository, in lower case -> what its card adds.
KNOWN: Mapping[str, Known] = {
    "mahmoodlab/uni": _UNI,
    "mahmoodlab/uni2-h": _UNI2,
    "paige-ai/virchow": _VIRCHOW,
    "paige-ai/virchow2": _VIRCHOW,
    "bioptimus/h-optimus-0": _OPTIMUS,
    "bioptimus/h-optimus-1": _OPTIMUS,
}


def known(repository: str | None) -> Known:
    """What a repository's card adds; nothing for one that is not in the table."""
    return KNOWN.get((repository or "").lower(), Known())

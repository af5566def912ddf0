"""Settings of `onnx`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import DEFAULT_BACKBONE, SHIPPED_WEIGHTS, Backbone, PathText, Seed
from wsi_vmamba.config.marks import Placeholder


def _pixels_or_dynamic(value: object) -> object:
    if value == "dynamic":
        return value
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int) or not 32 <= number <= 16_384:
        raise ValueError("expected a side in pixels from 32 to 16,384, or dynamic")
    return number


SidePx = Annotated[
    Literal["dynamic"] | int,
    BeforeValidator(_pixels_or_dynamic),
    Placeholder("[PIXELS|dynamic]", ("dynamic",)),
]


class OnnxConfig(RunConfig):
    """`wsi-vmamba onnx`: a VMamba as an ONNX file of standard operators."""

    backbone: Backbone = DEFAULT_BACKBONE
    """The network; any VMamba."""
    weights: PathText = SHIPPED_WEIGHTS
    """Its weights, as for `extract`; those of a trained classifier bring their head."""
    out: PathText | None = None
    """The file to write; by default <backbone>.onnx here."""
    px: SidePx = "dynamic"
    """Side of the images that the file takes, or dynamic: any height and width. The batch is always free."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """What its layers compute in: fp16 halves the file; int8 has the matrices in 8 bits, with scales found as images
    come. The scans compute in float32 in all of them."""
    overwrite: bool = False
    """Replace an existing file."""
    seed: Seed = 0
    """Seed of random weights."""

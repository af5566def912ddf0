"""From a VMamba to an ONNX file, with what the file is and how it is used written into it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import weights_hash
from wsi_vmamba.onnx_file.graph import IR_VERSION, OPSET, Graph
from wsi_vmamba.onnx_file.layers import FilePrecision, Layers
from wsi_vmamba.onnx_file.network import FEATURES, IMAGES, LOGITS, Network

#: Prefix of what is written into a file about it.
OURS = "wsi_vmamba."
#: Fact: bytes that a forward pass needs per pixel of the picture, about.
MAP_BYTES = "bytes_per_px"
#: float32 maps of the first stage's scan, (H / 4, W / 4, d_inner), that onnxruntime holds at its peak; 17 to 25 were.
_WHOLE_MAPS = 32
#: A side of the images in pixels, or any.
Side = int | Literal["dynamic"]


def build_model(
    model: VMamba, *, name: str, px: Side = "dynamic", precision: FilePrecision = "fp32", logits: bool = True
) -> Any:
    """Build the ONNX model of ``model``: images (B, 3, H, W), normalised as it wants them, to features and logits.

    Args:
        model: the network; its parameters are copied.
        name: of the backbone.
        px: side of the images, or "dynamic" for any height and width; the batch is always free.
        precision: what layers compute in; the scans are float32 always.
        logits: whether the head is in it.

    Raises:
        UsageError: onnx is not installed, or the side is smaller than a token.
    """
    if px != "dynamic" and px < model.stride_px:
        raise UsageError(
            f"px is a side in pixels, at least one token of {model.stride_px}, or dynamic; got {px}"
        )
    onnx = require_onnx()
    graph = Graph()
    Network(graph, Layers(graph, precision=precision), model).append(logits=logits)
    stored = [onnx.numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in graph.constants.items()]
    ends = _inputs_and_outputs(model, px=px, logits=logits)
    made = onnx.helper.make_graph(graph.nodes, name, ends[:1], ends[1:], stored)
    opset = onnx.helper.make_opsetid("", OPSET)
    built = onnx.helper.make_model(
        made, opset_imports=[opset], ir_version=IR_VERSION, producer_name="wsi-vmamba"
    )
    onnx.helper.set_model_props(built, _facts(model, name=name, px=px, precision=precision))
    return built


def _inputs_and_outputs(model: VMamba, *, px: Side, logits: bool) -> list[Any]:
    from onnx import TensorProto, helper

    sides: list[str | int] = ["height", "width"] if px == "dynamic" else [px, px]
    tokens: list[str | int] = ["rows", "columns"]
    shapes: list[tuple[str, list[str | int]]] = [
        (IMAGES, ["batch", 3, *sides]),
        (FEATURES, ["batch", model.dim, *tokens]),
    ]
    if logits:
        shapes.append((LOGITS, ["batch", model.config.num_classes]))
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]


def _facts(model: VMamba, *, name: str, px: Side, precision: FilePrecision) -> dict[str, str]:
    values = {
        "backbone": name,
        "weights_hash": weights_hash(model),
        "precision": precision,
        "px": px,
        "stride_px": model.stride_px,
        MAP_BYTES: _bytes_per_px(model),
        "mean": " ".join(map(str, model.mean)),
        "std": " ".join(map(str, model.std)),
    }
    return {OURS + key: str(value) for key, value in values.items()}


def _bytes_per_px(model: VMamba) -> float:
    return _WHOLE_MAPS * model.config.d_inner(0) * 4 / 16


def require_onnx() -> Any:
    """Import onnx, or say what to install."""
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError as error:
        raise UsageError(
            f"writing ONNX files needs onnx ({error}): pip install 'wsi-vmamba[onnx]'"
        ) from error
    return onnx

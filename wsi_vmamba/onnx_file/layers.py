"""Layers with weights as ONNX nodes, in the arithmetic of the file: float32, float16 or 8-bit matrices."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_vmamba.onnx_file.graph import Graph

#: What a file computes in. Scans and the head are float32 in all of them.
FilePrecision = Literal["fp32", "fp16", "int8"]


class Layers:
    """Appends layers to a graph."""

    def __init__(self, graph: Graph, *, precision: FilePrecision) -> None:
        """Write to ``graph``."""
        self._graph = graph
        self.half = precision == "fp16"
        self._eight = precision == "int8"

    def enter(self, images: str) -> str:
        """The images in the type of the layers."""
        return self._graph.op("Cast", images, to=_type_of(np.float16)) if self.half else images

    def leave(self, x: str) -> str:
        """Values of the layers as float32."""
        return self._graph.op("Cast", x, to=_type_of(np.float32)) if self.half else x

    def norm(self, x: str, part: nn.LayerNorm, *, name: str, order: NDArray[Any] | None = None) -> str:
        """LayerNorm over the last axis, with float32 statistics; ``order`` is that of its channels in the graph."""
        weights = [
            self._weight(f"{name}.{which}", _in_order(getattr(part, which), order))
            for which in ("weight", "bias")
        ]
        return self._graph.op("LayerNormalization", x, *weights, axis=-1, epsilon=part.eps)

    def conv(self, x: str, part: nn.Conv2d, *, name: str) -> str:
        """A convolution, channels first."""
        weights = [self._weight(f"{name}.weight", part.weight)]
        if part.bias is not None:
            weights.append(self._weight(f"{name}.bias", part.bias))
        height, width = (int(pad) for pad in part.padding)
        return self._graph.op(
            "Conv",
            x,
            *weights,
            group=part.groups,
            kernel_shape=list(part.kernel_size),
            pads=[height, width, height, width],
            strides=list(part.stride),
        )

    def silu(self, x: str) -> str:
        """X times its sigmoid."""
        return self._graph.op("Mul", x, self._graph.op("Sigmoid", x))

    def linear(
        self,
        x: str,
        part: nn.Linear,
        *,
        name: str,
        added: str | None = None,
        order: NDArray[Any] | None = None,
        rows: bool = True,
    ) -> str:
        """A linear layer of ``x`` (n, in), or (..., in) where not ``rows``, and what is ``added`` to its result."""
        weight = _in_order(part.weight, order)
        if self._eight:
            done = self._eight_bit(x, weight, name=name)
        elif rows and (part.bias is None) != (added is None):
            extra = added if part.bias is None else self._weight(f"{name}.bias", part.bias)
            return self._graph.op("Gemm", x, self._weight(f"{name}.weight", weight), str(extra), transB=1)
        elif rows and part.bias is not None:
            bias = self._weight(f"{name}.bias", part.bias)
            done = self._graph.op("Gemm", x, self._weight(f"{name}.weight", weight), bias, transB=1)
            return self._graph.op("Add", done, str(added))
        else:
            done = self._graph.op(
                "MatMul", x, self._weight(f"{name}.weight_t", np.ascontiguousarray(weight.T))
            )
        if part.bias is not None:
            done = self._graph.op("Add", done, self._weight(f"{name}.bias", part.bias))
        return done if added is None else self._graph.op("Add", done, added)

    def exact_linear(self, x: str, part: nn.Linear, *, name: str, output: str) -> str:
        """A linear layer in float32, whatever the file computes in."""
        weight = self._graph.constant(f"{name}.weight", _array(part.weight))
        bias = self._graph.constant(f"{name}.bias", _array(part.bias))
        return self._graph.op("Gemm", x, weight, bias, name=output, transB=1)

    def _eight_bit(self, x: str, weight: NDArray[np.float32], *, name: str) -> str:
        """The product of ``x``, in 8 bits with one scale found as it comes, and the weights, with one per output.

        The weights are unsigned with 128 for zero: pairs of unsigned and signed bytes saturate on processors
        without VNNI, pairs of unsigned ones nowhere.
        """
        graph = self._graph
        scale = np.maximum(np.abs(weight).max(axis=1), np.finfo(np.float32).tiny * 127) / np.float32(127)
        stored = (np.rint(weight / scale[:, None]) + 128).astype(np.uint8)
        names = [f"{name}.{which}" for which in ("eight", "scale", "zero")]
        eight, x_scale, x_zero = graph.ops("DynamicQuantizeLinear", x, names=names)
        matrix = graph.constant(f"{name}.weight_8", np.ascontiguousarray(stored.T))
        zero = graph.constant("zero_8", np.array(128, np.uint8))
        whole = graph.op("MatMulInteger", eight, matrix, x_zero, zero)
        factor = graph.op("Mul", x_scale, graph.constant(f"{name}.weight_scale", scale.astype(np.float32)))
        return graph.op("Mul", graph.op("Cast", whole, to=_type_of(np.float32)), factor)

    def _weight(self, name: str, value: Tensor | NDArray[np.float32]) -> str:
        array = _array(value) if isinstance(value, Tensor) else value
        return self._graph.constant(name, array.astype(np.float16 if self.half else np.float32))


def _in_order(weight: Tensor, order: NDArray[Any] | None) -> NDArray[np.float32]:
    array = _array(weight)
    return array if order is None else array[..., order]


def _array(tensor: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return found


def _type_of(dtype: type[np.generic]) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

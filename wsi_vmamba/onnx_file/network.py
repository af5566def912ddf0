"""A VMamba as a graph of standard ONNX operators, with its weights in it.

Tokens are rows, (B * H * W, C), from the first block to the last; they are a map only where a convolution looks at
neighbours.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from torch import nn

from wsi_vmamba.model.blocks import Block, Mlp, PatchMerging
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.onnx_file.graph import Graph
from wsi_vmamba.onnx_file.layers import Layers
from wsi_vmamba.onnx_file.orders import Orders, orders_of
from wsi_vmamba.onnx_file.scan import States, scan_nodes, states_of

#: Names of the input and the outputs.
IMAGES, FEATURES, LOGITS = "images", "features", "logits"


class Network:
    """Appends a VMamba to a graph."""

    def __init__(self, graph: Graph, layers: Layers, model: VMamba) -> None:
        """Keep the graph, what writes its layers, and the model."""
        self._graph, self._layers, self._model = graph, layers, model
        self._config = model.config

    def append(self, *, logits: bool) -> None:
        """Append everything between the images and the outputs."""
        tokens_4d = self._stem(self._layers.enter(IMAGES))
        for stage, part in enumerate(self._model.layers):
            tokens, orders = self._stage(tokens_4d, cast(Any, part), stage)
            if stage < len(self._model.layers) - 1:
                tokens_4d = self._downsample(tokens, cast(Any, part).downsample, orders, stage)
        self._head(tokens, orders, logits=logits)

    def _stage(self, tokens_4d: str, part: Any, stage: int) -> tuple[str, Orders]:
        config = self._config
        orders = orders_of(self._graph, tokens_4d, stage=stage)
        states = states_of(
            self._graph, orders, channels=config.d_inner(stage), n_states=config.d_state, stage=stage
        )
        tokens = self._rows(tokens_4d, config.dims[stage])
        for index, block in enumerate(part.blocks):
            tokens = self._block(tokens, block, orders, states, name=f"layers.{stage}.blocks.{index}")
        return tokens, orders

    def _block(self, tokens: str, block: Block, orders: Orders, states: States, *, name: str) -> str:
        layers, op = self._layers, block.op
        normed = layers.norm(tokens, block.norm, name=f"{name}.norm")
        inner = layers.linear(normed, op.in_proj, name=f"{name}.op.in_proj")
        gate: str | None = None
        if op.gated:
            halves = [f"{name}.op.scanned", f"{name}.op.gate"]
            parts = self._graph.integers(op.d_inner, op.d_inner)
            inner, gate = self._graph.ops("Split", inner, parts, names=halves, axis=-1)
        u = self._convolved(inner, op.conv2d, orders, op.d_inner, name=f"{name}.op.conv2d")
        y = scan_nodes(self._graph, u, op, orders=orders, states=states, name=f"{name}.op", half=layers.half)
        y = layers.norm(y, op.out_norm, name=f"{name}.op.out_norm")
        if gate is not None:
            y = self._graph.op("Mul", y, layers.silu(gate))
        tokens = layers.linear(y, op.out_proj, name=f"{name}.op.out_proj", added=tokens)
        if block.norm2 is None or block.mlp is None:
            return tokens
        return self._mlp(tokens, block.norm2, block.mlp, name=name)

    def _mlp(self, tokens: str, norm: nn.LayerNorm, mlp: Mlp, *, name: str) -> str:
        hidden = self._layers.norm(tokens, norm, name=f"{name}.norm2")
        hidden = self._graph.op("Gelu", self._layers.linear(hidden, mlp.fc1, name=f"{name}.mlp.fc1"))
        return self._layers.linear(hidden, mlp.fc2, name=f"{name}.mlp.fc2", added=tokens)

    def _convolved(self, tokens: str, conv: nn.Conv2d, orders: Orders, channels: int, *, name: str) -> str:
        """Depthwise convolution and SiLU of tokens (n, D)."""
        first = self._to_first(self._on_map(tokens, orders, channels))
        done = self._layers.silu(self._layers.conv(first, conv, name=name))
        return self._rows(self._to_last(done), channels)

    def _stem(self, images: str) -> str:
        parts, name = self._model.patch_embed, "patch_embed"
        x = self._to_last(self._layers.conv(images, cast(nn.Conv2d, parts[0]), name=f"{name}.0"))
        x = self._layers.norm(x, cast(nn.LayerNorm, parts[2]), name=f"{name}.2")
        if self._config.patch_embed == 1:
            return x
        x = self._to_first(self._graph.op("Gelu", x))
        x = self._to_last(self._layers.conv(x, cast(nn.Conv2d, parts[5]), name=f"{name}.5"))
        return self._layers.norm(x, cast(nn.LayerNorm, parts[7]), name=f"{name}.7")

    def _downsample(self, tokens: str, part: nn.Module, orders: Orders, stage: int) -> str:
        """The map of the next stage, (B, ~H / 2, ~W / 2, C)."""
        name = f"layers.{stage}.downsample"
        first = self._to_first(self._on_map(tokens, orders, self._config.dims[stage]))
        if isinstance(part, PatchMerging):
            return self._merge(first, part, name=name)
        conv, norm = (part.get_submodule(which) for which in ("1", "3"))
        last = self._to_last(self._layers.conv(first, cast(nn.Conv2d, conv), name=f"{name}.1"))
        return self._layers.norm(last, cast(nn.LayerNorm, norm), name=f"{name}.3")

    def _merge(self, first: str, part: PatchMerging, *, name: str) -> str:
        """Squares of 2 x 2 tokens side by side, normalised and projected; odd sides are filled with zeros."""
        graph = self._graph
        odd = graph.op("Mod", graph.op("Shape", first, start=2), graph.integer(2))
        pads = graph.op("Concat", graph.integers(0, 0, 0, 0, 0, 0), odd, axis=0)
        squares = graph.op("SpaceToDepth", graph.op("Pad", first, pads), blocksize=2)
        # SpaceToDepth puts squares side by side row by row, the published layers column by column.
        here = np.arange(part.reduction.in_features).reshape(2, 2, -1).transpose(1, 0, 2).ravel()
        normed = self._layers.norm(self._to_last(squares), part.norm, name=f"{name}.norm", order=here)
        return self._layers.linear(normed, part.reduction, name=f"{name}.reduction", order=here, rows=False)

    def _head(self, tokens: str, orders: Orders, *, logits: bool) -> None:
        norm = cast(nn.LayerNorm, self._model.classifier.get_submodule("norm"))
        normed = self._layers.leave(self._layers.norm(tokens, norm, name="classifier.norm"))
        on_map = self._on_map(normed, orders, self._model.dim)
        self._graph.op("Transpose", on_map, name=FEATURES, perm=[0, 3, 1, 2])
        if logits:
            pooled = self._graph.op("ReduceMean", on_map, self._graph.integers(1, 2), keepdims=0)
            head = cast(nn.Linear, self._model.classifier.get_submodule("head"))
            self._layers.exact_linear(pooled, head, name="classifier.head", output=LOGITS)

    def _on_map(self, tokens: str, orders: Orders, channels: int) -> str:
        known = self._graph.op("Concat", orders.map_shape, self._graph.integers(channels), axis=0)
        return self._graph.op("Reshape", tokens, known)

    def _rows(self, tokens_4d: str, channels: int) -> str:
        return self._graph.op("Reshape", tokens_4d, self._graph.integers(-1, channels))

    def _to_first(self, x: str) -> str:
        return self._graph.op("Transpose", x, perm=[0, 3, 1, 2])

    def _to_last(self, x: str) -> str:
        return self._graph.op("Transpose", x, perm=[0, 2, 3, 1])

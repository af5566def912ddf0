"""The four orders in which a map is walked, as tables of row numbers for Gather: one pair per stage.

The tokens of a batch of maps are the rows of a matrix, n = B * H * W of them. Each order is cut into H chunks of W
tokens, so that a Scan of W steps advances all chunks of all orders and maps at once: ``walk`` (W, 4, B, H) holds the
row that each takes at each step. ``back`` (n, 4) holds, per token and order, where in the flattened walk it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_vmamba.onnx_file.graph import Graph

DIRECTIONS = 4


@dataclass(frozen=True)
class Orders:
    """Names of the tables of a stage.

    Attributes:
        walk: (W, 4, B, H) int64.
        back: (n, 4) int64.
        map_shape: the shape (B, H, W) int64.
    """

    walk: str
    back: str
    map_shape: str


def orders_of(graph: Graph, tokens_4d: str, *, stage: int) -> Orders:
    """Append the nodes that make the tables for maps like ``tokens_4d`` (B, H, W, C), of whatever size."""

    def named(kind: str, *inputs: str, what: str, **attributes: object) -> str:
        return graph.op(kind, *inputs, name=f"stage{stage}.{what}", **attributes)

    shape = named("Shape", tokens_4d, what="map_shape", start=0, end=3)
    count = named("ReduceProd", shape, what="tokens", keepdims=0)
    one_and_shape = named("Concat", graph.integers(1), shape, what="order_shape", axis=0)
    rows = named("Range", graph.integer(0), count, graph.integer(1), what="rows")
    by_rows = named("Reshape", rows, one_and_shape, what="by_rows")
    turned = named("Transpose", by_rows, what="turned", perm=[0, 1, 3, 2])
    by_columns = named("Reshape", turned, one_and_shape, what="by_columns")
    forwards = named("Concat", by_rows, by_columns, what="forwards", axis=0)
    backwards = named(
        "Slice",
        forwards,
        graph.integers(-1, -1),
        graph.constant("before_all", np.full(2, np.iinfo(np.int64).min)),
        graph.integers(2, 3),
        graph.integers(-1, -1),
        what="backwards",
    )
    both = named("Concat", forwards, backwards, what="orders", axis=0)
    walk = named("Transpose", both, what="walk", perm=[3, 0, 1, 2])
    first_keys = named("Mul", walk, graph.integer(DIRECTIONS), what="first_keys")
    numbers = graph.constant("order_numbers", np.arange(DIRECTIONS).reshape(DIRECTIONS, 1, 1))
    keys = named(
        "Reshape", named("Add", first_keys, numbers, what="keys"), graph.integers(-1), what="flat_keys"
    )
    many = named("Size", keys, what="entries")
    places = named("Range", graph.integer(0), many, graph.integer(1), what="places")
    # Every token and order has one entry, so that all of the first argument is replaced.
    inverse = named("ScatterElements", places, keys, places, what="inverse")
    back = named("Reshape", inverse, graph.integers(-1, DIRECTIONS), what="back")
    return Orders(walk=walk, back=back, map_shape=shape)

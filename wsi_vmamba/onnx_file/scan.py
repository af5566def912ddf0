"""SS2D's four scans in standard ONNX operators: exact for any length, in two levels of Scan.

The first level walks the chunks of `orders` side by side, each from a state of zero, and keeps how much of a state
that came in would be left (``kept``, the product of the decays). The second walks from chunk to chunk. Where there
is one state per channel, what came in is then added to what the first level made; where there are more, which would
all have to be kept, the first level is walked a second time from the states that the second found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsi_vmamba.model.ss2d import SS2D
from wsi_vmamba.onnx_file.graph import Graph
from wsi_vmamba.onnx_file.orders import DIRECTIONS, Orders

#: Above it exp may overflow; softplus is the identity there to the last bit.
_STEEP = 80.0


@dataclass(frozen=True)
class States:
    """Names of the states that scans of a stage begin with.

    Attributes:
        zeros: (4, B, H, D), with N behind where there are several states per channel: of the first level.
        ones: the same shape.
        start: of the second level, without the H.
    """

    zeros: str
    ones: str
    start: str


@dataclass(frozen=True)
class Weights:
    """Names of the constants of one SS2D; see `put_weights`."""

    x_proj: str
    dt: str
    dt_bias: str
    A: str
    skip: str
    parts: str


def states_of(graph: Graph, orders: Orders, *, channels: int, n_states: int, stage: int) -> States:
    """Append the states to begin with: channels and their states are known, maps and chunks are not."""
    from onnx import numpy_helper

    def filled(shape: str, value: float, what: str) -> str:
        tensor = numpy_helper.from_array(np.array([value], np.float32))
        return graph.op("ConstantOfShape", shape, name=f"stage{stage}.{what}", value=tensor)

    own = (channels,) if n_states == 1 else (channels, n_states)
    chunks = graph.op("Shape", orders.walk, name=f"stage{stage}.chunks", start=1)
    shape = graph.op("Concat", chunks, graph.integers(*own), name=f"stage{stage}.state_shape", axis=0)
    zeros = filled(shape, 0.0, "zeros")
    start = graph.op("ReduceMax", zeros, graph.integers(2), name=f"stage{stage}.start", keepdims=0)
    return States(zeros=zeros, ones=filled(shape, 1.0, "ones"), start=start)


def put_weights(graph: Graph, op: SS2D, *, name: str) -> Weights:
    """Keep the constants of ``op``, laid out for (4, B, H, ...): x_proj (4, 1, D, R + 2 N), dt (4, 1, R, D)."""
    x_proj, dt_weight, dt_bias, A_logs, Ds = (part.detach().float().numpy() for part in op.scan_parameters())
    A = -np.exp(A_logs).reshape(DIRECTIONS, 1, 1, op.d_inner, op.d_state)
    return Weights(
        x_proj=graph.constant(f"{name}.x_proj", x_proj.transpose(0, 2, 1)[:, None]),
        dt=graph.constant(f"{name}.dt", dt_weight.transpose(0, 2, 1)[:, None]),
        dt_bias=graph.constant(f"{name}.dt_bias", dt_bias[:, None, None]),
        A=graph.constant(f"{name}.A", A if op.d_state > 1 else A[..., 0]),
        skip=graph.constant(f"{name}.skip", Ds.reshape(DIRECTIONS, -1).sum(0)),
        parts=graph.integers(op.dt_rank, op.d_state, op.d_state),
    )


def scan_nodes(
    graph: Graph, u: str, op: SS2D, *, orders: Orders, states: States, name: str, half: bool = False
) -> str:
    """Append SS2D's scan of ``u`` (n, D): project, walk, add the four results and the skip; returns (n, D)."""
    weights = put_weights(graph, op, name=name)
    walker = _Walker(graph, u, op, weights, orders, half)
    several = op.d_state > 1
    first = [f"{name}.end", f"{name}.kept", *(() if several else (f"{name}.own", f"{name}.share"))]
    walker.append((states.zeros, states.ones), first, emits=not several)
    carried = _carry(graph, first[0], first[1], states.start, name=name, several=several)
    if several:
        _, y = walker.append((carried,), (f"{name}.last", f"{name}.y"), emits=True)
    else:
        y = graph.op("Add", first[2], graph.op("Mul", first[3], carried))
    flat = graph.op("Reshape", y, graph.integers(-1, op.d_inner))
    on_map = graph.op("Gather", flat, orders.back)
    merged = graph.op("ReduceSum", on_map, graph.integers(1), keepdims=0)
    wide = graph.op("Cast", u, to=_float()) if half else u
    out = graph.op("Add", merged, graph.op("Mul", wide, weights.skip))
    return graph.op("Cast", out, to=_half()) if half else out


class _Walker:
    """Walks all chunks of one map side by side."""

    def __init__(self, graph: Graph, u: str, op: SS2D, weights: Weights, orders: Orders, half: bool) -> None:
        self._graph, self._u, self._weights, self._orders, self._half = graph, u, weights, orders, half
        self._several, self._channels, self._n_states = op.d_state > 1, op.d_inner, op.d_state

    def append(self, start: Sequence[str], outputs: Sequence[str], *, emits: bool) -> Sequence[str]:
        """Append a walk from the states ``start`` (h, and how much is kept of it where that is asked for)."""
        body = self._graph.body(outputs[-1])
        made = self._step(body, keeps=len(start) == 2, emits=emits)
        own = [self._channels, *([self._n_states] if self._several else [])]
        chunks = [DIRECTIONS, None, None]
        inside = [body.prefix + which for which in ("h", "kept")[: len(start)]]
        whole = [_value(name, [*chunks, *own]) for name in (*inside, *made[: len(start)])]
        emitted = [_value(name, [*chunks, self._channels]) for name in made[len(start) :]]
        rows = _value(f"{body.prefix}rows", chunks, integers=True)
        return _scan(
            self._graph,
            body,
            inputs=(*start, self._orders.walk),
            outputs=outputs,
            body_inputs=(*whole[: len(start)], rows),
            body_outputs=(*whole[len(start) :], *emitted),
            num_scan_inputs=1,
        )

    def _step(self, body: Graph, *, keeps: bool, emits: bool) -> list[str]:
        """One token of each chunk; returns the names of the new h, of what is kept, and of what is put out."""
        here = body.prefix
        u = body.op("Gather", self._u, f"{here}rows")
        if self._half:
            u = body.op("Cast", u, to=_float())
        projected = body.op("MatMul", u, self._weights.x_proj)
        names = [here + part for part in ("low_rank", "B", "C")]
        low_rank, B, C = body.ops("Split", projected, self._weights.parts, names=names, axis=-1)
        raw = body.op("Add", body.op("MatMul", low_rank, self._weights.dt), self._weights.dt_bias)
        dt = _softplus(body, raw)
        drive = body.op("Mul", dt, u)
        if self._several:
            last, before_last = body.integers(-1), body.integers(-2)
            dt, drive = (body.op("Unsqueeze", value, last) for value in (dt, drive))
            B, C = (body.op("Unsqueeze", value, before_last) for value in (B, C))
        decay = body.op("Exp", body.op("Mul", dt, self._weights.A))
        decayed = body.op("Mul", decay, f"{here}h")
        h = body.op("Add", decayed, body.op("Mul", drive, B), name=f"{here}h_next")
        made = [h]
        if keeps:
            made.append(body.op("Mul", f"{here}kept", decay, name=f"{here}kept_next"))
        if emits and self._several:
            made.append(body.op("ReduceSum", body.op("Mul", h, C), body.integers(-1), keepdims=0))
        elif emits:
            made.extend(body.op("Mul", state, C) for state in made[:])
        return made


def _softplus(body: Graph, x: str) -> str:
    """log(1 + exp(x)): Softplus itself is ten times slower in onnxruntime, one number at a time."""
    grown = body.op("Exp", body.op("Min", x, body.number(_STEEP)))
    return body.op("Max", body.op("Log", body.op("Add", grown, body.number(1.0))), x)


def _carry(graph: Graph, end: str, kept: str, start: str, *, name: str, several: bool) -> str:
    """Append the walk from chunk to chunk: the state that comes into each, in the shape of ``end``."""
    body = graph.body(f"{name}.carry")
    here = body.prefix
    # A body that hands an input straight on is run wrongly by onnxruntime 1.32: the next state overwrites it.
    coming = body.op("Identity", f"{here}h", name=f"{here}coming")
    rest = body.op("Mul", f"{here}h", f"{here}kept")
    after = body.op("Add", rest, f"{here}end", name=f"{here}h_next")
    shape = [DIRECTIONS, None, None, *([None] if several else [])]
    inputs = [_value(here + which, shape) for which in ("h", "end", "kept")]
    outputs = [_value(which, shape) for which in (after, coming)]
    made = _scan(
        graph,
        body,
        inputs=(start, end, kept),
        outputs=(f"{name}.after", f"{name}.coming"),
        body_inputs=inputs,
        body_outputs=outputs,
        num_scan_inputs=2,
        scan_input_axes=[2, 2],
        scan_output_axes=[2],
    )
    return made[1]


def _scan(
    graph: Graph,
    body: Graph,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    body_inputs: Sequence[Any],
    body_outputs: Sequence[Any],
    **attributes: Any,
) -> Sequence[str]:
    from onnx import helper

    steps = helper.make_graph(body.nodes, body.prefix.rstrip("."), list(body_inputs), list(body_outputs))
    return graph.ops("Scan", *inputs, names=outputs, body=steps, **attributes)


def _value(name: str, shape: Sequence[int | None], *, integers: bool = False) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.INT64 if integers else TensorProto.FLOAT, shape)


def _float() -> int:
    from onnx import TensorProto

    return int(TensorProto.FLOAT)


def _half() -> int:
    from onnx import TensorProto

    return int(TensorProto.FLOAT16)

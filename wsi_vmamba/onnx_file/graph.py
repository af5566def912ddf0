"""A small writer of ONNX graphs: nodes one after the other, each named by what it makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Opset of the standard operators that are used: the first with Gelu.
OPSET = 20
#: Version of the file format that came with it.
IR_VERSION = 9


class Graph:
    """The nodes of a graph, or of the body of a Scan, whose constants lie in the graph outside."""

    def __init__(self, *, prefix: str = "", owner: Graph | None = None) -> None:
        """Begin a graph whose values are named ``prefix`` and something; a body names the graph around it."""
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {} if owner is None else owner.constants
        self.prefix = prefix
        self._made = 0

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Append a node with one output and return its name."""
        return self.ops(kind, *inputs, names=(name or self._fresh(kind),), **attributes)[0]

    def ops(self, kind: str, *inputs: str, names: Sequence[str], **attributes: Any) -> Sequence[str]:
        """Append a node with the outputs ``names`` and return them."""
        from onnx import helper

        node = helper.make_node(kind, list(inputs), list(names), name=f"{kind}:{names[-1]}", **attributes)
        self.nodes.append(node)
        return names

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Keep an array under a name of its own and return the name; what is kept already stays."""
        self.constants.setdefault(name, value)
        return name

    def integers(self, *values: int) -> str:
        """A constant list of integers."""
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def integer(self, value: int) -> str:
        """A constant integer without axes."""
        return self.constant(f"int_{value}", np.array(value, np.int64))

    def number(self, value: float) -> str:
        """A constant float32 without axes."""
        return self.constant(f"float_{value:g}", np.array(value, np.float32))

    def body(self, name: str) -> Graph:
        """An empty body whose values are named after ``name``."""
        return Graph(prefix=f"{name}.", owner=self)

    def _fresh(self, kind: str) -> str:
        self._made += 1
        return f"{self.prefix}{kind.lower()}_{self._made}"


def count_nodes(graph: Any, *, bodies: bool) -> int:
    """Nodes of an ONNX graph, with those in the bodies of its loops or without."""
    inner = (one.g for node in graph.node for one in node.attribute if one.HasField("g")) if bodies else ()
    return len(graph.node) + sum(count_nodes(one, bodies=True) for one in inner)

"""Inner tensors in which the student is to be like its teacher, as it is in its outputs.

By default they are found: the outputs of residual blocks and of other places where branches join to
one tensor (`graph.cuts`); in a network without branches, the outputs of layers with weights. What
is compared is the tensor before an activation function, as far as the graph has it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx_graphsurgeon as gs

from onnxqat.core.errors import ConfigError
from onnxqat.graph.cuts import cuts
from onnxqat.training.roles import WEIGHTS

TERM = "features"
"""The name of the loss term."""
MOST_FOUND = 12
"""Tensors that are chosen where the user names none: more cost time and say the same again."""
CODES = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


def find_features(student: gs.Graph, teacher: gs.Graph, wanted: Sequence[str]) -> tuple[str, ...]:
    """Names of the tensors to compare, in node order; both graphs compute them.

    Args:
        student: The Q/DQ graph.
        teacher: The FP32 graph.
        wanted: Names, or regular expressions that a whole name matches; none: find them.

    Raises:
        ConfigError: One of `wanted` names no tensor of both graphs, or none is found.
    """
    return _named(student, teacher, wanted) if wanted else _found(student, teacher)


def _named(student: gs.Graph, teacher: gs.Graph, wanted: Sequence[str]) -> tuple[str, ...]:
    names = [name for name in _computed(teacher) if name in _computed(student)]
    chosen: set[str] = set()
    for pattern in wanted:
        matching = [name for name in names if name == pattern or _matches(pattern, name)]
        if not matching:
            raise ConfigError(
                f"no tensor that both models compute is called '{pattern}'",
                at="features",
                fix="name float tensors of the graph, or leave features out: they are found",
            )
        chosen.update(matching)
    return tuple(name for name in names if name in chosen)


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:  # a name with a bracket, say
        return False


def _computed(graph: gs.Graph) -> dict[str, gs.Node]:
    """Inner tensors, codes apart, with the nodes that compute them."""
    outputs = {tensor.name for tensor in graph.outputs}
    return {
        tensor.name: node
        for node in graph.nodes
        if node.op not in CODES
        for tensor in node.outputs
        if tensor.name and tensor.name not in outputs
    }


def _found(student: gs.Graph, teacher: gs.Graph) -> tuple[str, ...]:
    ours, theirs = _computed(student), _computed(teacher)
    single = [name for name in cuts(teacher) if name in theirs and name in ours]
    joins = [name for name in single if _joins(theirs[name])]
    layers = [name for name in single if theirs[name].op in WEIGHTS]
    found = joins or layers
    if not found:
        raise ConfigError(
            "no inner tensor is found that all of both models passes through",
            at=f"the loss term '{TERM}'",
            fix="name some: features = [...]",
        )
    return _spread(found)


def _joins(node: gs.Node) -> bool:
    """Whether a node makes one tensor of several that vary."""
    read = {id(tensor) for tensor in node.inputs if not isinstance(tensor, gs.Constant)}
    return node.op in ("Add", "Concat", "Sum", "Mul", "Sub") and len(read) > 1


def _spread(names: Sequence[str]) -> tuple[str, ...]:
    """At most so many of them, evenly, the last one included."""
    if len(names) <= MOST_FOUND:
        return tuple(names)
    step = len(names) / MOST_FOUND
    return tuple(names[round((i + 1) * step) - 1] for i in range(MOST_FOUND))

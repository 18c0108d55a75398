"""The user's own choice of nodes: which stay in float because the config says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches

import onnx_graphsurgeon as gs

from onnxqat.core.errors import ConfigError
from onnxqat.core.spec import FORMATS, QuantFormat
from onnxqat.graph.query import consumers, producer
from onnxqat.placement.config import EndPolicy, PlacementConfig, format_named
from onnxqat.placement.families import WEIGHTED

_MATCHED = {"tensor": "tensor"}
"""What is looked for by its own name; the others choose nodes."""


def closed_nodes(graph: gs.Graph, config: PlacementConfig) -> dict[str, str]:
    """Name -> reason, for each node that the user keeps in float.

    Raises:
        ConfigError: A pattern is no regular expression or matches no node, there is no node of an
            excluded op type, or no way between two tensors: a choice that does nothing is a
            mistake.
    """
    ops = {node.name: node.op for node in graph.nodes}
    closed: dict[str, str] = {}
    for names, reason in (*_excluded(graph, ops, config), *_ends(graph, config, "float")):
        closed.update(dict.fromkeys(names, reason))
    if config.include or config.include_between:
        included = {name for pattern in config.include for name in _matches(pattern, ops)}
        included |= {x for pair in config.include_between for x in _between(graph, *pair)}
        reason = "not among the nodes that the user includes"
        closed.update({name: reason for name in ops if name not in included and name not in closed})
    return closed


def chosen_formats(graph: gs.Graph, config: PlacementConfig) -> dict[str, QuantFormat]:
    """Name -> format, for each node that the user gives one of its own.

    Raises:
        ConfigError: There is no such format, or a pattern matches no node.
    """
    names = [node.name for node in graph.nodes]
    chosen: dict[str, QuantFormat] = {}
    for pattern, name in config.formats.items():
        quant_format = format_named(name)
        for node in _matches(pattern, names):
            chosen.setdefault(node, quant_format)
    for names, _ in _ends(graph, config, "int8"):
        for node in names:
            chosen.setdefault(node, FORMATS["int8"])
    return chosen


def _excluded(
    graph: gs.Graph, ops: dict[str, str], config: PlacementConfig
) -> Iterator[tuple[list[str], str]]:
    """Names and reason of each exclusion."""
    for op in config.exclude_ops:
        named = [name for name, its in ops.items() if its == op]
        _must_choose(named, what="op type", wanted=op, instead=sorted(set(ops.values())))
        yield named, f"op type {op} is excluded by the user"
    for pair in config.exclude_between:
        start, end = pair
        yield _between(graph, start, end), f"the user excludes what is between {start} and {end}"
    for pattern in config.exclude:
        yield _matches(pattern, ops), f"excluded by the user's pattern '{pattern}'"


def _ends(
    graph: gs.Graph, config: PlacementConfig, policy: EndPolicy
) -> Iterator[tuple[list[str], str]]:
    """The first and the last layers, where the user has this policy for them."""
    for which, chosen, tensors, nodes_of in (
        ("first", config.first_layer, graph.inputs, _below),
        ("last", config.last_layer, graph.outputs, _above),
    ):
        if chosen == policy:
            reached = _reached(tensors, nodes_of, stops=WEIGHTED)
            named = [name for name, op in reached.items() if op in WEIGHTED]
            yield named, f"the user keeps {which} layers {policy}"


def _between(graph: gs.Graph, start: str, end: str) -> list[str]:
    """The nodes on all ways from one tensor to another."""
    tensors = graph.tensors()
    for name in (start, end):
        _must_choose([name] * (name in tensors), what="tensor", wanted=name, instead=[*tensors])
    below = _reached([tensors[start]], _below)
    found = [name for name in _reached([tensors[end]], _above) if name in below]
    if not found:
        raise ConfigError(
            f"no node lies between the tensors '{start}' and '{end}'",
            fix="name the tensor that is computed first, then one that is computed from it",
        )
    return found


def _reached(
    tensors: Iterable[gs.Tensor],
    nodes_of: Callable[[gs.Tensor], list[gs.Node]],
    *,
    stops: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """Name -> op of the nodes on one side of tensors, walking on but over the ops that stop."""
    pending, reached = list(tensors), {}
    while pending:
        for node in nodes_of(pending.pop()):
            if node.name not in reached:
                reached[node.name] = node.op
                ends = node.outputs if nodes_of is _below else node.inputs
                pending.extend(ends if node.op not in stops else ())
    return reached


def _below(tensor: gs.Tensor) -> list[gs.Node]:
    return [node for node, _ in consumers(tensor)]


def _above(tensor: gs.Tensor) -> list[gs.Node]:
    node = producer(tensor)
    return [] if node is None else [node]


def _matches(pattern: str, names: Iterable[str]) -> list[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"'{pattern}' is no regular expression: {error}") from error
    matched = [name for name in names if compiled.fullmatch(name)]
    _must_choose(matched, what="pattern", wanted=pattern, instead=sorted(names))
    return matched


def _must_choose(found: list[str], *, what: str, wanted: str, instead: list[str]) -> None:
    if not found:
        close = get_close_matches(wanted, instead, n=3, cutoff=0.5)
        shown = ", ".join(close or [*instead[:8], *(["…"] if len(instead) > 8 else [])])
        whole = " (a pattern must match a whole name)" if what == "pattern" else ""
        raise ConfigError(
            f"{what} '{wanted}' matches no {_MATCHED.get(what, 'node')} of the model",
            fix=f"name what there is, as {shown}{whole}",
        )

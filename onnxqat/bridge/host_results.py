"""Which results of an operator with subgraphs are shapes, and so stay on the host.

This only predicts: a value that turns out to lie elsewhere is brought over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.bridge.ops.registry import BodyForm, Op
from onnxqat.bridge.values import NUMBER_READINGS, Known, Slot, Value
from onnxqat.graph.graph import subgraphs

FindOp = Callable[[gs.Node], Op | None]
FindValue = Callable[[str], Value | None]


def host_results(
    bodies: Mapping[str, gs.Graph],
    forms: Mapping[str, BodyForm],
    initial: Callable[[int], Value | None],
    *,
    find_op: FindOp,
    find_value: FindValue,
) -> frozenset[int]:
    """The indices of the results that all subgraphs compute on the host.

    Args:
        bodies: The subgraphs.
        forms: How each is run.
        initial: What a result starts from, where it is a state that is carried on.
        find_op: The operator of a node.
        find_value: What a name of the graphs around stands for.
    """
    results: list[frozenset[int]] = []
    for name, graph in bodies.items():
        form = forms[name]
        if form.results_from is None:
            return frozenset()
        results.append(_results(graph, form, initial, find_op=find_op, find_value=find_value))
    return frozenset.intersection(*results)


def _results(
    graph: gs.Graph,
    form: BodyForm,
    initial: Callable[[int], Value | None],
    *,
    find_op: FindOp,
    find_value: FindValue,
) -> frozenset[int]:
    outputs = graph.outputs[form.results_from :]
    found = {i for i, tensor in enumerate(outputs) if _is_shape(tensor)}
    if form.carries:
        found = {i for i in found if _starts_on_host(graph, form, initial, i)}
    while True:
        states = {graph.inputs[form.host_inputs + i].name for i in found} if form.carries else set()
        hosts = _on_host(graph, form, states, find_op=find_op, find_value=find_value)
        stay = {i for i in found if _is_host(outputs[i], hosts, find_value)}
        if stay == found:
            return frozenset(found)
        found = stay


def _starts_on_host(
    graph: gs.Graph, form: BodyForm, initial: Callable[[int], Value | None], result: int
) -> bool:
    place = form.host_inputs + result
    return place < len(graph.inputs) and _is_host_value(initial(result))


def _on_host(
    graph: gs.Graph,
    form: BodyForm,
    states: set[str],
    *,
    find_op: FindOp,
    find_value: FindValue,
) -> dict[str, bool]:
    """Of each name of a subgraph, whether its value lies on the host."""
    given = {tensor.name for tensor in graph.inputs[: form.host_inputs]} | states
    hosts = {tensor.name: tensor.name in given for tensor in graph.inputs}
    for node in graph.nodes:
        op = find_op(node)
        is_host = op is not None and not any(subgraphs(node)) and not op.is_random
        if is_host and op is not None and not op.returns_ints:
            is_host = all(
                op.reading(i) in NUMBER_READINGS or _is_host(tensor, hosts, find_value)
                for i, tensor in enumerate(node.inputs)
            )
        hosts.update((tensor.name, is_host) for tensor in node.outputs)
    return hosts


def _is_host(tensor: gs.Tensor, hosts: dict[str, bool], find_value: FindValue) -> bool:
    if tensor.is_empty():
        return True
    if isinstance(tensor, gs.Constant):
        return _is_shape(tensor)
    if tensor.name in hosts:
        return hosts[tensor.name]
    return _is_host_value(find_value(tensor.name))


def _is_host_value(value: Value | None) -> bool:
    if isinstance(value, Known):
        return not value.value.is_floating_point() and value.value.ndim <= 1
    return isinstance(value, Slot) and value.on_host


def _is_shape(tensor: gs.Tensor) -> bool:
    """Whether a tensor is declared as what shape arithmetic is made of."""
    is_whole = tensor.dtype is not None and np.dtype(tensor.dtype) in (np.int64, np.bool_)
    return is_whole and tensor.shape is not None and len(tensor.shape) <= 1

"""How values flow between kernels: what a tensor is made of, what reads it, where branches meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_graphsurgeon as gs

from onnxqat.graph.query import producer
from onnxqat.placement.families import (
    KEEPS_FEATURES,
    MEANS,
    RIDES_ALONG,
    SATURATES,
    VALUE_INPUTS,
    WEIGHTED,
)
from onnxqat.placement.scene import Scene, chooses_part, is_constant, readers, value_inputs

SCALES_AND_MASKS = frozenset({"Add", "Div", "Mul", "Where"})

_AFFINE = frozenset({"Add", "Mul", "Div", "Sub"})


def activations(node: gs.Node) -> tuple[gs.Tensor, ...]:
    """The inputs of a node that are computed, not stored."""
    return tuple(x for x in node.inputs if x.name and not is_constant(x))


def fusing_node(
    scene: Scene, tensor: gs.Tensor, passes: frozenset[str] = RIDES_ALONG
) -> gs.Node | None:
    """The Conv, Gemm or MatMul into whose kernel an op on `tensor` fuses; None if there is none.

    In between may be only ops that pass, and nobody else may read what is in between: the kernel
    would have to store it. An op of two activations passes where both come from the one kernel, as
    SiLU's product does.
    """
    if not scene.is_read_once(tensor):
        return None
    between: list[gs.Node] = []
    kernel: gs.Node | None = None
    for node in upstream(tensor, lambda x: x.op in passes):
        if node.op in passes:
            between.append(node)
        elif kernel is None and node.op in WEIGHTED:
            kernel = node
        else:
            return None  # a second one: not all of a deep stream needs to be walked
    return kernel if kernel is not None and _is_whole(scene, tensor, kernel, between) else None


def _is_whole(scene: Scene, tensor: gs.Tensor, kernel: gs.Node, between: list[gs.Node]) -> bool:
    """Whether nothing goes into what is between but the kernel's result, and nothing out of it."""
    made = [x for node in (*between, kernel) for x in node.outputs if x is not tensor]
    is_closed = all(_is_read_by(scene, x, between) for x in made)
    return is_closed and all(producer(x) is not None for node in between for x in activations(node))


def _is_read_by(scene: Scene, tensor: gs.Tensor, nodes: list[gs.Node]) -> bool:
    known = {id(node) for node in nodes}
    is_inner = tensor.name not in scene.outputs
    return is_inner and all(id(reader) in known for reader, _ in readers(tensor))


def is_residual(node: gs.Node) -> bool:
    """Whether an Add joins two feature maps that different weighted ops computed.

    x + f(x) with a pointwise f, as inside GELU's tanh, is no residual: the weighted ops that both
    sides come from are the same. Nor is the mask that is added to attention scores: it may come
    from no weighted op, and is far wider than they are.
    """
    if len(node.inputs) != 2 or len(activations(node)) != 2 or leads_to_softmax(node):
        return False
    above = (_nearest_weighted(x) for x in node.inputs)
    return _differ(*above) and all(any(weighted_above(x)) for x in node.inputs)


def _differ(left: Iterator[gs.Node], right: Iterator[gs.Node]) -> bool:
    """Whether two walks find different nodes, by turns: one of them may be the whole network."""
    walks, found = (left, right), (set[str](), set[str]())
    turn = 0
    while (node := next(walks[turn], None)) is not None:
        found[turn].add(node.name)
        turn = 1 - turn
    whole, other = found[turn], found[1 - turn]
    for node in walks[1 - turn] if other <= whole else ():
        if node.name not in whole:
            return True
        other.add(node.name)
    return other != whole


def joins_convs(scene: Scene, node: gs.Node) -> bool:
    """Whether the weighted ops nearest above an Add are convolutions alone."""
    return scene.has_only_convs_above[node.name]


def is_stored_in_int8(scene: Scene, tensor: gs.Tensor) -> bool:
    """Whether a node reads the tensor in INT8, or one that its values are moved from."""
    above = upstream(tensor, lambda x: bool(value_inputs(x)))
    moved = [x for node in above for x in value_inputs(node) if not is_constant(x)]
    return any(scene.is_quantized(x) for x in (tensor, *moved))


def _is_whole_move(node: gs.Node) -> bool:
    """Whether a node hands on all values that it reads, or the largest of them."""
    return bool(value_inputs(node)) and not chooses_part(node)


def leads_to_int8(scene: Scene, node: gs.Node) -> bool:
    """Whether a node hands on all that it reads, and that is read in INT8, at once or behind more
    such moves.
    """
    pending, seen = [node] if _is_whole_move(node) else [], {node.name}
    while pending:
        for output in pending.pop().outputs:
            if scene.is_quantized(output):
                return True
            new = [x for x, _ in readers(output) if _is_whole_move(x) and x.name not in seen]
            seen.update(x.name for x in new)
            pending.extend(new)
    return False


def parts_ways(scene: Scene, tensor: gs.Tensor) -> bool:
    """Whether a part of the tensor is read in INT8, and another is read by a Concat."""
    quantized, joined = set[str](), set[str]()
    for part in _parts(tensor):
        for found in _moved_on(part):
            if scene.is_quantized(found):
                quantized.add(part.name)
            if any(node.op == "Concat" for node, _ in readers(found)):
                joined.add(part.name)
    return bool(quantized and joined) and len(quantized | joined) > 1


def _parts(tensor: gs.Tensor) -> Iterator[gs.Tensor]:
    """The parts that are chosen of a tensor, at once or after whole moves."""
    for found in _moved_on(tensor):
        for node, index in readers(found):
            if chooses_part(node) and index == 0:
                yield from node.outputs


def _moved_on(tensor: gs.Tensor) -> Iterator[gs.Tensor]:
    """A tensor, and what whole moves of it alone make of it."""
    pending, seen = [tensor], {tensor.name}
    while pending:
        found = pending.pop()
        yield found
        for node, _ in readers(found):
            if _is_whole_move(node) and len(activations(node)) == 1:
                new = [x for x in node.outputs if x.name not in seen]
                seen.update(x.name for x in new)
                pending.extend(new)


def squeezing_mean(node: gs.Node) -> gs.Node | None:
    """The mean of one factor of a Mul from which the other is computed; None if there is none.

    The gate has one value a channel, and so has all between it and the mean.
    """
    if node.op != "Mul" or len(activations(node)) != 2:
        return None
    for features, gate in (node.inputs, node.inputs[::-1]):
        if _is_a_value_a_channel(gate):
            for above in upstream(gate, _computes_channels):
                if above.op in MEANS and above.inputs[0] is features:
                    return above
    return None


def _computes_channels(node: gs.Node) -> bool:
    return node.op not in MEANS and any(_is_a_value_a_channel(x) for x in node.outputs)


def _is_a_value_a_channel(tensor: gs.Tensor) -> bool:
    """[N, C, 1, …], or [N, C] on the way."""
    shape = tensor.shape or ()
    return len(shape) >= 2 and all(size == 1 for size in shape[2:])


def is_concatenated(tensor: gs.Tensor) -> bool:
    """Whether the tensor is stored part by part, or is a part of one that is."""
    below = [node for node, _ in readers(tensor)]
    above = upstream(tensor, lambda x: bool(value_inputs(x)))
    return any(x.op == "Concat" for x in (*below, *above))


def leads_to_softmax(node: gs.Node) -> bool:
    """Whether nothing but a Softmax reads the result, behind scales, masks and moves."""
    reader = only_reader(node, passes=SCALES_AND_MASKS)
    return reader is not None and reader.op == "Softmax"


def only_reader(node: gs.Node, *, passes: frozenset[str] = frozenset()) -> gs.Node | None:
    """The only node that reads the result, behind moves and the ops that pass; None if several."""
    while len(found := readers(node.outputs[0])) == 1:
        node = found[0][0]
        if node.op not in passes and not value_inputs(node):
            return node
    return None


def weighted_above(tensor: gs.Tensor) -> Iterator[gs.Node]:
    """The weighted ops that a feature map comes from, behind activations, norms, pools and moves.

    None where it is no feature map: a mask, a box, a spectrum's square.
    """
    return (node for node in upstream(tensor, _keeps_features) if node.op in WEIGHTED)


def readers_below(tensor: gs.Tensor) -> Iterator[tuple[gs.Node, int]]:
    """The inputs that a feature map flows into, on through activations, norms, pools and moves."""
    pending, seen = [tensor], {tensor.name}
    while pending:
        for node, index in readers(pending.pop()):
            yield node, index
            if _keeps_features(node):
                new = [x for x in node.outputs if x.name not in seen]
                seen.update(x.name for x in new)
                pending.extend(new)


def _nearest_weighted(tensor: gs.Tensor) -> Iterator[gs.Node]:
    """The first weighted ops on all ways up from the tensor."""
    return (node for node in upstream(tensor, _is_light) if node.op in WEIGHTED)


def _is_light(node: gs.Node) -> bool:
    return node.op not in WEIGHTED


def upstream(tensor: gs.Tensor, passes: Callable[[gs.Node], bool]) -> Iterator[gs.Node]:
    """The nodes above a tensor, each once, walking on through those that pass."""
    pending, seen = [tensor], {tensor.name}
    while pending:
        node = producer(pending.pop())
        if node is None:
            continue
        yield node
        if passes(node):
            new = [x for x in activations(node) if x.name not in seen]
            seen.update(x.name for x in new)
            pending.extend(new)


def _keeps_features(node: gs.Node) -> bool:
    if node.op in ("Div", "Mul"):
        return len(activations(node)) == 1 or any(_is_gate(x) for x in activations(node))
    return node.op in KEEPS_FEATURES or node.op in VALUE_INPUTS


def _is_gate(tensor: gs.Tensor) -> bool:
    """Whether the tensor is the bounded factor of a SiLU, HardSwish, GELU or of an SE block."""
    node = producer(tensor)
    while node is not None and node.op in _AFFINE and len(activations(node)) == 1:
        node = producer(activations(node)[0])
    return node is not None and node.op in SATURATES

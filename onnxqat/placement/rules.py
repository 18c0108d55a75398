"""The placement rules, one generator each; `TENSORRT_RULES`, at the end, is their order.

A rule yields what it decides, edge by edge, with the reason; the planner sees to it that no two
rules contradict each other. P1 … P20 number NVIDIA's placement rules, L9, L12 its legal limits.

Sources: the TensorRT guide's chapter on explicit quantization, with its recommendations for the
placement of Q/DQ layers,
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html;
the Q/DQ cases of NVIDIA's TensorFlow 2.x quantization toolkit,
https://docs.nvidia.com/deeplearning/tensorrt/tensorflow-quantization-toolkit/docs/docs/add_custom_qdq_cases.html;
the ONNX quantization of ModelOpt,
https://github.com/NVIDIA/Model-Optimizer/tree/main/modelopt/onnx/quantization;
and what TensorRT for RTX 1.7.1 was seen to compile, for which the tests in tests/placement hold it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from math import prod

import onnx_graphsurgeon as gs

from onnxqat.core.plan import Placement, Skip
from onnxqat.core.spec import Edge, QuantSpec, SharedSpec
from onnxqat.placement.attention import is_attention_scores, is_fused
from onnxqat.placement.branches import (
    activations,
    fusing_node,
    is_concatenated,
    is_residual,
    is_stored_in_int8,
    joins_convs,
    leads_to_int8,
    leads_to_softmax,
    parts_ways,
    readers_below,
    squeezing_mean,
    weighted_above,
)
from onnxqat.placement.families import (
    CONVOLUTIONS,
    RECURRENT,
    WEIGHTED,
    WHY_FLOAT,
    WHY_FLOAT_OTHERWISE,
    WITH_SUBGRAPHS,
)
from onnxqat.placement.scene import (
    Decision,
    Scene,
    edge_at,
    float_edges,
    is_float32,
    readers,
    value_inputs,
)
from onnxqat.placement.sharing import equal_scale_groups
from onnxqat.placement.spectra import holds_magnitudes, parts_of_spectra
from onnxqat.placement.weights import weight_index, weight_spec
from onnxqat.placement.width import why_narrow

Rule = Callable[[Scene], Iterator[Decision]]


def excluded(scene: Scene) -> Iterator[Decision]:
    """What the user takes out stays in float.

    Source: the user's own choice.
    """
    for node in scene.graph.nodes:
        if node.name in scene.closed:
            reason = scene.closed[node.name]
            yield from (Skip(edge, "excluded", reason) for edge in float_edges(node))


def weighted_op(scene: Scene) -> Iterator[Decision]:
    """Data and weights of each Conv, ConvTranspose, Gemm and MatMul: both, or neither (P1).

    Source: the TensorRT guide on explicit quantization: quantize all inputs of weighted operations,
    and the weights by output channel. Measured: Q/DQ on one side only, or along the wrong axis of
    the weights, compiles to a float kernel; vectors (P16), few channels and depthwise Convs (P15)
    compile to INT8. They move fewer bytes, counting the weights: a classifier of 512 features and
    1000 classes reads 0.5 MB of weights instead of 2 MB, and 5 kB more of activations, as its bias
    is added in a kernel of its own. NVIDIA's ModelOpt leaves such layers in float for their speed,
    which no compiler here can tell: `narrow_convs` and `narrow_products` do the same.
    FP8 compiles alike, for SM89 and SM120, but for Convs of more than 32 taps.
    """
    spectra = parts_of_spectra(scene)
    for node in scene.nodes(*WEIGHTED):
        index = weight_index(node)
        if index is None and node.op not in CONVOLUTIONS:
            continue  # a product of activations is a matter of the next rule
        obstacle = (
            _obstacle_of_choice(scene, node)
            or _obstacle_of_weights(scene, node)
            or _obstacle_of_width(scene, node, index)
            or _obstacle_of_range(node, spectra)
        )
        if index is None or obstacle is not None:
            reason = obstacle or "its weights are computed, so that they have no scale a channel"
            yield from (Skip(edge_at(node, i), "weighted_op", reason) for i in (0, 1))
        else:
            data, weights = edge_at(node, 1 - index), edge_at(node, index)
            spec, word = _activation(scene, data)
            reason = f"{node.op} reads its data in {word} (P1, P2)"
            yield Placement(data, spec, "weighted_op", reason)
            word = "FP8" if spec.dtype.is_float else "INT8"
            reason = f"{node.op} reads its weights in {word}, a scale an output channel (P1, P3)"
            yield Placement(weights, weight_spec(scene, node, index), "weighted_op", reason)


def _activation(scene: Scene, edge: Edge) -> tuple[QuantSpec, str]:
    """The format of an activation, and its type in words."""
    tensor = scene.by_name[edge.node].inputs[edge.index]
    return scene.activation_on(tensor), scene.type_on(tensor)


def _obstacle_of_choice(scene: Scene, node: gs.Node) -> str | None:
    """A rule of the user's own may keep one operand in float: then neither is quantized (P1)."""
    decided = (scene.decided.get(edge_at(node, index)) for index in (0, 1))
    skip = next((x for x in decided if isinstance(x, Skip)), None)
    return None if skip is None else f"the rule '{skip.rule}' keeps an operand float (P1)"


def _obstacle_of_weights(scene: Scene, node: gs.Node) -> str | None:
    if node.op not in scene.config.compiler.weighted_ops:
        return f"the compiler of profile '{scene.config.profile}' runs it in float (P4)"
    if _is_float8(scene, node) and _taps(node) > scene.config.compiler.most_fp8_taps:
        return f"an FP8 Conv of {_taps(node)} taps runs in float: it has too many (P16)"
    if node.op == "ConvTranspose" and node.attrs.get("group", 1) != 1:
        return "the weights of a grouped ConvTranspose have no axis of output channels (P4)"
    return _obstacle_of_operands(node)


def _obstacle_of_width(scene: Scene, node: gs.Node, index: int | None) -> str | None:
    is_conv = node.op in CONVOLUTIONS
    choice = scene.config.narrow_convs if is_conv else scene.config.narrow_products
    if choice == "quantized" or index is None:
        return None
    problem = why_narrow(node, index)
    return None if problem is None else f"it {problem}, and the user keeps such float (P15, P16)"


def _is_float8(scene: Scene, node: gs.Node) -> bool:
    return scene.activation_on(node.inputs[0]).dtype.is_float


def _taps(node: gs.Node) -> int:
    """Positions of a convolution's window; 1 of other products."""
    shape = node.inputs[1].shape if node.op in CONVOLUTIONS else None
    return prod(shape[2:]) if shape else 1


def _obstacle_of_range(node: gs.Node, spectra: frozenset[str]) -> str | None:
    if node.outputs[0].name in spectra:
        return "it computes a spectrum, whose magnitudes span more than INT8 holds (P19)"
    if any(holds_magnitudes(x, spectra) for x in activations(node)):
        return "it reads a spectrum's magnitudes, which span more than INT8 holds (P19)"
    return None


def _obstacle_of_operands(node: gs.Node) -> str | None:
    for tensor in node.inputs[:2]:
        if not is_float32(tensor):
            return f"'{tensor.name}' is not float32, as the scales are (L9)"
    return None


def activation_product(scene: Scene) -> Iterator[Decision]:
    """Both operands of a MatMul or Gemm of two activations, as attention has them (P18).

    Source: ModelOpt's placement in attention. Measured: a block of 3 heads of 64 becomes one
    kernel, INT8 in and out; without Q/DQ, four float products more and 58 % more bytes.
    """
    for node in scene.nodes("Gemm", "MatMul"):
        if weight_index(node) is not None:
            continue
        obstacle = _obstacle_of_choice(scene, node) or _obstacle_of_operands(node)
        for edge in (edge_at(node, 0), edge_at(node, 1)):
            if obstacle is not None:
                yield Skip(edge, "activation_product", obstacle)
            else:
                spec, word = _activation(scene, edge)
                reason = f"{node.op} of two activations, as in attention: both in {word} (P18)"
                yield Placement(edge, spec, "activation_product", reason)


def attention_scores(scene: Scene) -> Iterator[Decision]:
    """The scores between the two MatMuls of an attention that is not fused into one kernel (P18).

    A fused attention keeps its scores to itself, and a Q on them would break it: a block of 3 heads
    moves 4.2 MB without and 4.8 MB with it. What is not fused stores them: of one head for a batch
    of one (a keyword transformer moves 9.4 MB without and 8.7 MB with it, but for a batch of 8
    59 MB and 71 MB), of more than 512 tokens (1024 tokens: 36 MB and 23 MB), or with heads of
    another size than 16, 32 and 64.

    Source: measured on TensorRT for RTX 1.7.1, for SM80, 86, 89 and 120.
    """
    is_wanted = scene.config.attention_scores
    for node in scene.nodes("MatMul"):
        if not is_attention_scores(node) or not scene.is_placed(edge_at(node, 0)):
            continue
        if (
            not is_fused(node, scene.config.compiler.fused_attention)
            if is_wanted is None
            else is_wanted
        ):
            reason = "attention that is not fused into one kernel stores its scores (P18)"
            for edge in scene.open_edges(node.outputs[0]):
                yield Placement(edge, _activation(scene, edge)[0], "attention_scores", reason)


def pool(scene: Scene) -> Iterator[Decision]:
    """Pools without weights that have an INT8 kernel: Q right before and behind them (P10).

    Source: the TensorRT guide: layers without weights run in INT8 only where both their inputs and
    outputs are quantized. Measured: AveragePool does, if nothing stands between it and the Q, and
    if it pads or counts padding; GlobalAveragePool and an SE block's Mul (P11) gain nothing. There
    is no pool in FP8: its input is quantized only where others read it in FP8 as well, so that it
    is stored once (an Inception moves 7 % more bytes without).
    """
    for node in scene.nodes(*scene.config.compiler.pool_ops):
        source, output = node.inputs[0], node.outputs[0]
        if scene.activation_on(source).dtype.is_float:
            yield from _float8_pool(scene, node)
        elif output.name not in scene.outputs and _is_amid_int8(scene, source, output):
            word = scene.type_on(source)
            reason = f"{node.op} runs in {word} where DQ, pool and Q are adjacent (P10)"
            for edge in (edge_at(node, 0), *scene.open_edges(output)):
                yield Placement(edge, _activation(scene, edge)[0], "pool", reason)


def _float8_pool(scene: Scene, node: gs.Node) -> Iterator[Decision]:
    if scene.is_quantized(node.inputs[0]) and _goes_to_int8(scene, node.outputs[0]):
        edge = edge_at(node, 0)
        reason = "others read this tensor in FP8, so that it is stored: once (P7, P10)"
        yield Placement(edge, _activation(scene, edge)[0], "pool", reason)


def _is_amid_int8(scene: Scene, source: gs.Tensor, output: gs.Tensor) -> bool:
    """Whether a feature map comes from a kernel in INT8 and goes into one."""
    return is_float32(source) and _comes_from_int8(scene, source) and _goes_to_int8(scene, output)


def _comes_from_int8(scene: Scene, tensor: gs.Tensor) -> bool:
    return any(scene.is_placed(edge_at(node, 0)) for node in weighted_above(tensor))


def _goes_to_int8(scene: Scene, tensor: gs.Tensor) -> bool:
    return any(scene.is_placed(edge_at(node, index)) for node, index in readers_below(tensor))


def residual_add(scene: Scene) -> Iterator[Decision]:
    """All branches of a residual Add but the one into whose kernel it fuses (P5, P6).

    A branch crosses in INT8 where another node reads it in INT8 anyway. Where none does, the
    profile decides about Convs; behind a MatMul it stays in float. A pre-norm transformer keeps its
    residual stream in float for the norms all the same, and INT8 would take accuracy and save no
    byte; a post-norm one stores its normed stream once, in INT8.

    Measured on TensorRT for RTX 1.7: without Q/DQ on the skips ResNet-20 moves 27 % more bytes. A
    pre-activation ResNet moves the same with and without: only its norms and Adds read the stream,
    and the compiler dequantizes it in the kernel that computes it.

    Source: the toolkit's residual case, and ModelOpt's; profile `rtx`: measured on TensorRT for
    RTX 1.7.1.
    """
    for node in scene.nodes("Add"):
        if not _joins_int8(scene, node):
            continue
        bare = _bare_branch(scene, node)
        for index in (0, 1):
            edge, tensor = edge_at(node, index), node.inputs[index]
            if index == bare:
                reason = "the Add fuses into the kernel of this branch, the last computed (P5)"
                yield Skip(edge, "residual_add", reason)
            elif is_stored_in_int8(scene, tensor) or _crosses_for_add(scene, node):
                spec, word = _activation(scene, edge)
                reason = f"this branch waits for the other, and does so in {word} (P5, P6)"
                yield Placement(edge, spec, "residual_add", reason)
            else:
                yield Skip(edge, "residual_add", _why_float_stream(scene, node))


def _joins_int8(scene: Scene, node: gs.Node) -> bool:
    """Whether an Add joins feature maps of kernels in INT8, or such a kernel's with any tensor that
    is stored in INT8: a post-norm transformer's stream, which may come from an embedding.
    """
    if is_residual(node) and any(_comes_from_int8(scene, x) for x in node.inputs):
        return True
    if len(activations(node)) != 2 or leads_to_softmax(node):
        return False
    return any(
        is_stored_in_int8(scene, one) and _is_int8_product(scene, other)
        for one, other in (node.inputs, node.inputs[::-1])
    )


def _is_int8_product(scene: Scene, tensor: gs.Tensor) -> bool:
    kernel = fusing_node(scene, tensor)
    return kernel is not None and scene.is_placed(edge_at(kernel, 0))


def _crosses_for_add(scene: Scene, node: gs.Node) -> bool:
    return scene.config.compiler.stores_for_pointwise and joins_convs(scene, node)


def _why_float_stream(scene: Scene, node: gs.Node) -> str:
    if joins_convs(scene, node):
        return "no node reads this branch in INT8, so that the compiler stores it in float (P5)"
    return "a residual stream between MatMuls, which no node reads in INT8 (P6, P19)"


def _bare_branch(scene: Scene, node: gs.Node) -> int | None:
    """Of the branches that end in a kernel the one computed last; None if none does.

    With two, the longer way from their common ancestor is the deeper in the graph.
    """
    passes = scene.config.compiler.fuses_before_add
    ends = [i for i in (0, 1) if fusing_node(scene, node.inputs[i], passes) is not None]
    return max(ends, key=lambda index: scene.depth(node.inputs[index]), default=None)


def preactivation(scene: Scene) -> Iterator[Decision]:
    """The input of a BatchNormalization that stands before its Conv, not behind one (P13).

    What it reads is stored for others as well, a later block's Concat or Add: once, in INT8.

    Measured on TensorRT for RTX 1.7: DenseNet, whose norms read Concats, moves a sixth less with
    it. Behind an Add, as in a pre-activation ResNet, it changes no byte, so that the profile `rtx`
    has it behind Concats alone.

    Source: the toolkit's ResNet v2 case; profile `rtx`: measured on TensorRT for
    RTX 1.7.1.
    """
    for node in scene.nodes("BatchNormalization"):
        source, output = node.inputs[0], node.outputs[0]
        is_stored = scene.config.compiler.stores_for_pointwise or is_concatenated(source)
        fuses = fusing_node(scene, source) is not None
        if is_stored and not fuses and _is_amid_int8(scene, source, output):
            word = scene.type_on(source)
            reason = f"a BatchNormalization before its Conv reads what is stored in {word} (P13)"
            yield Placement(edge_at(node, 0), scene.activation_on(source), "preactivation", reason)


def squeeze_excitation(scene: Scene) -> Iterator[Decision]:
    """Both inputs of the Mul of a squeeze-and-excitation block, and what its mean reads (P11).

    The feature map is stored while its mean goes through two small products: in INT8, for its mean
    and for the Mul, with one scale.

    Measured on TensorRT for RTX 1.7: only pointwise ops and a mean read the map, so that it crosses
    in float all the same; the profile `rtx` leaves the block in float.

    Source: the toolkit's EfficientNet case, and ModelOpt.
    """
    if not scene.config.compiler.squeezes_in_int8:
        return
    for node in scene.nodes("Mul"):
        mean = squeezing_mean(node)
        if mean is None or not _comes_from_int8(scene, mean.inputs[0]):
            continue
        edges = [edge_at(mean, 0)] if mean.name not in scene.closed else []
        for edge in (*edges, edge_at(node, 0), edge_at(node, 1)):
            spec, word = _activation(scene, edge)
            reason = f"a squeeze-and-excitation block reads its map and its gate in {word} (P11)"
            yield Placement(edge, spec, "squeeze_excitation", reason)


def stored_once(scene: Scene) -> Iterator[Decision]:
    """A tensor of several readers, all along the moves behind which it is read in INT8 (P7 … P9).

    Q and DQ move over a Concat, a Resize or a MaxPool, but the compiler may then store the tensor
    itself in float for its other readers, or in INT8 once more for each. With the same scale before
    and behind each move it is stored once, and no value is rounded that is not rounded anyway.

    Measured on TensorRT for RTX 1.7: the neck of a detector, whose maps go into two Concats each,
    moves 6 % more bytes without it. A Q before a MaxPool alone, and none behind it, makes the pool
    run in float.

    Source: YOLO placements of the TensorRT samples (equal scales about Concat and MaxPool);
    measured on TensorRT for RTX 1.7.1.
    """
    for edge in _edges_of_moves(scene):
        if edge not in scene.decided:
            spec, word = _activation(scene, edge)
            reason = f"others read it too, so that it is stored: once, in {word} (P7, P8, P9)"
            yield Placement(edge, spec, "stored_once", reason)


def _edges_of_moves(scene: Scene) -> Iterator[Edge]:
    """The edges on the ways from tensors of several readers over whole moves to INT8."""
    pending = [x for node in scene.graph.nodes for x in node.outputs if len(readers(x)) > 1]
    seen = {x.name for x in pending}
    while pending:
        tensor = pending.pop()
        for node, index in readers(tensor) if is_float32(tensor) else ():
            edge = edge_at(node, index)
            if edge in scene.open_edges(tensor) and leads_to_int8(scene, node):
                yield edge
                new = [x for x in node.outputs if x.name not in seen]
                seen.update(x.name for x in new)
                pending.extend(new)


def stored_whole(scene: Scene) -> Iterator[Decision]:
    """What a Concat joins, where a part of it is read in INT8 and another goes on into a Concat.

    That is a ShuffleNet's unit: half of the channels go through Convs, the other half goes by, unit
    after unit. Without Q/DQ on the whole the Q of every later unit moves back over all Concats
    before it, and what goes by is stored once more for each. What goes by is rounded again with
    each whole, each with a scale of its own: one for all would be that of the largest.

    Measured on TensorRT for RTX 1.7: a ShuffleNet v2 of 13 units, the backbone of a detector, moves
    43.5 MB with it, 47.1 MB without; each unit counts.

    Source: measured on TensorRT for RTX 1.7.1; onnxruntime.quantization places so.
    """
    for node in scene.nodes("Concat"):
        tensor = node.outputs[0]
        if is_float32(tensor) and tensor.name not in scene.outputs and parts_ways(scene, tensor):
            for edge in scene.open_edges(tensor):
                if edge not in scene.decided and value_inputs(scene.by_name[edge.node]):
                    spec, word = _activation(scene, edge)
                    reason = f"its parts go different ways: it is stored whole, in {word} (P7, P8)"
                    yield Placement(edge, spec, "stored_whole", reason)


def recurrence(scene: Scene) -> Iterator[Decision]:
    """LSTM, GRU and RNN compute in float; what an INT8 kernel hands to one is stored in INT8.

    TensorRT has no INT8 kernel for a recurrence: weights, states and gates stay in float. What the
    steps read in turn is a tensor like any other: in INT8 the kernels before write a quarter, and
    the product with the input weights, which the compiler computes for all steps at once before the
    first, takes in the dequantization.

    Measured on TensorRT for RTX 1.7: a small text reader moves 0.29 MB instead of 0.37 MB with an
    LSTM, and 0.29 MB instead of 0.39 MB with a GRU. Q/DQ on the input weights as well makes that
    product a kernel in INT8, and moves more bytes; on the recurrent weights, the engine dequantizes
    them anew for each run. NVIDIA's tools leave all of it in float, and so does the profile
    `tensorrt`.

    Source: the TensorRT guide's list of layers that run in INT8; profile `rtx`: measured on
    TensorRT for RTX 1.7.1.
    """
    for node in scene.nodes(*RECURRENT):
        for edge in float_edges(node):
            if edge.index == 0 and _is_handed_in_int8(scene, node.inputs[0]):
                spec, word = _activation(scene, edge)
                reason = f"a kernel in {word} hands {node.op} its input, which is stored so (P2)"
                yield Placement(edge, spec, "recurrence", reason)
            else:
                reason = f"{node.op}: TensorRT has no INT8 kernel for a recurrence"
                yield Skip(edge, "recurrence", reason)


def _is_handed_in_int8(scene: Scene, tensor: gs.Tensor) -> bool:
    is_stored = scene.config.compiler.stores_for_recurrence
    return is_stored and is_float32(tensor) and _comes_from_int8(scene, tensor)


def equal_scales(scene: Scene) -> Iterator[Decision]:
    """One scale for quantized tensors with values in common, between which are moves (P7 … P9).

    Source: the TensorRT guide: layers that commute with Q and DQ; the toolkit's residual case for
    equal scales on a skip.
    """
    for leader, *followers in equal_scale_groups(scene):
        first = _placed(scene, leader)[0]
        spec = SharedSpec(first.edge)
        for placement in (x for tensor in followers for x in _placed(scene, tensor)):
            if placement.spec != first.spec:
                continue  # a format of its own, by the user's choice
            between = f"only moves lie between it and '{leader.name}' (P7, P8, P9)"
            reason = f"{placement.reason}; {between}"
            yield Placement(placement.edge, spec, "equal_scales", reason)


def _placed(scene: Scene, tensor: gs.Tensor) -> list[Placement]:
    decisions = (scene.decided.get(edge) for edge in scene.edges_on(tensor))
    return [decision for decision in decisions if isinstance(decision, Placement)]


def left_in_float(scene: Scene) -> Iterator[Decision]:
    """Every other edge on float values, with the reason by its op.

    Source: the TensorRT guide: where Q/DQ cannot help a fusion, it can only break one.
    """
    for node in scene.graph.nodes:
        for edge in float_edges(node):
            if edge not in scene.decided:
                yield Skip(edge, "left_in_float", _why_float(node, edge))


def _why_float(node: gs.Node, edge: Edge) -> str:
    if node.op in WITH_SUBGRAPHS:
        return f"its subgraphs stay in float, with {_weighted_ops_inside(node)} in them"
    if node.op in WEIGHTED:
        return "a bias is added in the kernel's wider accumulator, and stays float (L12)"
    return WHY_FLOAT.get(node.op, WHY_FLOAT_OTHERWISE.format(op=node.op))


def _weighted_ops_inside(node: gs.Node) -> str:
    subgraphs = [value for value in node.attrs.values() if isinstance(value, gs.Graph)]
    counts = Counter(x.op for graph in subgraphs for x in graph.nodes)
    heavy = sorted(op for op in counts if op in WEIGHTED | RECURRENT)
    return ", ".join(f"{counts[op]} {op}" for op in heavy) or "no kernel for INT8"


TENSORRT_RULES: tuple[Rule, ...] = (
    excluded,
    weighted_op,
    activation_product,
    attention_scores,
    pool,
    residual_add,
    preactivation,
    squeeze_excitation,
    stored_once,
    stored_whole,
    recurrence,
    equal_scales,
    left_in_float,
)
"""In order: the user's choice, then what asks for Q/DQ, then what looks at all that is placed."""

"""Run the rules over a graph, and hold them to one decision an edge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import onnx_graphsurgeon as gs

from onnxqat.core.errors import PlacementError
from onnxqat.core.plan import Placement, QuantPlan, Skip
from onnxqat.core.precision import HEAVY_OPS
from onnxqat.core.spec import Edge, SharedSpec
from onnxqat.graph.graph import is_onnx
from onnxqat.placement.config import PlacementConfig
from onnxqat.placement.own_rules import checked, own_rules
from onnxqat.placement.rules import TENSORRT_RULES, Rule
from onnxqat.placement.scene import Decision, Scene, is_float32, type_name

DEFAULTS = PlacementConfig()


def place(graph: gs.Graph, *, config: PlacementConfig = DEFAULTS) -> QuantPlan:
    """Decide for each edge whether it gets Q/DQ, in what format, and why.

    Args:
        graph: A prepared graph: constants folded, nodes named, shapes inferred.
        config: Format, compiler and the user's own choice of nodes.

    Returns:
        The decisions sorted by edge: every edge on float values has a placement or a skip.

    Raises:
        ConfigError: The config names a format, profile, node, op type or rule that does not exist.
        PlacementError: The graph has Q/DQ already, or nodes without a name of their own; or a rule
            of the user's own fails, or decides about an edge that does not exist.
    """
    return place_by(TENSORRT_RULES, graph, config=config, own=own_rules(config.rules))


def check_precision(graph: gs.Graph) -> None:
    """A model in half precision is refused before anything is calibrated in vain.

    Raises:
        PlacementError: Products there are, but none in float32, which Q/DQ's scales are in (L9).
    """
    products = [node for node in graph.nodes if is_onnx(node) and node.op in HEAVY_OPS]
    if products and not any(is_float32(node.inputs[0]) for node in products):
        name = type_name(products[0].inputs[0])
        raise PlacementError(
            f"nothing would be quantized: the model computes in {name}, and not in float32",
            node=products[0].name,
            fix="give the float32 model that it was converted from, or export it in float32",
        )


def place_by(
    rules: Iterable[Rule],
    graph: gs.Graph,
    *,
    config: PlacementConfig = DEFAULTS,
    own: Iterable[Rule] = (),
) -> QuantPlan:
    """`place` with other rules than TensorRT's, applied in their order.

    Rules of the user's own come before the others, and what they decide is final; where one keeps
    an operand of a Conv, Gemm or MatMul in float, the other operand stays in float, too.

    Raises:
        PlacementError: As for `place`, and where two rules disagree about an edge.
    """
    _check(graph)
    scene = Scene(graph, config)
    for rule in own:
        scene = replace(scene, decided=_merged(scene.decided, checked(rule, scene)))
    final = frozenset(scene.decided)
    for rule in rules:
        new = (x for x in rule(scene) if x.edge not in final or _refines(x, scene))
        scene = replace(scene, decided=_merged(scene.decided, new))
    decisions = [scene.decided[edge] for edge in sorted(scene.decided)]
    return QuantPlan(
        tuple(x for x in decisions if isinstance(x, Placement)),
        tuple(x for x in decisions if isinstance(x, Skip)),
    )


def _refines(decision: Decision, scene: Scene) -> bool:
    """Whether a shared scale takes the place of a scale of its own, in the same format."""
    is_shared = isinstance(decision, Placement) and isinstance(decision.spec, SharedSpec)
    return is_shared and scene.is_placed(decision.edge)


def _merged(before: Mapping[Edge, Decision], new: Iterable[Decision]) -> dict[Edge, Decision]:
    merged = dict(before)
    for decision in new:
        known = merged.get(decision.edge)
        merged[decision.edge] = decision if known is None else _agreed(known, decision)
    return merged


def _agreed(known: Decision, new: Decision) -> Decision:
    """The earlier of two decisions that say the same; a shared scale refines a scale of its own."""
    if isinstance(known, Placement) and isinstance(new, Placement):
        if known.spec == new.spec:
            return known
        if isinstance(new.spec, SharedSpec) and not isinstance(known.spec, SharedSpec):
            return new
    elif isinstance(known, Skip) and isinstance(new, Skip):
        return known
    raise PlacementError(
        f"placement rules '{known.rule}' and '{new.rule}' disagree: {_says(known)}; {_says(new)}",
        node=new.edge.node,
        tensor=new.edge.tensor,
        fix="exclude the node, and report it: the rules are wrong, not the model",
    )


def _says(decision: Decision) -> str:
    what = decision.spec if isinstance(decision, Placement) else "float"
    return f"'{decision.rule}' wants {what} ({decision.reason})"


def _check(graph: gs.Graph) -> None:
    seen: set[str] = set()
    for node in graph.nodes:
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            raise PlacementError(
                "the model has Q/DQ already, so that there is nothing to place",
                node=node.name,
                fix="fine-tune it as it is, or place on the float model that it was made from",
            )
        if not node.name or node.name in seen:
            raise PlacementError(
                f"a {node.op} node has no name of its own, by which a plan could call it",
                node=node.name,
                fix="prepare the graph first: that names the nodes",
            )
        seen.add(node.name)

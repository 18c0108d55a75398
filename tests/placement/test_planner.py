"""One decision an edge, whatever the graph and the order of its nodes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxqat.core.calibration import Calibration, TensorRange
from onnxqat.core.errors import PlacementError
from onnxqat.core.plan import Edge, Placement, QuantPlan, Skip
from onnxqat.core.spec import PerChannel, PerTensor, QuantDtype, QuantSpec
from onnxqat.graph import Graph, as_graph, insert, to_model
from onnxqat.placement import PlacementConfig, place
from onnxqat.placement.config import PROFILES
from onnxqat.placement.planner import place_by
from onnxqat.placement.rules import TENSORRT_RULES
from onnxqat.placement.scene import Decision, Scene
from tests.support.networks.builder import NetworkBuilder
from tests.support.placement import graph_of, plan_of
from tests.support.random_graphs import graphs

TEXT = """g (float[1, 8, 16, 16] x) => (float[1, 8, 14, 14] y) { y = Conv (x, w) }"""
EDGE = Edge("x", "Conv_y", 0)
INT8 = QuantSpec(QuantDtype.INT8, PerTensor())
INT4 = QuantSpec(QuantDtype.INT4_IN_INT8, PerTensor())

many_graphs = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def deciding(decision: Decision) -> Callable[[Scene], Iterator[Decision]]:
    """A rule that makes one decision."""
    return lambda scene: iter([decision])


@pytest.mark.parametrize(
    "other", [Skip(EDGE, "second", "why not"), Placement(EDGE, INT4, "second", "otherwise")]
)
def test_rules_that_disagree_on_an_edge_are_an_error_naming_both(other: Decision) -> None:
    rules = (deciding(Placement(EDGE, INT8, "first", "why")), deciding(other))
    with pytest.raises(PlacementError, match="'first' and 'second' disagree") as error:
        place_by(rules, graph_of(TEXT))
    assert error.value.node == "Conv_y"
    assert error.value.tensor == "x"


def test_of_rules_that_agree_the_first_is_recorded() -> None:
    rules = (
        deciding(Placement(EDGE, INT8, "first", "why")),
        deciding(Placement(EDGE, INT8, "second", "also")),
    )
    (placement,) = place_by(rules, graph_of(TEXT)).placements
    assert placement.rule == "first"


def test_a_graph_with_qdq_is_refused() -> None:
    text = """g (float[4] x) => (int8[4] y) <float s = {1}, int8 z = {0}> {
        y = QuantizeLinear (x, s, z)
    }"""
    with pytest.raises(PlacementError, match="Q/DQ already"):
        plan_of(text, {})


@pytest.mark.parametrize("name", ["", "Conv_y"])
def test_nodes_without_a_name_of_their_own_are_refused(name: str) -> None:
    graph = graph_of(
        TEXT.replace("=> (float[1, 8, 14, 14] y)", "=> (float[1, 8, 14, 14] z)").replace(
            "y = Conv (x, w)", "y = Conv (x, w) z = Relu (y)"
        )
    )
    graph.nodes[1].name = name
    with pytest.raises(PlacementError, match="no name of its own"):
        place(graph)


def test_every_rule_is_named_by_its_function_and_says_what_it_does() -> None:
    names = [rule.__name__ for rule in TENSORRT_RULES]
    assert len(set(names)) == len(names)
    assert all(rule.__doc__ for rule in TENSORRT_RULES)


@many_graphs
@given(graphs())
def test_every_decision_is_about_an_edge_of_the_graph_and_each_edge_has_one(graph: Graph) -> None:
    plan = place(graph)
    edges = Counter(x.edge for x in (*plan.placements, *plan.skips))
    nodes = {node.name: node for node in graph.nodes}
    assert all(nodes[edge.node].inputs[edge.index].name == edge.tensor for edge in edges)
    assert set(edges.values()) <= {1}


@many_graphs
@given(graphs())
def test_every_edge_on_a_float_activation_is_decided(graph: Graph) -> None:
    plan = place(graph)
    decided = {x.edge for x in (*plan.placements, *plan.skips)}
    for node in graph.nodes:
        for index, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Variable):
                assert Edge(tensor.name, node.name, index) in decided


@many_graphs
@given(graphs())
def test_a_weighted_op_is_quantized_on_both_sides_or_on_neither(graph: Graph) -> None:
    placements = place(graph).by_edge
    for node in graph.nodes:
        if node.op in ("Conv", "MatMul"):
            sides = [
                Edge(x.name, node.name, i) in placements for i, x in enumerate(node.inputs[:2])
            ]
            assert sides[0] == sides[1]


@many_graphs
@given(graphs())
def test_activations_have_one_scale_each_and_only_weights_one_a_channel(graph: Graph) -> None:
    plan = place(graph)
    constants = {x.name for x in graph.tensors().values() if isinstance(x, gs.Constant)}
    for placement in plan.placements:
        is_per_channel = isinstance(plan.spec_of(placement.edge).granularity, PerChannel)
        assert is_per_channel == (placement.edge.tensor in constants)


def meaning(plan: QuantPlan, named: Callable[[str], str]) -> object:
    """What a plan says, with its names translated: formats, skips, shared scales."""

    def edge(x: Edge) -> Edge:
        return Edge(named(x.tensor), named(x.node), x.index)

    formats = {(edge(x.edge), plan.spec_of(x.edge)) for x in plan.placements}
    groups = {frozenset(map(named, group)) for group in plan.groups.values() if len(group) > 1}
    return formats, {(edge(x.edge), x.rule) for x in plan.skips}, groups


@many_graphs
@given(graphs(), st.randoms(use_true_random=False))
def test_the_plan_depends_neither_on_node_order_nor_on_names(graph: Graph, random: Random) -> None:
    expected = meaning(place(graph), lambda name: name)
    nodes = list(graph.nodes)
    tensors = {id(x): x for node in nodes for x in (*node.inputs, *node.outputs)}
    renamed = {}
    for thing in [*nodes, *tensors.values()]:
        new = f"{random.getrandbits(32):08x}_{len(renamed)}"
        renamed[new], thing.name = thing.name, new
    random.shuffle(nodes)
    graph.nodes[:] = nodes
    assert meaning(place(graph), renamed.__getitem__) == expected


@many_graphs
@given(graphs())
def test_a_plan_can_be_inserted(graph: Graph) -> None:
    plan = place(graph)
    tensors = graph.tensors()
    ranges = {}
    for placement in plan.placements:
        granularity = plan.spec_of(placement.edge).granularity
        name = placement.edge.tensor
        count = tensors[name].shape[granularity.axis] if isinstance(granularity, PerChannel) else 1
        ranges[name] = TensorRange(name, (1.0,) * count, "max", 1)
    calibration = Calibration(tuple(ranges[name] for name in sorted(ranges)))
    model = to_model(insert(graph, plan, calibration))
    onnx.checker.check_model(model, full_check=True)
    pairs = {(x.edge.tensor, plan.leader_of(x.edge).tensor) for x in plan.placements}
    assert sum(node.op_type == "DequantizeLinear" for node in model.graph.node) == len(pairs)


def test_placing_changes_nothing_of_the_graph() -> None:
    graph = graph_of(TEXT)
    before = to_model(graph).SerializeToString(deterministic=True)
    place(graph)
    assert to_model(graph).SerializeToString(deterministic=True) == before


def test_a_deep_graph_is_placed_without_recursion() -> None:
    body = "\n".join(f"t{i + 1} = Relu (t{i})" for i in range(3000))
    text = f"g (float[1, 8, 3, 3] t0) => (float[1, 8, 1, 1] y) {{ {body} y = Conv (t3000, w) }}"
    assert len(plan_of(text).placements) == 2


@pytest.mark.parametrize("profile", PROFILES)
def test_the_time_to_place_grows_with_the_network_and_not_with_its_square(profile: str) -> None:
    """A stream of Adds, as deep networks have, which each rule might walk up to its beginning."""

    def seconds(blocks: int) -> float:
        net, x = NetworkBuilder(), "x"
        for _ in range(blocks):
            norm = net.relu(net.batch_norm(x, 8))
            x = net.node("Add", x, net.conv(norm, (8, 8), kernel=1))
        graph = as_graph(net.model((1, 8, 4, 4), x))
        start = time.process_time()
        place(graph, config=PlacementConfig(profile=profile))
        return time.process_time() - start

    assert seconds(800) < 8 * seconds(200)  # 16 times as long if it were its square


def test_a_plan_is_the_same_for_a_plain_graphsurgeon_graph() -> None:
    graph = graph_of(TEXT)
    assert place(gs.import_onnx(to_model(graph))) == place(as_graph(to_model(graph)))

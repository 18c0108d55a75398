"""What a node costs and what error it makes, against the same numbers found another way."""

from __future__ import annotations

import numpy as np
import pytest

from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.core.plan import QuantPlan
from onnxqat.graph import as_graph, insert, prepare, qdq_pairs
from onnxqat.mixing.costs import Quantization, node_bytes, node_errors, one_pair_an_edge
from onnxqat.placement import PlacementConfig, place
from onnxqat.training import SensitivityConfig
from tests.support.nets import residual_net
from tests.support.runtime import run
from tests.support.students import Images

DATA = Images(samples=32)
FP32 = prepare(as_graph(residual_net()))
CONFIG = SensitivityConfig(samples=32, threads=1)


def in_format(name: str) -> Quantization:
    plan = place(FP32, config=PlacementConfig(format=name))
    config = CalibrationConfig(method="max", threads=1)
    return Quantization(name, plan, calibrate(FP32, plan, DATA, config=config))


@pytest.mark.parametrize("format_name", ["int8", "w4a8"])
def test_a_pair_for_each_edge_computes_the_same(format_name: str) -> None:
    one = in_format(format_name)
    shared = insert(FP32, one.plan, one.calibration)
    apart = one_pair_an_edge(shared)
    assert all(len(pair.consumers) == 1 for pair in qdq_pairs(apart))
    assert len(qdq_pairs(apart)) == len(one.plan.placements) > len(qdq_pairs(shared))
    feeds = {"image": DATA.images}
    assert np.array_equal(run(apart, feeds)[0], run(shared, feeds)[0])


@pytest.mark.parametrize("format_name", ["int8", "w4a8"])
@pytest.mark.parametrize("node", ["/stem/Conv", "/inner/Conv", "/sum/Add", "/logits/Gemm"])
def test_a_node_s_error_is_that_of_the_file_with_its_edges_alone(
    format_name: str, node: str
) -> None:
    """/inner/Conv and /sum/Add read one tensor: each counts its own edge of it."""
    one = in_format(format_name)
    found = node_errors(FP32, one, [node], DATA, CONFIG)[node]
    only = QuantPlan(tuple(x for x in one.plan.placements if x.edge.node == node))
    feeds = {"image": DATA.images}
    (wanted,), (got,) = run(FP32, feeds), run(insert(FP32, only, one.calibration), feeds)
    assert found == pytest.approx(np.square(got - wanted).sum() / np.square(wanted).sum(), rel=5e-3)


def test_bytes_are_those_of_what_a_node_reads() -> None:
    """The stem reads 3x8x8 values and has 8x3x3x3 weights; the branch of the Add has 8x8x8."""
    int8, w4a8 = in_format("int8").plan, in_format("w4a8").plan
    assert node_bytes(FP32, int8, int8)["/stem/Conv"] == 192 + 216
    assert node_bytes(FP32, w4a8, int8)["/stem/Conv"] == 192 + 216 / 2
    assert node_bytes(FP32, None, int8)["/stem/Conv"] == 4 * (192 + 216)
    assert node_bytes(FP32, int8, int8)["/sum/Add"] == 512

"""Files that pass ONNX's checker and make no sense: the audit says something, and never breaks."""

from __future__ import annotations

import random
from contextlib import suppress

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import checker

from onnxqat.auditing import audit, fix
from onnxqat.core.errors import OnnxqatError
from onnxqat.graph import Graph, to_model
from onnxqat.graph.graph import all_nodes
from tests.support.seeded import SOURCES, good

TYPES = (np.float32, np.float16, np.float64, np.int8, np.uint8, np.int16, np.int32, np.bool_)
SIZES = (0, 1, 2, 3, 8)


def spoil(graph: Graph, draw: random.Random) -> None:
    """One Q or DQ gets an attribute or an input that hardly fits."""
    nodes = [x for x in all_nodes(graph) if x.op in ("QuantizeLinear", "DequantizeLinear")]
    node = draw.choice(nodes)
    change = draw.randrange(5)
    if change == 0:
        node.attrs["axis"] = draw.randrange(-9, 9)
    elif change == 1:
        node.attrs["block_size"] = draw.choice([-1, 1, 2, 64])
    elif change == 2 and len(node.inputs) > 2:
        node.inputs.pop()
    elif change == 3:
        node.name = draw.choice(["", "twice", "\x1b[0m"])
    else:
        index = draw.randrange(len(node.inputs))
        shape = [draw.choice(SIZES) for _ in range(draw.randrange(5))]
        values = np.asarray(100 * np.random.default_rng(0).standard_normal(shape))
        name = f"strange_{draw.randrange(10**9)}"
        node.inputs[index] = gs.Constant(name, values.astype(draw.choice(TYPES)))


@pytest.mark.parametrize("seed", range(30))
def test_strange_q_dq_raises_nothing_but_errors_of_this_package(seed: int) -> None:
    draw = random.Random(seed)
    graph = good(draw.choice([*SOURCES])).copy()
    for _ in range(draw.randrange(1, 4)):
        spoil(graph, draw)
    model = to_model(graph)
    try:
        checker.check_model(model)
    except checker.ValidationError:
        pytest.skip("ONNX's checker refuses the file, and so does the audit")

    with suppress(OnnxqatError):
        audit(model)
    with suppress(OnnxqatError):
        fix(model)

"""Time the audit, without compiling, on generated residual networks of growing size.

    python tools/bench_audit.py [--nodes 200 1000 10000]

Prints one line a network: nodes of the Q/DQ file, seconds to audit it, findings. The network has
Q/DQ by this package's own placement, with made-up ranges, so that there is nothing to find.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxqat.auditing import audit
from onnxqat.core.calibration import Calibration, TensorRange
from onnxqat.core.plan import QuantPlan
from onnxqat.core.spec import PerChannel
from onnxqat.graph import Graph, as_graph, insert, prepare, save
from onnxqat.graph.query import constant_value
from onnxqat.placement import place

CHANNELS = 8
NODES_A_BLOCK = 13
"""Two Conv, two Relu, an Add, and the Q and DQ of two data tensors and two weights."""


def network(blocks: int) -> onnx.ModelProto:
    """Residual blocks of two 3x3 Convs."""
    rng = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    for block in range(blocks):
        y = x
        for half in ("a", "b"):
            name = f"{block}{half}"
            array = rng.normal(0, 0.1, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
            weights.append(numpy_helper.from_array(array, f"w{name}"))
            conv = [y, f"w{name}"]
            nodes.append(helper.make_node("Conv", conv, [f"c{name}"], f"c{name}", pads=[1] * 4))
            y = f"c{name}"
            if half == "a":
                nodes.append(helper.make_node("Relu", [y], [f"r{name}"], f"r{name}"))
                y = f"r{name}"
        nodes.append(helper.make_node("Add", [y, x], [f"s{block}"], f"s{block}"))
        x = f"x{block}"
        nodes.append(helper.make_node("Relu", [f"s{block}"], [x], x))
    shape = [1, CHANNELS, 16, 16]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "residual", [value("x", 1, shape)], [value(x, 1, shape)], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def quantized(graph: Graph) -> Graph:
    """The graph with Q/DQ where placement wants it."""
    plan = place(graph)
    return insert(graph, plan, made_up(graph, plan))


def made_up(graph: Graph, plan: QuantPlan) -> Calibration:
    """The weights' own ranges, and 1 for all data."""
    tensors, ranges = graph.tensors(), {}
    for leader, names in plan.groups.items():
        granularity = plan.spec_of(leader).granularity
        for name in names:
            amax: tuple[float, ...] = (1.0,)
            stored = constant_value(tensors[name])
            if stored is not None and isinstance(granularity, PerChannel):
                amax = tuple(float(x) for x in np.abs(stored).max(axis=(1, 2, 3)))
            ranges[name] = TensorRange(name, amax, "max", 1)
    return Calibration(tuple(ranges[name] for name in sorted(ranges)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[200, 1000, 10_000])
    for count in parser.parse_args().nodes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            graph = quantized(prepare(as_graph(network(max(count // NODES_A_BLOCK, 1)))))
            save(graph, path)
            start = time.perf_counter()
            findings = audit(path)
            seconds = time.perf_counter() - start
        line = f"{len(graph.nodes):6} nodes  {seconds:7.2f} s  {len(findings)} findings\n"
        sys.stdout.write(line)


if __name__ == "__main__":
    main()

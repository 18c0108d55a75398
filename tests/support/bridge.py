"""Models of one or a few nodes, and ONNX Runtime's word on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxqat.bridge import OnnxModule, to_torch
from onnxqat.graph import Graph, to_model

Array = NDArray[Any]


def node_model(
    op: str,
    feeds: Mapping[str, Array],
    *,
    opset: int,
    constants: Mapping[str, Array] | None = None,
    inputs: list[str] | None = None,
    outputs: tuple[Any, ...] | None = None,
    ranks: tuple[int, ...] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """One node between the feeds and outputs y0, y1, …

    Args:
        op: Operator.
        feeds: Graph inputs by name.
        opset: Opset of the model.
        constants: Initializers by name.
        inputs: The node's inputs; by default the feeds, then the constants.
        outputs: Types of the outputs, None for one that is not there; by default one of the first
            feed's type.
        ranks: Ranks of the outputs, where ONNX cannot infer them.
        attributes: The node's, and its `domain`, of which opset 1 is meant.
    """
    constants = constants or {}
    kinds = (next(iter(feeds.values())).dtype,) if outputs is None else outputs
    names = ["" if kind is None else f"y{i}" for i, kind in enumerate(kinds)]
    types = [helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for kind in kinds if kind]
    shapes = [None] * len(types) if ranks is None else [[None] * rank for rank in ranks]
    read = inputs if inputs is not None else [*feeds, *constants]
    node = helper.make_node(op, read, names, name="node", **attributes)
    graph = helper.make_graph(
        [node],
        "one_node",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in feeds.items()
        ],
        list(map(helper.make_tensor_value_info, filter(None, names), types, shapes)),
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    domains = [helper.make_opsetid("", opset)]
    if node.domain:
        domains.append(helper.make_opsetid(node.domain, 1))
    model = helper.make_model(graph, opset_imports=domains, ir_version=8)
    return onnx.shape_inference.infer_shapes(model)  # the checker wants shapes on outputs


def runtime(model: onnx.ModelProto | Graph, feeds: Mapping[str, Array]) -> list[Array]:
    """What ONNX Runtime computes, without graph optimizations."""
    proto = model if isinstance(model, onnx.ModelProto) else to_model(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options)
    results: list[Array] = session.run(None, dict(feeds))
    return results


def node_model_ranked(op: str, feeds: Mapping[str, Array], **options: Any) -> onnx.ModelProto:
    """`node_model` whose outputs have the ranks that ONNX Runtime gives them."""
    options.pop("ranks", None)
    ranks = tuple(y.ndim for y in runtime(node_model(op, feeds, **options), feeds))
    return node_model(op, feeds, ranks=ranks, **options)


def torch_outputs(module: OnnxModule, feeds: Mapping[str, Array]) -> list[Array]:
    """What the module computes, with its inputs looked up by name."""
    with torch.no_grad():
        result = module(*(torch.from_numpy(feeds[name]) for name in module.input_names))
    return [t.numpy() for t in (result if isinstance(result, tuple) else (result,))]


def assert_agrees(
    model: onnx.ModelProto | Graph, feeds: Mapping[str, Array], *, tolerance: float = 1e-5
) -> None:
    """The torch module and ONNX Runtime give the same types, shapes and values.

    `tolerance` is a fraction of each output's range: sums in another order differ by a few ulps.
    """
    wanted = runtime(model, feeds)
    for got, want in zip(torch_outputs(to_torch(model), feeds), wanted, strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        if want.size:
            limit = tolerance * max(float(np.ptp(want)), float(np.abs(want).max()))
            np.testing.assert_allclose(got, want, rtol=0, atol=limit)

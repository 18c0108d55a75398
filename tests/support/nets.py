"""Small real networks for tests that need a whole model, seeded and quick to train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

CHANNELS, CLASSES, SIZE = 8, 4, 8

RESIDUAL_NET = f"""
<ir_version: 8, opset_import: ["" : 17]>
residual (float[batch, 3, {SIZE}, {SIZE}] image) => (float[batch, {CLASSES}] logits)
{{
    stem = Conv <pads = [1, 1, 1, 1]> (image, stem_w, stem_b)
    stem_out = Relu (stem)
    inner = Conv <pads = [1, 1, 1, 1]> (stem_out, inner_w, inner_b)
    sum = Add (inner, stem_out)
    block_out = Relu (sum)
    pooled = GlobalAveragePool (block_out)
    flat = Flatten (pooled)
    logits = Gemm <transB = 1> (flat, head_w, head_b)
}}
"""


def residual_net(seed: int = 0) -> onnx.ModelProto:
    """Two convolutions with an identity shortcut, a pool and a Gemm; weights drawn by seed."""
    rng = np.random.default_rng(seed)
    model = parser.parse_model(RESIDUAL_NET)
    shapes = {
        "stem_w": (CHANNELS, 3, 3, 3),
        "stem_b": (CHANNELS,),
        "inner_w": (CHANNELS, CHANNELS, 3, 3),
        "inner_b": (CHANNELS,),
        "head_w": (CLASSES, CHANNELS),
        "head_b": (CLASSES,),
    }
    for name, shape in shapes.items():
        fan_in = int(np.prod(shape[1:])) or 1
        values = rng.normal(0, fan_in**-0.5, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for node in model.graph.node:
        node.name = f"/{node.output[0]}/{node.op_type}"
    onnx.checker.check_model(model)
    return model


def images(count: int, seed: int = 1) -> np.ndarray:
    """Float32 images [count, 3, 8, 8], standard normal."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 3, SIZE, SIZE)).astype(np.float32)


def write_net(folder: Path, *, samples: int = 64, seed: int = 0) -> tuple[Path, Path]:
    """The network and a matching .npz of images and labels (the network's own choice) on disk."""
    import onnxruntime as ort

    folder.mkdir(parents=True, exist_ok=True)
    model, data = folder / "net.onnx", folder / "data.npz"
    onnx.save(residual_net(seed), model)
    inputs = images(samples)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": inputs})
    np.savez(data, image=inputs, labels=logits.argmax(1))
    return model, data


def unknown_op_net() -> onnx.ModelProto:
    """A Q/DQ model with two nodes of a domain that nobody knows."""
    pair = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")]
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"], name="dequantize"),
            helper.make_node("Wobble", ["dq"], ["y"], name="first", domain="acme"),
            helper.make_node("Wibble", ["y"], ["w"], name="second", domain="acme"),
        ],
        "unknown",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, ["n", 3])],
        pair,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)

"""ONNX Runtime's own operators, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from onnxqat.bridge import ops as _families  # noqa: F401 - registers the operators
from onnxqat.bridge import to_torch
from onnxqat.bridge.ops.contrib import DOMAIN
from onnxqat.bridge.ops.registry import Op, ops
from onnxqat.core.errors import ModelError
from tests.support.bridge import Array, assert_agrees, node_model, node_model_ranked, torch_outputs

RNG = np.random.default_rng(0)
HEADS, HEAD = 2, 4
SIZE = HEADS * HEAD


def draw(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


X = draw(2, 3, SIZE)
QKV = draw(SIZE, 3 * SIZE)
NORM = {"gamma": draw(SIZE), "beta": draw(SIZE)}
IMAGE = draw(1, 2, 5, 5)
CONV = {"x": IMAGE, "w": draw(4, 2, 3, 3), "b": draw(4)}
WORDS = {
    "ids": np.array([[1, 2, 0], [3, 1, 4]], np.int32),
    "segments": np.array([[0, 0, 1], [1, 0, 0]], np.int32),
    "words": draw(5, SIZE),
    "places": draw(4, SIZE),
    "kinds": draw(2, SIZE),
    **NORM,
}
ANGLES = {"cos": draw(6, HEAD // 2), "sin": draw(6, HEAD // 2)}
KEEP = np.array([[1, 1, 0], [1, 1, 1]], np.int32)

Case = tuple[str, dict[str, Array], dict[str, Any]]
CASES: dict[str, Case] = {
    "gelu": ("Gelu", {"x": X}, {}),
    "fast gelu": ("FastGelu", {"x": X}, {}),
    "fast gelu, bias": ("FastGelu", {"x": X, "b": draw(SIZE)}, {}),
    "bias gelu": ("BiasGelu", {"x": X, "b": draw(SIZE)}, {}),
    "quick gelu": ("QuickGelu", {"x": X}, {}),
    "quick gelu, alpha": ("QuickGelu", {"x": X}, {"alpha": 0.5}),
    "skip norm": ("SkipLayerNormalization", {"x": X, "skip": draw(2, 3, SIZE), **NORM}, {}),
    "skip norm, bias, sum": (
        "SkipLayerNormalization",
        {"x": X, "skip": draw(2, 3, SIZE), **NORM, "b": draw(SIZE)},
        {"epsilon": 0.01, "outputs": ("float32", None, None, "float32")},
    ),
    "skip norm, one skip for all": (
        "SkipLayerNormalization",
        {"x": X, "skip": draw(3, SIZE), **NORM},
        {},
    ),
    "skip rms norm": (
        "SkipSimplifiedLayerNormalization",
        {"x": X, "skip": draw(2, 3, SIZE), "gamma": NORM["gamma"]},
        {"outputs": ("float32", None, None, "float32")},
    ),
    "embedding": (
        "EmbedLayerNormalization",
        WORDS,
        {"outputs": ("float32", "int32")},
    ),
    "embedding, mask": (
        "EmbedLayerNormalization",
        {**WORDS, "mask": KEEP},
        {"outputs": ("float32", "int32", "float32"), "epsilon": 1e-5},
    ),
    "conv, relu": ("FusedConv", CONV, {"activation": "Relu", "pads": [1, 1, 1, 1]}),
    "conv, leaky": ("FusedConv", CONV, {"activation": "LeakyRelu", "activation_params": [0.3]}),
    "conv, clip": ("FusedConv", CONV, {"activation": "Clip", "activation_params": [-0.5, 0.7]}),
    "conv, hard sigmoid": (
        "FusedConv",
        CONV,
        {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]},
    ),
    "conv, sum, relu": ("FusedConv", {**CONV, "z": draw(1, 4, 3, 3)}, {"activation": "Relu"}),
    "gemm, leaky": (
        "FusedGemm",
        {"a": draw(3, 4), "b": draw(5, 4), "c": draw(5)},
        {"activation": "LeakyRelu", "activation_alpha": 0.3, "transB": 1, "alpha": 0.5},
    ),
    "gemm, relu": ("FusedGemm", {"a": draw(3, 4), "b": draw(4, 5)}, {"activation": "Relu"}),
    "matmul, transposed": (
        "FusedMatMul",
        {"a": draw(2, 4, 3), "b": draw(2, 5, 4)},
        {"transA": 1, "transB": 1, "alpha": 0.25},
    ),
    "matmul, batch last": (
        "FusedMatMul",
        {"a": draw(3, 2, 4), "b": draw(4, 2, 5)},
        {"transBatchA": 1, "transBatchB": 1},
    ),
    "matmul, batch last, transposed": (
        "FusedMatMul",
        {"a": draw(4, 2, 3), "b": draw(5, 2, 4)},
        {"transBatchA": 1, "transBatchB": 1, "transA": 1, "transB": 1},
    ),
    "old transposed matmul": (
        "TransposeMatMul",
        {"a": draw(4, 3), "b": draw(4, 5)},
        {"transA": 1},
    ),
    "triangle": ("Trilu", {"x": draw(2, 3, 4), "k": np.array(1)}, {"upper": 0}),
    "grid": (
        "GridSample",
        {"x": IMAGE, "grid": draw(1, 3, 4, 2)},
        {"padding_mode": "border", "align_corners": 1},
    ),
    "gather": ("GatherND", {"x": draw(3, 4), "i": np.array([[0, 1], [2, 3]])}, {}),
    "new axis": ("ExpandDims", {"x": draw(3, 4), "axis": np.array(-1, np.int32)}, {}),
    "attention": ("Attention", {"x": X, "w": QKV, "b": draw(3 * SIZE)}, {}),
    "attention, causal": (
        "Attention",
        {"x": X, "w": QKV, "b": draw(3 * SIZE)},
        {"unidirectional": 1, "scale": 0.3},
    ),
    "attention, mask": ("Attention", {"x": X, "w": QKV, "b": draw(3 * SIZE), "m": KEEP}, {}),
    "attention, all masked": (
        "Attention",
        {"x": X, "w": QKV, "b": draw(3 * SIZE), "m": 0 * KEEP},
        {},
    ),
    "attention, lengths": (
        "Attention",
        {"x": X, "w": QKV, "b": draw(3 * SIZE), "m": np.array([2, 3], np.int32)},
        {},
    ),
    "attention, past": (
        "Attention",
        {"x": X, "w": QKV, "b": draw(3 * SIZE), "m": np.ones((2, 5), np.int32)}
        | {"past": draw(2, 2, HEADS, 2, HEAD)},
        {"unidirectional": 1, "outputs": ("float32", "float32")},
    ),
    "attention, other values": (
        "Attention",
        {"x": X, "w": draw(SIZE, 2 * SIZE + 4), "b": draw(2 * SIZE + 4)},
        {"qkv_hidden_sizes": [SIZE, SIZE, 4]},
    ),
    "heads": ("MultiHeadAttention", {"q": X, "k": draw(2, 5, SIZE), "v": draw(2, 5, SIZE)}, {}),
    "heads, bias, mask": (
        "MultiHeadAttention",
        {"q": X, "k": draw(2, 3, SIZE), "v": draw(2, 3, SIZE), "b": draw(3 * SIZE), "m": KEEP},
        {"outputs": ("float32", "float32", "float32")},
    ),
    "rotary": (
        "RotaryEmbedding",
        {"x": X, "i": np.array([[0, 1, 2], [3, 4, 5]]), **ANGLES},
        {},
    ),
    "rotary, start, interleaved": (
        "RotaryEmbedding",
        {"x": X.reshape(2, 3, HEADS, HEAD).transpose(0, 2, 1, 3).copy(), "i": np.array([2])}
        | ANGLES,
        {"interleaved": 1},
    ),
    "quantize": (
        "QuantizeLinear",
        {"x": draw(3, 4), "s": np.array([0.1, 0.2, 0.3, 0.4], np.float32)}
        | {"z": np.array([1, 2, 3, 4], np.uint16)},
        {"axis": 1, "outputs": ("uint16",)},
    ),
    "dequantize": (
        "DequantizeLinear",
        {"x": np.array([[1, 60000], [3, 4]], np.uint16), "s": np.array(0.1, np.float32)}
        | {"z": np.array(7, np.uint16)},
        {"outputs": ("float32",)},
    ),
}
ATTENTION = {"Attention", "MultiHeadAttention"}


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_onnx_runtime_does(name: str) -> None:
    op, feeds, attributes = CASES[name]
    if op in ATTENTION:
        attributes = {"num_heads": HEADS, **attributes}
    model = node_model_ranked(op, feeds, opset=17, domain=DOMAIN, **attributes)
    assert_agrees(model, feeds)


def computed(op: str, feeds: dict[str, Array], **attributes: Any) -> Array:
    """What torch computes for an operator of one output, of the rank of its first input."""
    ranks = (next(iter(feeds.values())).ndim,)
    model = node_model(op, feeds, opset=17, domain=DOMAIN, ranks=ranks, **attributes)
    return torch_outputs(to_torch(model), feeds)[0]


ENTRIES = {name: entry for (domain, name, _), entry in ops().items() if domain == DOMAIN}
SCHEMAS = {s.name: s for s in get_all_operator_schema() if s.domain == DOMAIN}


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_the_signature_is_the_schema(name: str) -> None:
    entry: Op = ENTRIES[name]
    assert [p.name for p in entry.inputs] == [i.name for i in SCHEMAS[name].inputs]
    assert {p.name for p in entry.attributes} == set(SCHEMAS[name].attributes)
    assert entry.versions == (SCHEMAS[name].since_version,)


ONLY_ON_GPUS = {"BiasSplitGelu", "BiasAdd", "BiasSoftmax"}
"""ONNX Runtime has no kernel of these for the CPU."""


def test_every_operator_is_compared() -> None:
    assert {op for op, *_ in CASES.values()} | ONLY_ON_GPUS == set(ENTRIES)


def test_bias_split_gelu_is_what_its_page_says() -> None:
    x, b = draw(1, 2, 6), draw(6)
    gelu = computed("Gelu", {"x": (x + b)[..., 3:]})
    y = computed("BiasSplitGelu", {"x": x, "b": b})
    np.testing.assert_allclose(y, (x + b)[..., :3] * gelu, rtol=1e-5, atol=1e-6)


def test_bias_add_is_a_sum() -> None:
    feeds = {"x": X, "b": draw(SIZE), "skip": draw(2, 3, SIZE)}
    wanted = feeds["x"] + feeds["b"] + feeds["skip"]
    np.testing.assert_allclose(computed("BiasAdd", feeds), wanted, rtol=1e-6)


@pytest.mark.parametrize(("shape", "is_inner"), [((2, 1, 1, 4), 1), ((1, 1, 3, 4), 0)])
def test_bias_softmax_is_the_softmax_of_a_sum(shape: tuple[int, ...], is_inner: int) -> None:
    feeds = {"x": draw(2, 2, 3, 4), "b": draw(*shape)}
    powers = np.exp(feeds["x"] + feeds["b"])
    wanted = powers / powers.sum(-1, keepdims=True)
    y = computed("BiasSoftmax", feeds, axis=3, is_inner_broadcast=is_inner)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


def test_attention_that_is_not_plain_is_an_error() -> None:
    feeds = {"x": X, "w": QKV, "b": draw(3 * SIZE)}
    with pytest.raises(ModelError, match="do_rotary has no torch implementation"):
        computed("Attention", feeds, num_heads=HEADS, do_rotary=1)

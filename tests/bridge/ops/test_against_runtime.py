"""What ONNX's node cases leave open of its less plain operators, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from onnxqat.bridge import to_torch
from onnxqat.core.errors import ModelError
from tests.support.bridge import (
    Array,
    assert_agrees,
    node_model,
    node_model_ranked,
    runtime,
    torch_outputs,
)
from tests.support.runtime import needs_good_oracle

pytestmark = needs_good_oracle

RNG = np.random.default_rng(0)
Case = tuple[str, int, dict[str, Array], dict[str, Any]]
"""Operator, opset, inputs, attributes (and arguments of `node_model`)."""


def draw(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


IMAGE = draw(2, 3, 7, 6)
REGIONS = np.array(
    [[0.4, 0.7, 5.2, 4.9], [1, 1, 1.5, 1.2], [-3, -2, 9, 11], [4, 4, 2, 1]], np.float32
)
WHOLE_REGIONS = np.array(
    [[0, 0.4, 0.7, 5.2, 4.9], [1, -3, -2, 9, 11], [0, 2, 1, 4, 4], [0, 5, 5, 2, 1]], np.float32
)


def sampling() -> Iterator[Case]:
    grid = RNG.uniform(-1.4, 1.4, size=(2, 4, 5, 2)).astype(np.float32)
    for mode, padding, align in product(
        ("linear", "nearest", "cubic"), ("zeros", "border", "reflection"), (0, 1)
    ):
        options = {"mode": mode, "padding_mode": padding, "align_corners": align}
        yield "GridSample", 20, {"x": IMAGE, "g": grid}, options
    space = RNG.uniform(-1.4, 1.4, size=(1, 2, 3, 4, 3)).astype(np.float32)
    for mode in ("linear", "nearest"):
        yield "GridSample", 20, {"x": draw(1, 2, 4, 5, 3), "g": space}, {"mode": mode}
    for mode in ("bilinear", "bicubic"):
        yield "GridSample", 16, {"x": IMAGE, "g": grid}, {"mode": mode}
    size = {"size": np.array([2, 3, 4, 5])}
    yield "AffineGrid", 20, {"t": draw(2, 2, 3)}, {"constants": size}


def regions() -> Iterator[Case]:
    feeds = {"x": IMAGE, "r": REGIONS, "b": np.array([0, 1, 1, 0])}
    size = {"output_height": 3, "output_width": 2}
    for mode, ratio, scale in product(("avg", "max"), (0, 2), (1.0, 0.5)):
        options = {"mode": mode, "sampling_ratio": ratio, "spatial_scale": scale, **size}
        yield "RoiAlign", 10, feeds, options
        for pixel in ("half_pixel", "output_half_pixel"):
            yield "RoiAlign", 16, feeds, {**options, "coordinate_transformation_mode": pixel}
    for shape, scale in product(([2, 2], [3, 1]), (1.0, 0.3)):
        options = {"pooled_shape": shape, "spatial_scale": scale}
        yield "MaxRoiPool", 7, {"x": IMAGE, "r": WHOLE_REGIONS}, options


def boxes() -> Iterator[Case]:
    for i in range(12):
        feeds = {
            "b": RNG.uniform(size=(2, 8, 4)).astype(np.float32),
            "s": RNG.uniform(size=(2, 3, 8)).astype(np.float32).round(1),
        }
        limits = {
            "most": np.array([i % 4]),
            "overlap": np.array([0.1 * (i % 6)], np.float32),
            "score": np.array([0.2], np.float32),
        }
        options = {"center_point_box": i % 2, "constants": limits, "outputs": ("int64",)}
        yield "NonMaxSuppression", 11, feeds, options


def windows() -> Iterator[Case]:
    image, block = (6, 7), (2, 3)
    for pads, strides, dilations in product(
        ([0, 0, 0, 0], [1, 0, 2, 1]), ([1, 1], [2, 1]), ([1, 1], [1, 2])
    ):
        out = [
            (image[i] + pads[i] + pads[i + 2] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1
            for i in range(2)
        ]
        options = {"pads": pads, "strides": strides, "dilations": dilations}
        sizes = {"image": np.array(image), "block": np.array(block)}
        columns = {"x": draw(2, 18, out[0] * out[1])}
        yield "Col2Im", 18, columns, {**options, "constants": sizes}
        for group, offsets in ((1, 1), (2, 4)):
            feeds = {
                "x": draw(2, 4, *image),
                "w": draw(6, 4 // group, *block),
                "o": 2 * draw(2, offsets * 12, *out),
                "b": draw(6),
                "m": draw(2, offsets * 6, *out),
            }
            yield "DeformConv", 19, feeds, {**options, "group": group, "offset_group": offsets}


def antialias() -> Iterator[Case]:
    for mode, outside, scales in product(
        ("linear", "cubic"), (0, 1), ((0.5, 0.6), (0.4, 1.7), (2, 2))
    ):
        yield (
            "Resize",
            19,
            {"x": IMAGE},
            {
                "mode": mode,
                "exclude_outside": outside,
                "antialias": 1,
                "inputs": ["x", "", "s"],
                "constants": {"s": np.array([1, 1, *scales], np.float32)},
            },
        )


def codes(kind: str, *shape: int) -> Array:
    low = -100 if kind.startswith("int") else 0
    return RNG.integers(low, 100, size=shape).astype(kind)


def number(value: float) -> Array:
    return np.array(value, np.float32)


def integers() -> Iterator[Case]:
    for x, w in (("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")):
        pads = {"pads": [1, 0, 2, 1], "group": 2}
        data, kernel = codes(x, 2, 4, 6, 5), codes(w, 4, 2, 3, 3)
        zeros = {"xz": np.array(5, x), "wz": np.array(3, w)}
        feeds = {"x": data, "w": kernel, **zeros}
        yield "ConvInteger", 10, feeds, {**pads, "outputs": ("int32",)}
        for scale, zero in ((number(0.02), np.array(3, w)), (draw(4) ** 2, np.zeros(4, w))):
            feeds = {
                "x": data, "xs": number(0.05), "xz": zeros["xz"],
                "w": kernel, "ws": scale, "wz": zero,
                "ys": number(0.3), "yz": np.array(7, x),
                "b": RNG.integers(-1000, 1000, 4).astype(np.int32),
            }  # fmt: skip
            yield "QLinearConv", 10, feeds, {**pads, "outputs": (x,)}
        a, b = codes(x, 2, 3, 4), codes(w, 4, 5)
        for zero in (np.array(4, w), np.arange(5).astype(w)):
            feeds = {"a": a, "b": b, "az": np.array(3, x), "bz": zero}
            yield "MatMulInteger", 10, feeds, {"outputs": ("int32",)}
        for scale, zero in ((number(0.02), np.array(3, w)), (draw(5) ** 2, np.zeros(5, w))):
            feeds = {
                "a": a, "as": number(0.05), "az": zeros["xz"],
                "b": b, "bs": scale, "bz": zero,
                "ys": number(0.3), "yz": np.array(7, x),
            }  # fmt: skip
            yield "QLinearMatMul", 10, feeds, {"outputs": (x,)}
    for x in (IMAGE, np.abs(IMAGE), -np.abs(IMAGE), 0 * IMAGE):
        yield "DynamicQuantizeLinear", 11, {"x": x}, {"outputs": ("uint8", "float32", "uint8")}


def quantizers() -> Iterator[Case]:
    per_axis = ((), 1), ((3,), 1), ((7,), 2), ((6,), -1)
    blocks = (2, 3, 4, 6)
    for kind in ("uint8", "int8", "uint16", "int16"):
        for shape, axis in per_axis:
            scale = RNG.uniform(0.05, 0.2, shape).astype(np.float32)
            zero = RNG.integers(0, 9, size=shape).astype(kind)
            feeds = {"x": 50 * IMAGE, "s": scale, "z": zero}
            yield "QuantizeLinear", 21, feeds, {"axis": axis, "outputs": (kind,)}
            feeds = {"x": codes(kind, *IMAGE.shape), "s": scale, "z": zero}
            yield "DequantizeLinear", 21, feeds, {"axis": axis, "outputs": ("float32",)}
        scale = RNG.uniform(0.05, 0.2, blocks).astype(np.float32)
        zero = RNG.integers(0, 9, size=blocks).astype(kind)
        in_blocks = {"axis": 2, "block_size": 2}
        feeds = {"x": 50 * IMAGE, "s": scale, "z": zero}
        yield "QuantizeLinear", 21, feeds, {**in_blocks, "outputs": (kind,)}
        feeds = {"x": codes(kind, *IMAGE.shape), "s": scale, "z": zero}
        yield "DequantizeLinear", 21, feeds, {**in_blocks, "outputs": ("float32",)}


def signals() -> Iterator[Case]:
    for length, parts, inverse, one_sided in product((4, 5), (1, 2), (0, 1), (0, 1)):
        if one_sided and parts == 1 + (1 - inverse):
            continue
        options = {"inverse": inverse, "onesided": one_sided, "axis": 1}
        yield "DFT", 17, {"x": draw(2, length, parts)}, options
    feeds = {"x": draw(2, 20, 1), "step": np.array(4), "w": draw(6)}
    yield "STFT", 17, feeds, {}
    yield "STFT", 17, feeds, {"onesided": 0, "constants": {"length": np.array(6)}}
    for op, periodic in product(("HannWindow", "HammingWindow", "BlackmanWindow"), (0, 1)):
        yield op, 17, {"n": np.array(7)}, {"periodic": periodic, "outputs": ("float32",)}
    for bins, length, rate, low, high in ((8, 64, 8000, 0, 4000), (40, 32, 8000, 100, 3000)):
        feeds = {"n": np.array(bins), "length": np.array(length), "rate": np.array(rate)}
        edges = {"low": number(low), "high": number(high)}
        yield "MelWeightMatrix", 17, {**feeds, **edges}, {"outputs": ("float32",)}


def attention() -> Iterator[Case]:
    for causal, masked, cached, cap in product((0, 1), ("", "bool", "float"), (0, 1), (0.0, 2.0)):
        keys = 5 + 2 * cached
        feeds = {"q": draw(2, 4, 3, 4), "k": draw(2, 2, 5, 4), "v": draw(2, 2, 5, 6)}
        if masked:
            some = RNG.uniform(size=(2, 4, 3, keys)) > 0.6
            feeds["m"] = some if masked == "bool" else draw(2, 1, 3, keys)
        if cached:
            feeds |= {"pk": draw(2, 2, 2, 4), "pv": draw(2, 2, 2, 6)}
        read = ["q", "k", "v", "m" if masked else "", *(["pk", "pv"] if cached else [])]
        options: dict[str, Any] = {"is_causal": causal, "softcap": cap, "inputs": read}
        options["outputs"] = ("float32",) * (3 if cached else 1)
        yield "Attention", 23, feeds, options
        scores = {"outputs": ("float32",) * 4, "qk_matmul_output_mode": 3}
        yield "Attention", 23, feeds, {**options, **scores}
    for interleaved, size in product((0, 1), (0, 2)):
        half = (size or 4) // 2
        feeds = {"x": draw(2, 3, 8), "c": draw(9, half), "s": draw(9, half)}
        feeds["i"] = np.array([[1, 2, 3], [4, 0, 8]])
        options = {"interleaved": interleaved, "rotary_embedding_dim": size, "num_heads": 2}
        yield "RotaryEmbedding", 23, feeds, options


def searches() -> Iterator[Case]:
    words = RNG.integers(0, 3, size=(5, 4, 2)).astype(np.float32)
    for axis, ordered in product((None, 0, 1, -1), (0, 1)):
        place = {} if axis is None else {"axis": axis}
        kinds = ("float32", "int64", "int64", "int64")
        yield "Unique", 11, {"x": words}, {"sorted": ordered, "outputs": kinds, **place}
    text = RNG.integers(1, 9, size=(3, 12))
    for mode, weights, (skips, short, long) in product(
        ("TF", "IDF", "TFIDF"), (None, [0.5, 2, 3, 0.25, 7, 0.1, 1.5]), ((0, 1, 2), (5, 2, 2))
    ):
        options = {
            "mode": mode, "max_skip_count": skips, "min_gram_length": short,
            "max_gram_length": long, "ngram_counts": [0, 4], "ngram_indexes": [*range(7)],
            "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7], "outputs": ("float32",),
        }  # fmt: skip
        weighted = {} if weights is None else {"weights": weights}
        yield "TfIdfVectorizer", 9, {"x": text}, {**options, **weighted}
    yield "Sign", 13, {"x": np.array([-2, -0.0, 0, 3, np.nan, np.inf], np.float32)}, {}
    feeds = {"x": draw(3, 4), "n": np.array([1, 2, 3, 2])}
    yield "ReverseSequence", 10, feeds, {}


def losses() -> Iterator[Case]:
    labels = RNG.integers(0, 4, size=(2, 5))
    labels[0, :2] = -1
    for reduction, weighted in product(("none", "sum", "mean"), (False, True)):
        feeds = {"x": draw(2, 4, 5), "y": labels}
        if weighted:
            feeds["w"] = np.abs(draw(4))
        options = {"reduction": reduction, "ignore_index": -1}
        two = {"outputs": ("float32", "float32")}
        yield "SoftmaxCrossEntropyLoss", 13, feeds, {**options, **two}
        yield "NegativeLogLikelihoodLoss", 13, feeds, options


def resized() -> Iterator[Case]:
    for scales, mode in product(((1.4, 13 / 6), (1.8, 0.5), (0.6, 1.1)), ("nearest", "cubic")):
        options = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
        factors = {"s": np.array([1, 1, *scales], np.float32)}
        yield (
            "Resize",
            13,
            {"x": draw(1, 2, 5, 6)},
            {**options, "inputs": ["x", "", "s"], "constants": factors},
        )


ACTIVATIONS: dict[str, tuple[list[str], int, int]] = {
    "LSTM": (["HardSigmoid", "Softsign", "ScaledTanh"], 2, 2),
    "GRU": (["HardSigmoid", "Affine"], 2, 2),
    "RNN": (["Elu"], 1, 0),
}
"""Functions, and how many of them take an alpha and a beta."""


def recurrences() -> Iterator[Case]:
    for (op, gates), direction, other, clip in product(
        (("LSTM", 4), ("GRU", 3), ("RNN", 1)), ("reverse", "bidirectional"), (0, 1), (None, 0.4)
    ):
        both = 2 if direction == "bidirectional" else 1
        feeds = {"x": draw(5, 3, 4), "w": draw(both, gates * 3, 4), "r": draw(both, gates * 3, 3)}
        feeds |= {"b": draw(both, 2 * gates * 3), "n": np.array([5, 2, 4], np.int32)}
        feeds["h"] = draw(both, 3, 3)
        options: dict[str, Any] = {"hidden_size": 3, "direction": direction}
        options["outputs"] = ("float32",) * (3 if op == "LSTM" else 2)
        if op == "LSTM":
            feeds |= {"c": draw(both, 3, 3), "p": draw(both, 9)}
        if clip is not None:
            options["clip"] = clip
        if other:
            names, alphas, betas = ACTIVATIONS[op]
            options["activations"] = names * both
            options["activation_alpha"] = [0.2 + 0.1 * i for i in range(alphas * both)]
            if betas:
                options["activation_beta"] = [0.6 - 0.1 * i for i in range(betas * both)]
        yield op, 14, feeds, options


FAMILIES = (
    resized, recurrences, sampling, regions, boxes, windows, antialias, integers, quantizers,
    signals, attention, searches, losses,
)  # fmt: skip
CASES = {f"{case[0]}-{i}": case for i, case in enumerate(c for f in FAMILIES for c in f())}


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_onnx_runtime_does(name: str) -> None:
    op, opset, feeds, options = CASES[name]
    assert_agrees(node_model_ranked(op, feeds, opset=opset, **options), feeds)


def test_a_max_unpool_whose_indices_are_disputed_is_an_error() -> None:
    x = draw(1, 1, 5, 5)
    window = {"kernel_shape": [2, 2], "strides": [2, 2]}
    pool = node_model("MaxPool", {"x": x}, opset=12, outputs=("float32", "int64"), **window)
    y, places = runtime(pool, {"x": x})
    feeds = {"y": y, "i": places}
    size = {"size": np.array([1, 1, 5, 5])}
    model = node_model_ranked("MaxUnpool", feeds, opset=11, constants=size, **window)
    with pytest.raises(ModelError, match="differs between ONNX and its runtimes"):
        torch_outputs(to_torch(model), feeds)


@pytest.mark.parametrize("name", ["Affine", "ScaledTanh", "ThresholdedRelu"])
def test_a_recurrent_activation_whose_default_is_disputed_is_an_error(name: str) -> None:
    feeds = {"x": draw(2, 1, 3), "w": draw(1, 2, 3), "r": draw(1, 2, 2)}
    options = {"hidden_size": 2, "activations": [name]}
    module = to_torch(node_model("RNN", feeds, opset=14, **options))
    with pytest.raises(ModelError, match="the default differs between ONNX and its runtimes"):
        torch_outputs(module, feeds)


def test_a_transposed_conv_whose_place_is_disputed_is_an_error() -> None:
    feeds = {"x": draw(1, 2, 5), "w": draw(2, 3, 1)}
    options = {"strides": [3], "output_shape": [15]}  # the strides reach 13
    module = to_torch(node_model("ConvTranspose", feeds, opset=11, **options))
    with pytest.raises(ModelError, match="differs between ONNX and its runtimes"):
        torch_outputs(module, feeds)


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "int4", "uint4"])
def test_codes_of_other_types_are_onnx_runtimes(kind: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = np.dtype(getattr(ml_dtypes, kind))
    x = np.linspace(-900, 900, 41).astype(np.float32)
    constants = {"s": number(1.5), "z": np.zeros((), dtype)}
    feeds = {"x": x}
    model = node_model("QuantizeLinear", feeds, opset=21, constants=constants, outputs=(dtype,))
    node = node_model(
        "DequantizeLinear", {"y0": x}, opset=21, constants=constants, outputs=("float32",)
    ).graph.node[0]
    node.input[0], node.output[0], node.name = "y0", "out", "dequantize"
    model.graph.node.append(node)
    model.graph.output[0].name = "out"
    model.graph.output[0].type.tensor_type.elem_type = 1
    del model.graph.value_info[:]
    assert_agrees(model, feeds)


RANDOM: dict[str, tuple[int, dict[str, Array], dict[str, Any], tuple[float, float]]] = {
    "RandomUniform": (22, {}, {"shape": [100, 100], "low": 2.0, "high": 4.0}, (3.0, 0.5774)),
    "RandomUniformLike": (22, {"x": draw(100, 100)}, {"low": 2.0, "high": 4.0}, (3.0, 0.5774)),
    "RandomNormal": (22, {}, {"shape": [100, 100], "mean": 1.0, "scale": 2.0}, (1.0, 2.0)),
    "RandomNormalLike": (22, {"x": draw(100, 100)}, {"mean": 1.0, "scale": 2.0}, (1.0, 2.0)),
    "Bernoulli": (22, {"x": np.full((100, 100), 0.25, np.float32)}, {}, (0.25, 0.4330)),
    "Multinomial": (
        22,
        {"x": np.log(np.array([[0.5, 0.25, 0.25]], np.float32))},
        {"sample_size": 10_000, "outputs": ("int32",)},
        (0.75, 0.8292),
    ),
}
"""Opset, inputs, attributes, and the mean and deviation that the draws must have."""


@pytest.mark.parametrize("op", RANDOM)
def test_random_numbers_have_their_distribution_and_follow_the_seed(op: str) -> None:
    opset, feeds, options, (mean, deviation) = RANDOM[op]
    options = {"outputs": ("float32",), **options}
    inputs = tuple(map(torch.from_numpy, feeds.values()))
    free = to_torch(node_model(op, feeds, opset=opset, **options))
    first, second = free(*inputs).double(), free(*inputs).double()
    assert not torch.equal(first, second)
    assert float(first.mean()) == pytest.approx(mean, abs=6 * deviation / 100)  # 6 sigma
    assert float(first.std()) == pytest.approx(deviation, rel=0.05)
    seeded = to_torch(node_model(op, feeds, opset=opset, seed=3.0, **options))
    assert torch.equal(seeded(*inputs), seeded(*inputs))


def test_dropout_in_training_mode_keeps_the_expected_value() -> None:
    feeds = {"x": np.ones((100, 100), np.float32)}
    constants = {"ratio": number(0.25), "train": np.array(True)}
    kinds = ("float32", "bool")
    model = node_model("Dropout", feeds, opset=13, constants=constants, outputs=kinds)
    y, kept = to_torch(model)(torch.ones(100, 100))
    assert y.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert torch.equal(y != 0, kept)
    assert float(kept.double().mean()) == pytest.approx(0.75, abs=0.026)  # 6 sigma

"""Real models: the module, ONNX Runtime on the same graph, and what is written back agree."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper

from onnxqat.bridge import OnnxModule, to_torch, write_back
from onnxqat.calibration import calibrate
from onnxqat.data import Batch
from onnxqat.graph import Graph, input_specs, insert, load, prepare, to_model
from onnxqat.placement import PlacementConfig, place
from tests.support.assets import ASSETS, DATA, MODELS, WILD, needs_assets
from tests.support.bridge import Array, runtime, torch_outputs

pytestmark = needs_assets

FILES = sorted((*MODELS.glob("*.onnx"), *WILD.glob("*.onnx")))
TOLERANCE = 1e-4
"""Of an output's range: sums in another order, through up to 60 layers."""


def feeds_of(graph: Graph, batch: int, seed: int = 0) -> dict[str, Array]:
    """Seeded inputs; dynamic dimensions are the batch, but silero's sequence is 576.

    The seed matters to basic_pitch, see the test of it in double precision.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for spec in input_specs(graph):
        shape = [576 if d == "sequence" else d if isinstance(d, int) else batch for d in spec.shape]
        if spec.dtype == "int64":
            feeds[spec.name] = np.full(shape, 16000)
        else:
            feeds[spec.name] = rng.normal(size=shape).astype(spec.dtype)
    return feeds


def is_dynamic(graph: Graph) -> bool:
    return any(not isinstance(d, int) for spec in input_specs(graph) for d in spec.shape)


@pytest.mark.parametrize("stage", ["loaded", "prepared"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_model_computes_what_onnx_runtime_does(file: Path, stage: str) -> None:
    graph = load(file) if stage == "loaded" else prepare(load(file))
    module = to_torch(graph)
    for batch in (1, 7) if is_dynamic(graph) else (1,):
        feeds = feeds_of(graph, batch)
        for got, want in zip(torch_outputs(module, feeds), runtime(graph, feeds), strict=True):
            assert got.dtype == want.dtype
            assert got.shape == want.shape
            span = float(np.ptp(want)) or float(np.abs(want).max())
            np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * span)


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_where_rounding_decides_the_module_is_right_in_double_precision(seed: int) -> None:
    """basic_pitch subtracts the log of the quietest of 53,000 bins of noise from all others.

    That bin is what is left of sums that nearly cancel, so the rounding of one moves every output:
    over these seeds ONNX Runtime is up to 3e-5 of the range away from float64, the module in
    float32 up to 1.4e-4 (by either of torch's convolutions), though each of its convolutions is
    within 1e-6. In double precision nothing but ONNX Runtime's own rounding is left.
    """
    graph = load(WILD / "basic_pitch_tf2onnx_opset15.onnx")
    feeds = feeds_of(graph, 1, seed)
    with torch.no_grad():
        outputs = to_torch(graph).double()(torch.from_numpy(*feeds.values()).double())
    for got, want in zip(outputs, runtime(graph, feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * float(np.ptp(want)))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_untrained_model_is_written_back_to_the_bit(file: Path) -> None:
    graph = load(file)
    written = to_model(write_back(to_torch(graph)))
    assert written.SerializeToString(deterministic=True) == to_model(graph).SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_step_reads_from_the_device(file: Path) -> None:
    """Tensors on the meta device have no values: reading one back would raise."""
    graph = load(file)
    module = to_torch(graph).to("meta")
    feeds = feeds_of(graph, 2)
    inputs = [torch.from_numpy(feeds[name]).to("meta") for name in module.input_names]
    outputs = module(*inputs)
    assert all(t.is_meta for t in (outputs if isinstance(outputs, tuple) else (outputs,)))


NOT_IN_ONE_PIECE = {
    "silero_vad_16k_pytorch23_opset15": "which branch it takes depends on the values of an input",
    "basic_pitch_tf2onnx_opset15": "it computes shapes in int32, which become tensors for torch",
}
"""Model -> why torch.compile cannot take it as one graph."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", [f for f in FILES if f.stem not in NOT_IN_ONE_PIECE], ids=lambda file: file.stem
)
def test_compiled_in_one_piece_a_model_computes_the_same_for_every_batch(file: Path) -> None:
    graph = load(file)
    module = to_torch(graph)
    torch._dynamo.reset()
    sizes = True if is_dynamic(graph) else None  # None: as they come
    compiled = torch.compile(module, backend="eager", fullgraph=True, dynamic=sizes)
    for batch in (2, 3) if is_dynamic(graph) else (1,):
        inputs = [torch.from_numpy(array) for array in feeds_of(graph, batch).values()]
        with torch.no_grad():
            torch.testing.assert_close(compiled(*inputs), module(*inputs))


class Images:
    """Normalized CIFAR-10 images, for calibration."""

    has_labels = False

    def __init__(self, images: Array) -> None:
        self.images = images
        self.size = len(images)

    def batches(self, batch_size: int, **_: Any) -> Iterator[Batch]:
        for i in range(0, self.size, batch_size):
            part = self.images[i : i + batch_size]
            yield Batch({"input": part}, None, len(part))


def cifar(file: str, count: int) -> Array:
    images = np.load(DATA / file)["images"][:count].astype(np.float32) / 255
    mean = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
    std = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
    normalized: Array = (images - mean) / std
    return normalized


@cache
def quantized(quant_format: str) -> Graph:
    config = PlacementConfig(format=quant_format)
    model = load(ASSETS / "models" / "cifar10_resnet20_bn.onnx")
    graph = prepare(model, min_opset=config.min_opset)
    plan = place(graph, config=config)
    data = Images(cifar("cifar10_train_16k.npz", 64))
    return insert(graph, plan, calibrate(graph, plan, data))  # type: ignore[arg-type]


def in_batches(module: OnnxModule, images: Array) -> Array:
    parts = [torch_outputs(module, {"input": images[i : i + 250]})[0] for i in range(0, 1000, 250)]
    return np.concatenate(parts)


@pytest.mark.parametrize("quant_format", ["int8", "fp8", "w4a8", "w4a4"])
def test_a_quantized_model_is_written_back_to_the_bit(quant_format: str) -> None:
    graph = quantized(quant_format)
    written = to_model(write_back(to_torch(graph)))
    assert written.SerializeToString(deterministic=True) == to_model(graph).SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize(
    "quant_format",
    ["int8", "fp8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("w4a8", "w4a4"))],
)
def test_the_simulated_class_is_the_runtimes_class(quant_format: str) -> None:
    images = cifar("cifar10_test_1k.npz", 1000)
    (want,) = runtime(quantized(quant_format), {"input": images})
    got = in_batches(to_torch(quantized(quant_format)), images)
    assert (got.argmax(1) == want.argmax(1)).mean() >= 0.999


def test_every_quantizer_gives_onnx_runtimes_codes_for_its_inputs() -> None:
    """Fed with the runtime's own floats, so that one flipped code does not move the next layers."""
    graph = quantized("int8")
    model = to_model(graph)
    module = to_torch(graph)
    pairs = {
        node.input[0]: node.output[0]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and not module.quantizers[node.input[0]].is_weight
    }
    values = observed(model, pairs, cifar("cifar10_test_1k.npz", 32))
    for tensor, codes in pairs.items():
        mine = module.quantizers[tensor].codes(torch.from_numpy(values[tensor]))
        assert np.array_equal(mine.numpy(), values[codes].astype(np.float32)), tensor


def observed(model: onnx.ModelProto, pairs: dict[str, str], images: Array) -> dict[str, Array]:
    """The inputs and codes of the quantizers in ONNX Runtime."""
    for tensor, codes in pairs.items():
        for name, kind in ((tensor, 1), (codes, 3)):
            if name != "input":
                model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return {"input": images, **dict(zip(names, session.run(None, {"input": images}), strict=True))}


def test_the_written_model_has_the_simulations_classes_after_training() -> None:
    module = to_torch(quantized("int8"))
    images = torch.from_numpy(cifar("cifar10_test_1k.npz", 200))
    for quantizer in module.quantizers.values():
        quantizer.learn_scale = True
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    for i in range(2):
        loss = module(images[32 * i : 32 * (i + 1)]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (want,) = runtime(write_back(module), {"input": images.numpy()})
    (got,) = torch_outputs(module, {"input": images.numpy()})
    assert (got.argmax(1) != want.argmax(1)).sum() <= 1  # of 200, where a class is a close call

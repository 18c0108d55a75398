"""Results of fake quantizers that the backward pass computes again instead of keeping them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from onnxqat.bridge import OnnxModule, to_torch
from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.graph import as_graph, insert, prepare
from onnxqat.placement import place
from tests.support.networks import convolutional, transformers
from tests.support.observed import ListData

MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet": lambda: convolutional.resnet_padded(128),
    "mobilenet": lambda: convolutional.mobilenet_v1(128),
    "yolo": lambda: convolutional.yolo(128),
    "vit": lambda: transformers.vit(tokens=196, heads=2),
}


def modules(name: str, *, learned: bool = True) -> tuple[OnnxModule, OnnxModule, Tensor]:
    """The FP32 module, the quantized one, and an input."""
    fp32 = prepare(as_graph(MODELS[name]()))
    entry = fp32.inputs[0]
    x = np.random.default_rng(0).standard_normal(entry.shape).astype(np.float32)
    plan = place(fp32)
    config = CalibrationConfig(method="percentile", percentile=99.0, samples=1, threads=1)
    ranges = calibrate(fp32, plan, ListData({entry.name: x}), config=config)
    quantized = to_torch(insert(fp32, plan, ranges))
    for quantizer in quantized.quantizers.values():
        quantizer.learn_scale = learned
    return to_torch(fp32), quantized, torch.from_numpy(x)


def loss_of(module: OnnxModule, x: Tensor) -> Tensor:
    outputs = module(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return torch.stack([output.square().mean() for output in outputs]).sum()


def gradients(module: OnnxModule, x: Tensor) -> list[Tensor]:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(loss_of(module, x), trained, allow_unused=True))


def bytes_kept(module: OnnxModule, x: Tensor) -> int:
    """What a forward pass leaves allocated for the backward pass."""
    module(x)
    with torch.profiler.profile(profile_memory=True) as profile:
        result = module(x)
    del result
    return sum(event.self_cpu_memory_usage for event in profile.key_averages())


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_the_same_to_the_bit(name: str, learned: bool) -> None:
    _, module, x = modules(name, learned=learned)
    wanted = gradients(module, x)
    module.saves_memory = True
    for got, want in zip(gradients(module, x), wanted, strict=True):
        assert (got is None) == (want is None)
        assert got is None or torch.equal(got, want)


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_quantized_activations_take_less_than_1_3_times_the_memory_of_float_ones(name: str) -> None:
    fp32, module, x = modules(name)
    plain = bytes_kept(fp32, x)
    assert bytes_kept(module, x) > 1.3 * plain
    module.saves_memory = True
    assert bytes_kept(module, x) < 1.3 * plain


def test_a_graph_that_is_kept_gives_its_gradients_again() -> None:
    _, module, x = modules("resnet")
    module.saves_memory = True
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    loss = loss_of(module, x)
    first = torch.autograd.grad(loss, trained, retain_graph=True)
    second = torch.autograd.grad(loss, trained)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_two_forward_passes_do_not_mix() -> None:
    _, module, x = modules("resnet")
    wanted = [sum(pair) for pair in zip(*(gradients(module, k * x) for k in (1, 2)), strict=True)]
    module.saves_memory = True
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    losses = loss_of(module, x) + loss_of(module, 2 * x)
    for got, want in zip(torch.autograd.grad(losses, trained), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)  # another order of adding up


def test_a_copy_saves_memory_on_its_own() -> None:
    _, module, x = modules("resnet")
    module.saves_memory = True
    twin = copy.deepcopy(module)
    assert twin.saves_memory
    assert all(
        torch.equal(a, b) for a, b in zip(gradients(twin, x), gradients(module, x), strict=True)
    )

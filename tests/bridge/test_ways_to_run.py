"""The module in the hands of torch's own machinery: DDP, autocast, compile, copies, state, CUDA."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from onnxqat.bridge import OnnxModule, to_torch, write_back
from onnxqat.graph import save, to_model
from tests.support.bridge import Array, assert_agrees
from tests.support.ddp_worker import NETS, train, trainee
from tests.support.nets import images, residual_net
from tests.support.students import student_and_teacher

ROOT = Path(__file__).resolve().parents[2]


def random(*shape: int, seed: int = 0) -> Array:
    values: Array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values


def quantized() -> OnnxModule:
    module, _ = student_and_teacher()
    for quantizer in module.quantizers.values():
        quantizer.learn_scale = True
    return module


# Sizes -------------------------------------------------------------------------------------------

PYRAMID = """
<ir_version: 8, opset_import: ["" : 17]>
pyramid (float[batch, 3, height, width] x) => (float[batch, 4, h, w] y)
<int64[1] two = {2}, int64[1] four = {4}, int64[1] zero = {0}>
{
    [down] small = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)
    [sizes] s = Shape (x)
    [room] hw = Slice (s, two, four, zero)
    [small_sizes] t = Shape (small)
    [kept] nc = Slice (t, zero, two, zero)
    [target] size = Concat <axis = 0> (nc, hw)
    [up] y = Resize <mode = "nearest"> (small, , , size)
}
"""


def pyramid() -> onnx.ModelProto:
    model = parser.parse_model(PYRAMID)
    model.graph.initializer.append(numpy_helper.from_array(random(4, 3, 3, 3), "w"))
    return model


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (7, 3, 9, 14), (2, 3, 17, 5)])
def test_batch_and_image_size_are_dynamic(shape: tuple[int, ...]) -> None:
    assert_agrees(pyramid(), {"x": random(*shape)})


def test_compiled_once_it_runs_at_every_size() -> None:
    module = to_torch(pyramid())
    compiled = torch.compile(module, backend="eager", fullgraph=True, dynamic=True)
    for shape in ((2, 3, 8, 8), (3, 3, 9, 14), (4, 3, 17, 5)):
        x = torch.from_numpy(random(*shape))
        torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.slow
def test_compiled_to_machine_code_it_has_the_same_values_and_gradients() -> None:
    module = quantized()
    twin = copy.deepcopy(module)
    compiled = torch.compile(twin)
    x = torch.from_numpy(images(4))
    torch.testing.assert_close(compiled(x), module(x), rtol=1e-3, atol=1e-3)
    for each in (compiled, module):
        each(x).square().mean().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(
            twin.get_parameter(name).grad, parameter.grad, rtol=1e-2, atol=1e-3
        )


# State -------------------------------------------------------------------------------------------


def with_dots(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same, with initializers named as torch's exporter does: 'net.stem_w'."""
    for initializer in model.graph.initializer:
        old, initializer.name = initializer.name, f"net.{initializer.name}"
        for node in model.graph.node:
            node.input[:] = [f"net.{old}" if name == old else name for name in node.input]
    return model


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_the_state_survives_a_file(kind: str, tmp_path: Path) -> None:
    one, other = (to_torch(with_dots(residual_net(seed))) for seed in (1, 2))
    path = tmp_path / "state"
    if kind == "safetensors":
        save_file(one.state_dict(), path)
        other.load_state_dict(load_file(path))
    else:
        torch.save(one.state_dict(), path)
        other.load_state_dict(torch.load(path, weights_only=True))
    (want,) = (
        numpy_helper.to_array(t)
        for t in residual_net(seed=1).graph.initializer
        if t.name == "stem_w"
    )
    written = {
        t.name: numpy_helper.to_array(t) for t in to_model(write_back(other)).graph.initializer
    }
    assert np.array_equal(written["net.stem_w"], want)
    x = torch.from_numpy(images(2))
    assert torch.equal(one(x), other(x))


def test_the_state_of_a_quantized_module_holds_its_scales() -> None:
    one, other = quantized(), quantized()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.mul_(1.5)
    other.load_state_dict(one.state_dict())
    x = torch.from_numpy(images(2))
    assert torch.equal(one(x), other(x))


def test_a_copy_of_a_quantized_module_trains_alone() -> None:
    module = quantized()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    other = copy.deepcopy(module)
    train(other, torch.from_numpy(images(4)))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert any(not torch.equal(v, before[name]) for name, v in other.state_dict().items())


# Precision ---------------------------------------------------------------------------------------


class _Seen:
    """What goes into the fake quantizers and comes out of them."""

    def __init__(self, module: OnnxModule) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        for name, quantizer in module.quantizers.items():
            quantizer.register_forward_hook(self._hook(name))

    def _hook(self, name: str):  # type: ignore[no-untyped-def]
        def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.inputs[name], self.outputs[name] = inputs[0], output

        return keep


def test_under_autocast_layers_run_in_bfloat16_and_fake_quantization_in_float32() -> None:
    module = quantized()
    seen = _Seen(module)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module(torch.from_numpy(images(4)))
    assert torch.bfloat16 in {x.dtype for x in seen.inputs.values()}  # a convolution's output
    for name, y in seen.outputs.items():
        quantizer = module.quantizers[name]
        assert y.dtype == torch.float32
        # The oracle is torch's own fake quantization, in float32
        x, scale = seen.inputs[name].float(), quantizer.scale.detach()
        if quantizer.axis is None:
            want = torch.fake_quantize_per_tensor_affine(
                x, scale.item(), 0, quantizer.qmin, quantizer.qmax
            )
        else:
            want = torch.fake_quantize_per_channel_affine(
                x, scale, torch.zeros_like(scale), quantizer.axis, quantizer.qmin, quantizer.qmax
            )
        step = scale.max().item()  # torch multiplies by 1 / scale: ties may fall the other way
        assert (y - want).abs().max() <= step * 1.001
        assert ((y - want).abs() > step / 2).float().mean() < 0.01


def test_under_autocast_it_trains_like_float32() -> None:
    exact, cast = quantized(), quantized()
    x = torch.from_numpy(images(16))
    exact(x).square().mean().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cast(x).float().square().mean()
        loss.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in cast.parameters())
    want, got = gradients(exact), gradients(cast)
    assert functional.cosine_similarity(got, want, dim=0) > 0.99


def gradients(module: OnnxModule) -> Tensor:
    """All gradients in one vector."""
    return torch.cat([parameter.grad.view(-1) for parameter in module.parameters()])


# Several processes -------------------------------------------------------------------------------

FROZEN_FIRST = """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
net (float[n, 3, 3] x) => (float[n, 3, 3] y)
<float s = {0.25}, float t = {0.02}, int8 z = {0}>
{
    a = MatMul (x, before)
    q = QuantizeLinear (a, s, z)
    d = DequantizeLinear (q, s, z)
    b = com.microsoft.Inverse (d)
    c = QuantizeLinear (b, t, z)
    e = DequantizeLinear (c, t, z)
    y = MatMul (e, behind)
}
"""


def frozen_first() -> onnx.ModelProto:
    model = parser.parse_model(FROZEN_FIRST)
    for seed, name in enumerate(("before", "behind")):
        values = random(3, 3, seed=seed) + 3 * np.eye(3, dtype=np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def test_two_processes_train_as_one_does_on_all_samples(tmp_path: Path) -> None:
    """A quantized module whose scales learn, and one with a frozen node behind a weight."""
    save(student_and_teacher()[0].graph, tmp_path / "quantized.onnx")
    np.save(tmp_path / "quantized.npy", images(8))
    onnx.save(frozen_first(), tmp_path / "frozen.onnx")
    np.save(tmp_path / "frozen.npy", random(8, 3, 3) + 3 * np.eye(3, dtype=np.float32))
    run_ddp(2, tmp_path)
    for net in NETS:
        alone = trainee(tmp_path / f"{net}.onnx")
        train(alone, torch.from_numpy(np.load(tmp_path / f"{net}.npy")))
        ranks = [torch.load(tmp_path / f"{net}.{rank}", weights_only=True) for rank in (0, 1)]
        for name, value in alone.state_dict().items():
            assert torch.equal(ranks[0][name], ranks[1][name])
            torch.testing.assert_close(ranks[0][name], value, rtol=1e-4, atol=1e-5)


def run_ddp(world: int, folder: Path) -> None:
    command = [sys.executable, "-m", "tests.support.ddp_worker"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(folder)], cwd=ROOT, stderr=subprocess.PIPE
        )
        for rank in range(world)
    ]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()[-3000:]


# CUDA --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("net", ["pyramid", "quantized"])
def test_on_a_gpu_it_computes_the_same_and_never_waits(net: str) -> None:
    module = to_torch(pyramid()) if net == "pyramid" else quantized()
    x = torch.from_numpy(random(2, 3, 8, 8))
    want = module(x)
    module.cuda()
    y = x.cuda()
    module(y).square().mean().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = module(y)
        got.square().mean().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(got.cpu(), want, rtol=1e-3, atol=1e-3)

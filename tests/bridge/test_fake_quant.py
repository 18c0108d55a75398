"""The fake quantizer: ONNX's values, the straight-through gradient and the LSQ gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from onnxqat.bridge.fake_quant import FakeQuantize, Rectified
from onnxqat.core import qdq
from onnxqat.core.spec import QuantDtype

FINITE = st.floats(-1e4, 1e4, width=32)
SCALES = st.floats(2.0**-20, 1e3, width=32)


def quantizer(
    scale: float | np.ndarray | Tensor,
    *,
    axis: int | None = None,
    learn: bool = False,
    limits: tuple[int, int] = (-128, 127),
    is_float8: bool = False,
) -> FakeQuantize:
    values = torch.as_tensor(scale)
    values = values if values.is_floating_point() else values.float()
    parameter = nn.Parameter(values.clone(), requires_grad=learn)
    return FakeQuantize(
        parameter,
        axis=axis,
        qmin=limits[0],
        qmax=limits[1],
        is_weight=False,
        is_float8=is_float8,
    )


def fp8_quantizer(
    scale: float | np.ndarray | Tensor, *, axis: int | None = None, learn: bool = False
) -> FakeQuantize:
    return quantizer(scale, axis=axis, learn=learn, limits=(-448, 448), is_float8=True)


@given(x=hnp.arrays(np.float32, (3, 4), elements=FINITE), scale=SCALES)
@settings(deadline=None)
def test_values_are_onnxs_to_the_bit(x: np.ndarray, scale: float) -> None:
    got = quantizer(np.float32(scale))(torch.from_numpy(x)).detach().numpy()
    want = qdq.fake_quantize(x, np.float32(scale).reshape(()), dtype=QuantDtype.INT8)
    np.testing.assert_array_equal(got, want)


@given(
    x=hnp.arrays(np.float32, (3, 4, 2), elements=FINITE),
    scale=hnp.arrays(np.float32, 4, elements=SCALES),
)
@settings(deadline=None)
def test_per_channel_values_are_onnxs_to_the_bit(x: np.ndarray, scale: np.ndarray) -> None:
    for dtype in QuantDtype:
        limits = (dtype.qmin, dtype.qmax)
        module = quantizer(scale, axis=1, limits=limits, is_float8=dtype.is_float)
        got = module(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_array_equal(got, qdq.fake_quantize(x, scale, dtype=dtype, axis=1))


def test_halves_round_to_the_even_code() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert quantizer(1.0)(x).tolist() == [-2, -2, 0, 0, 2, 2]


def test_the_gradient_passes_where_rounding_decides_and_stops_where_saturation_does() -> None:
    # limits -8..7, scale 0.5: rounding decides for x in (-4.25, 3.75)
    x = torch.tensor([-5.0, -4.3, -4.2, -1.1, 0.0, 3.4, 3.7, 3.8, 9.0], requires_grad=True)
    upstream = torch.arange(1.0, 10.0)
    quantizer(0.5, limits=(-8, 7))(x).backward(upstream)
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 6, 7, 0, 0]


def test_a_frozen_scale_gets_no_gradient() -> None:
    module = quantizer(0.5)
    x = torch.randn(5, requires_grad=True)
    module(x).sum().backward()
    assert module.scale.grad is None
    assert x.grad is not None


def test_the_scale_gets_lsqs_gradient() -> None:
    module = quantizer(0.5, learn=True, limits=(-8, 7))
    x = torch.tensor([-5.0, -1.1, 0.2, 0.3, 3.4, 9.0])
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    module(x).backward(upstream)
    # x / scale is -10, -2.2, 0.4, 0.6, 6.8, 18; the codes are -8, -2, 0, 1, 7, 7
    slopes = [-8, -2 - -2.2, 0 - 0.4, 1 - 0.6, 7 - 6.8, 7]
    expected = float(np.dot(slopes, upstream.numpy())) / np.sqrt(6 * 7)
    assert module.scale.grad is not None
    assert module.scale.grad.item() == pytest.approx(expected, rel=1e-5)


def test_each_channels_scale_gets_its_own_lsq_gradient() -> None:
    module = quantizer(torch.tensor([0.5, 2.0]), axis=0, learn=True, limits=(-8, 7))
    module.is_weight = True
    module(torch.tensor([[0.2, 9.0, 1.0], [0.9, -1.3, -99.0]])).backward(torch.ones(2, 3))
    # x / scale: 0.4, 18, 2 and 0.45, -0.65, -49.5
    expected = np.array([(0 - 0.4) + 7 + 0, (0 - 0.45) + (-1 + 0.65) - 8]) / np.sqrt(3 * 7)
    assert module.scale.grad is not None
    np.testing.assert_allclose(module.scale.grad.numpy(), expected, rtol=1e-5)


def test_the_gradient_of_an_activations_scale_adds_up_over_samples() -> None:
    """LSQ's factor counts the features of one sample, so that batches may be split."""
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    whole, parts = quantizer(0.1, learn=True), quantizer(0.1, learn=True)
    whole(x).sum().backward()
    for part in x.split(2):
        parts(part).sum().backward()
    torch.testing.assert_close(whole.scale.grad, parts.scale.grad)


def test_the_scales_gradient_does_not_cancel_to_noise() -> None:
    """In float32 the sum of grad * (y - x) over many values keeps its digits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200_000, generator=generator) * 30
    upstream = 1.0 + 0.01 * torch.randn(200_000, generator=generator)
    grads = []
    for kind in (torch.float32, torch.float64):
        module = quantizer(torch.tensor(1.0, dtype=kind), learn=True)
        module(x.to(kind)).backward(upstream.to(kind))
        assert module.scale.grad is not None
        grads.append(module.scale.grad.item())
    assert grads[0] == pytest.approx(grads[1], rel=1e-3)


@pytest.mark.parametrize("axis", [None, 1])
def test_inside_the_limits_the_mean_slope_is_one(axis: int | None) -> None:
    """Over whole steps the staircase rises as its straight-through gradient says."""
    scale = 1 / 64
    scales = torch.full((3,), scale) if axis is not None else torch.tensor(scale)
    module = quantizer(scales.double(), axis=axis)
    x = (torch.rand(4, 3, dtype=torch.float64) - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(module, (x,), eps=2 * scale, atol=1e-9, nondet_tol=0)


def test_pairs_with_one_scale_add_up_their_gradients() -> None:
    scale = nn.Parameter(torch.tensor(0.5))
    pair = [FakeQuantize(scale, axis=None, qmin=-8, qmax=7, is_weight=False) for _ in range(2)]
    x = torch.tensor([0.3, 9.0])
    for module in pair:
        module(x).sum().backward()
    single = quantizer(0.5, learn=True, limits=(-8, 7))
    single(x).sum().backward()
    assert scale.grad is not None
    assert single.scale.grad is not None
    assert scale.grad.item() == pytest.approx(2 * single.scale.grad.item())


@pytest.mark.parametrize("learn", [False, True])
def test_a_relu_taken_along_changes_neither_values_nor_gradients(learn: bool) -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 3
    x[0, 0, 0] = torch.tensor([0.0, -0.0, 1e-9, -1e-9])
    results = []
    for call in (lambda q, v: q(torch.relu(v)), lambda q, v: Rectified(q)(v)):
        module = quantizer(0.02, learn=learn)
        leaf = x.clone().requires_grad_()
        y = call(module, leaf)
        y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape))
        results.append((y.detach(), leaf.grad, module.scale.grad))
    (y0, x0, s0), (y1, x1, s1) = results
    assert torch.equal(y0, y1)
    assert torch.equal(x0, x1)
    if learn:
        torch.testing.assert_close(s0, s1, rtol=1e-5, atol=0)


def test_a_hook_sees_the_relus_output() -> None:
    seen = []
    module = quantizer(0.5)
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    Rectified(module)(torch.tensor([-1.0, 1.0]))
    assert seen[0].tolist() == [0.0, 1.0]


def test_switched_off_it_passes_its_input() -> None:
    module = quantizer(0.5)
    module.enabled = False
    x = torch.tensor([-0.3, 0.3])
    assert module(x) is x
    assert torch.equal(Rectified(module)(x), torch.relu(x))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_under_autocast_it_computes_in_the_scales_type(kind: torch.dtype) -> None:
    x = torch.linspace(-3, 3, 50).to(kind)
    module = quantizer(0.0237)
    y = module(x)
    assert y.dtype == torch.float32
    assert torch.equal(y, module(x.float()))


def test_nan_stays_visible() -> None:
    assert torch.isnan(quantizer(0.5)(torch.tensor([float("nan")]))).all()


def test_the_layout_of_the_input_does_not_matter() -> None:
    x = torch.randn(2, 3, 4, 5)
    upstream = torch.randn(2, 3, 4, 5)
    grads = []
    for layout in (torch.contiguous_format, torch.channels_last):
        module = quantizer(0.1, learn=True)
        leaf = x.clone(memory_format=layout).requires_grad_()
        module(leaf).backward(upstream)
        grads.append((leaf.grad, module.scale.grad))
    assert torch.equal(grads[0][0], grads[1][0])
    torch.testing.assert_close(grads[0][1], grads[1][1], rtol=1e-4, atol=1e-6)


@given(x=hnp.arrays(np.float32, (3, 4), elements=st.floats(width=32)), scale=SCALES)
@settings(deadline=None)
def test_fp8_values_are_onnxs_to_the_bit(x: np.ndarray, scale: float) -> None:
    got = fp8_quantizer(np.float32(scale))(torch.from_numpy(x)).detach().numpy()
    with np.errstate(over="ignore"):
        want = qdq.fake_quantize(x, np.float32(scale).reshape(()), dtype=QuantDtype.FP8)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_fp8_rounds_scales_of_any_type_as_torch_casts(kind: torch.dtype) -> None:
    x = torch.linspace(-500, 500, 4001).to(kind)
    y = fp8_quantizer(torch.ones((), dtype=kind))(x)
    assert y.dtype == kind
    assert torch.equal(y, x.clamp(-448, 448).to(torch.float8_e4m3fn).to(kind))


def test_fp8_gradients_pass_up_to_the_half_step_behind_the_largest_number() -> None:
    # scale 0.5: 448 stands for 224, and the half step behind it is 16 * 0.5
    x = torch.tensor([-233.0, -231.0, -0.001, 0.0, 100.3, 231.0, 233.0], requires_grad=True)
    fp8_quantizer(0.5)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_the_scale_of_fp8_gets_lsqs_gradient_by_qmax_instead_of_its_root() -> None:
    module = fp8_quantizer(0.5, learn=True)
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0])
    module(torch.tensor([-9.3, 0.07, 51.0, 999.0])).backward(upstream)
    # x / scale is -18.6, 0.14, 102, 1998; the nearest numbers are -18, 0.140625, 104, 448
    slopes = [-18 + 18.6, 0.140625 - 0.14, 104 - 102, 448]
    expected = float(np.dot(slopes, upstream.numpy())) / (np.sqrt(4) * 448)
    assert module.scale.grad is not None
    assert module.scale.grad.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("learn", [False, True])
def test_a_relu_taken_along_before_fp8_changes_nothing(learn: bool) -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)) * 3
    results = []
    for call in (lambda q, v: q(torch.relu(v)), lambda q, v: Rectified(q)(v)):
        module = fp8_quantizer(0.005, learn=learn)
        leaf = x.clone().requires_grad_()
        y = call(module, leaf)
        y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape))
        results.append((y.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_steps_are_the_distances_between_neighbouring_codes() -> None:
    every = torch.from_numpy(qdq.levels(QuantDtype.FP8)).float()
    between = (every[1:] + every[:-1]) / 2
    assert torch.equal(fp8_quantizer(1.0).steps(between), every.diff())
    assert torch.equal(fp8_quantizer(1.0).steps(-between), every.diff())
    assert fp8_quantizer(1.0).steps(torch.zeros(1)).item() == every[1]
    assert quantizer(1.0).steps(between).unique().tolist() == [1.0]

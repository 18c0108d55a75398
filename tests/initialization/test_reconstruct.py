"""A network rebuilt part after part, by rounding or by all that trains."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import Parameter

from onnxqat.bridge import FakeQuantize
from onnxqat.initialization import Context, InitializationConfig
from onnxqat.initialization.reconstruct import adaround, brecq
from onnxqat.initialization.reconstruct import reconstruct as rebuild
from onnxqat.initialization.soft_rounding import SoftRounding
from onnxqat.training.batches import Loader
from tests.support.students import Images, sqnr_db, student_and_teacher, values_of

WEIGHTS = {"stem_w", "inner_w", "head_w"}
SCALES = {f"{name}_scale" for name in WEIGHTS}


def context_of(student, teacher, data: Images, *, iterations: int = 150) -> Context:
    loader = Loader(tuple(student.input_names), torch.device("cpu"))
    batches = tuple(loader.in_order(data, 16, data.size))
    return Context(student, teacher, batches, InitializationConfig(iterations=iterations))


def codes_of(student) -> dict[str, np.ndarray]:
    values = values_of(student)
    return {
        name: student.quantizers[name].codes(torch.from_numpy(values[name])).numpy()
        for name in WEIGHTS
    }


@pytest.mark.parametrize("stage", [adaround, brecq, rebuild])
def test_the_outputs_come_nearer_on_samples_that_were_not_seen(stage):
    student, teacher = student_and_teacher("w4a8")
    before = sqnr_db(student, teacher, Images(seed=7))
    stage(context_of(student, teacher, Images(160), iterations=300))
    assert sqnr_db(student, teacher, Images(seed=7)) > before + 1


def test_adaround_rounds_each_weight_to_the_code_below_or_above_and_changes_nothing_else():
    student, teacher = student_and_teacher("w4a8")
    before, plain = values_of(student), codes_of(student)
    adaround(context_of(student, teacher, Images(160)))
    after = values_of(student)
    assert {n for n in after if not np.array_equal(after[n], before[n])} <= WEIGHTS
    originals = values_of(teacher)
    for name, codes in codes_of(student).items():
        scale = after[f"{name}_scale"].reshape(-1, *[1] * (codes.ndim - 1))
        exact = np.clip(originals[name] / scale, -8, 7)
        assert np.all(np.abs(codes - exact) < 1 + 1e-4)
        assert np.allclose(student.quantizers[name](torch.from_numpy(after[name])), codes * scale)
    assert any(np.any(codes != plain[name]) for name, codes in codes_of(student).items())


def test_adaround_rounds_fp8_weights_to_the_number_below_or_above():
    student, teacher = student_and_teacher("fp8")
    before = sqnr_db(student, teacher, Images(seed=7))
    adaround(context_of(student, teacher, Images(160)))
    assert sqnr_db(student, teacher, Images(seed=7)) > before
    after, originals = values_of(student), values_of(teacher)
    for name, codes in codes_of(student).items():
        quantizer = student.quantizers[name]
        scale = after[f"{name}_scale"].reshape(-1, *[1] * (codes.ndim - 1))
        exact = originals[name] / scale
        step = quantizer.steps(torch.from_numpy(exact)).numpy()
        assert np.all(np.abs(codes - exact) < step * (1 + 1e-4))
        assert np.allclose(after[name], codes * scale, rtol=1e-5)


def test_brecq_trains_rounding_and_the_scales_of_activations_only():
    student, teacher = student_and_teacher("w4a8")
    before = values_of(student)
    brecq(context_of(student, teacher, Images(160)))
    changed = {n for n, v in values_of(student).items() if not np.array_equal(v, before[n])}
    assert changed & WEIGHTS
    assert not changed & {"stem_b", "inner_b", "head_b", *SCALES}
    assert changed - WEIGHTS, "a scale"


def test_a_part_that_would_get_worse_stays_to_the_bit(monkeypatch):
    student, teacher = student_and_teacher()
    before = codes_of(student)
    monkeypatch.setattr(
        "onnxqat.initialization.reconstruct._Reconstruction._train",
        lambda self, module, *rest, **error: [p.data.add_(1.0) for p in module.parameters()],
    )
    rebuild(context_of(student, teacher, Images(64)))
    assert all(np.array_equal(before[name], codes) for name, codes in codes_of(student).items())


def test_the_same_seed_gives_the_same_weights():
    results = []
    for _ in range(2):
        student, teacher = student_and_teacher("w4a8")
        brecq(context_of(student, teacher, Images(64), iterations=20))
        results.append(values_of(student))
    assert all(np.array_equal(results[0][name], value) for name, value in results[1].items())


def test_activations_are_kept_for_as_many_batches_as_there_is_room_for(monkeypatch):
    student, teacher = student_and_teacher()
    seen = []
    monkeypatch.setattr(
        "onnxqat.initialization.reconstruct._Reconstruction._train",
        lambda self, module, examples, loss, *, error: seen.append(len(examples)),
    )
    monkeypatch.setattr("onnxqat.initialization.reconstruct.CACHE_BYTES", 1)
    rebuild(context_of(student, teacher, Images(160)))
    assert set(seen) == {2}


def test_soft_rounding_finds_far_better_than_the_nearest_codes_where_inputs_are_alike():
    generator = torch.Generator().manual_seed(0)
    exact = torch.rand(1, 8, generator=generator) * 6 - 3
    basis = torch.randn(3, 8, generator=generator)
    x = torch.randn(256, 3, generator=generator) @ basis  # strongly correlated inputs
    wanted = x @ exact.T

    weight = Parameter(exact.clone())
    scale = Parameter(torch.tensor(1.0), requires_grad=False)
    quantizer = FakeQuantize(scale, axis=None, qmin=-8, qmax=7, is_weight=True)
    plain = float((x @ exact.round().T - wanted).square().mean())
    rounding = SoftRounding({"w": weight}, {"w": quantizer}, error=plain)
    for step in range(600):
        error = (x @ quantizer(weight).T - wanted).square().mean()
        (error + rounding.penalty(step / 600)).backward()
        rounding.step()
    rounding.end()

    def error_of(codes: torch.Tensor) -> float:
        return float((x @ codes.T - wanted).square().mean())

    choices = itertools.product((0.0, 1.0), repeat=8)
    best = min(error_of(exact.floor() + torch.tensor(choice)) for choice in choices)
    assert torch.equal(weight.detach(), weight.detach().round())
    assert error_of(weight.detach()) < 0.25 * plain
    assert error_of(weight.detach()) >= best
    assert torch.equal(quantizer(weight), weight), "the quantizer is itself again"


def test_soft_rounding_begins_where_the_weight_is():
    exact = torch.tensor([[0.3, -1.7, 2.5]])
    scale = Parameter(torch.tensor(0.5), requires_grad=False)
    quantizer = FakeQuantize(scale, axis=None, qmin=-8, qmax=7, is_weight=True)
    weight = Parameter(exact.clone())
    rounding = SoftRounding({"w": weight}, {"w": quantizer}, error=1.0)
    assert torch.allclose(quantizer(weight), exact, atol=0.01)
    rounding.end()

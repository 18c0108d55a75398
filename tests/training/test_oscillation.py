from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from onnxqat.bridge import FakeQuantize
from onnxqat.training import FinetuneConfig, StepRecord, finetune
from onnxqat.training.oscillation import MEMORY, Damping, Freezing
from tests.support.students import Images, student_and_teacher

CONFIG = FinetuneConfig(
    steps=60, batch_size=32, scales="frozen", weight_scales="frozen", validate_every=60
)
WEIGHTS = ("stem_w", "inner_w", "head_w")


def test_a_weight_is_drawn_by_the_share_and_in_the_last_step_by_all_of_it() -> None:
    student, _ = student_and_teacher("w4a8")
    weight = next(p for n, p in student.named_parameters() if student.onnx_name(n) == "inner_w")
    quantizer = student.quantizers["inner_w"]
    with torch.no_grad():
        weight.add_(0.01)
        before, goal = weight.clone(), quantizer(weight)
    damping = Damping(((weight, quantizer),), share=0.5, steps=10)
    damping.apply(5)  # half of the rise
    torch.testing.assert_close(weight.detach(), before + 0.25 * (goal - before))
    with torch.no_grad():
        weight.copy_(before)
    damping.apply(10)
    torch.testing.assert_close(weight.detach(), before + 0.5 * (goal - before))


def swings(**choice: float) -> int:
    """Changes of code that take back the change before, over the last half of a run."""
    student, teacher = student_and_teacher("w4a8")
    seen: list[np.ndarray] = []

    def keep(_: StepRecord) -> None:
        by_name = {student.onnx_name(n): p.detach() for n, p in student.named_parameters()}
        codes = [student.quantizers[n].codes(by_name[n]).reshape(-1) for n in WEIGHTS]
        seen.append(torch.cat(codes).numpy())

    config = replace(CONFIG, **choice, schedule="step", drop_epochs=1000)
    finetune(student, teacher, Images(), config=config, on_progress=keep)
    moves = np.diff(np.stack(seen[30:]), axis=0)
    total = 0
    for weight in moves.T:
        changes = weight[weight != 0]
        total += int((np.sign(changes[1:]) != np.sign(changes[:-1])).sum())
    return total


def test_fewer_weights_swing_between_two_codes_when_they_are_damped() -> None:
    assert swings(damping=0.1) < 0.5 * swings()


def test_fewer_weights_swing_when_those_that_do_are_frozen() -> None:
    assert swings(freezing=0.03) < 0.5 * swings()


def follow_one_weight(codes: list[int], *, threshold: float) -> list[float]:
    """The codes of one weight after each step that wanted these codes for it."""
    scale = torch.nn.Parameter(torch.tensor(0.5), requires_grad=False)
    quantizer = FakeQuantize(scale, axis=None, qmin=-8, qmax=7, is_weight=True)
    weight = torch.nn.Parameter(torch.zeros(1))
    freezing = Freezing(((weight, quantizer),), threshold)
    after = []
    for code in codes:
        with torch.no_grad():
            weight.copy_(torch.tensor([0.5 * code]))
        freezing.apply()
        after.append(float(weight.detach()) / 0.5)
    return after


def test_a_weight_is_frozen_by_its_second_swing_at_the_code_where_it_mostly_was() -> None:
    swing = MEMORY * (1 - MEMORY)  # one swing, a step later
    codes = [0] * 20 + [1, 0, 1, 5, 6, 7]
    assert follow_one_weight(codes, threshold=1.5 * swing) == [0] * 20 + [1, 0, 0, 0, 0, 0]


def test_a_weight_that_only_travels_is_not_frozen() -> None:
    codes = [0, 1, 2, 3, 4, 5, 6, 7]
    assert follow_one_weight(codes, threshold=0.001) == codes


def test_a_frozen_weight_keeps_its_code_when_its_scale_moves() -> None:
    scale = torch.nn.Parameter(torch.tensor(0.5), requires_grad=False)
    quantizer = FakeQuantize(scale, axis=None, qmin=-8, qmax=7, is_weight=True)
    weight = torch.nn.Parameter(torch.zeros(1))
    freezing = Freezing(((weight, quantizer),), 0.001)
    for value in (3.0, 2.5, 3.0):
        weight.data.fill_(value)
        freezing.apply()
    assert freezing.frozen == 1
    code = float(quantizer.codes(weight.detach()))
    scale.data.fill_(0.6)
    freezing.apply()
    assert float(weight.detach()) == pytest.approx(code * 0.6)

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from onnxqat.training import FinetuneConfig, StepRecord, finetune
from onnxqat.training.oscillation import Damping
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


def swings(damping: float) -> int:
    """Changes of code that take back the change before, over the last half of a run."""
    student, teacher = student_and_teacher("w4a8")
    seen: list[np.ndarray] = []

    def keep(_: StepRecord) -> None:
        by_name = {student.onnx_name(n): p.detach() for n, p in student.named_parameters()}
        codes = [student.quantizers[n].codes(by_name[n]).reshape(-1) for n in WEIGHTS]
        seen.append(torch.cat(codes).numpy())

    config = replace(CONFIG, damping=damping, schedule="step", drop_epochs=1000)
    finetune(student, teacher, Images(), config=config, on_progress=keep)
    moves = np.diff(np.stack(seen[30:]), axis=0)
    total = 0
    for weight in moves.T:
        changes = weight[weight != 0]
        total += int((np.sign(changes[1:]) != np.sign(changes[:-1])).sum())
    return total


def test_fewer_weights_swing_between_two_codes_when_they_are_damped() -> None:
    assert swings(0.1) < 0.5 * swings(0.0)

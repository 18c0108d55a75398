"""When a trained step takes the place of the start: not for a gain that is noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from onnxqat.bridge import OnnxModule
from onnxqat.training import FinetuneConfig, StepRecord, Validation, finetune
from onnxqat.training.validation import Judged
from tests.support.students import Images, student_and_teacher

HELD_OUT = Images(samples=40, seed=2)


def judged(losses: list[list[float]], samples: list[list[float]], loss: float = 0.0) -> Judged:
    found = Validation(samples=0, loss=loss, sqnr_db=0.0, agreement=None, top1=None)
    return Judged(found, *(torch.tensor(x, dtype=torch.float64) for x in (losses, samples)))


@pytest.mark.parametrize(
    ("after", "is_gain"),
    [
        ([0.9, 1.9, 2.9, 3.9], True),  # each sample by 0.1
        ([0.0, 1.0, 2.0, 6.9], False),  # 0.025 ± 0.975
        ([0.0, 1.0, 2.0, 4.0], True),  # 0.75 ± 0.25
        ([1.0, 2.0, 3.0, 4.0], False),  # nothing
        ([0.0, 2.0, 3.0, 4.0], False),  # 0.25 ± 0.25, one sample's
        ([1.1, 2.1, 3.1, 4.1], False),
    ],
)
def test_a_gain_is_more_than_its_standard_error(after: list[float], is_gain: bool) -> None:
    start = judged([[1.0, 2.0], [3.0, 4.0]], [[1, 1], [1, 1]])
    assert judged([after[:2], after[2:]], [[1, 1], [1, 1]]).is_gain_on(start) is is_gain


def test_parts_count_by_their_samples_and_empty_ones_do_not() -> None:
    """Losses of 0.5 a sample less in every part, whatever its size: no scatter at all."""
    samples = [[3.0, 3.0], [2.0, 0.0]]
    start = judged([[6.0, 30.0], [9.0, 0.0]], samples)
    assert judged([[4.5, 28.5], [8.0, 0.0]], samples).is_gain_on(start)


def test_of_one_part_the_lower_loss_is_the_gain() -> None:
    start = judged([[2.0, 0.0]], [[8, 0]])
    assert judged([[1.9, 0.0]], [[8, 0]]).is_gain_on(start)
    assert not judged([[2.0, 0.0]], [[8, 0]]).is_gain_on(start)


def test_of_other_parts_the_lower_loss_is_the_gain() -> None:
    start = judged([[1.0, 2.0]], [[1, 1]], loss=1.5)
    assert judged([[2.9]], [[2]], loss=1.45).is_gain_on(start)
    assert not judged([[3.1]], [[2]], loss=1.55).is_gain_on(start)


def test_a_start_whose_loss_is_no_number_gives_way() -> None:
    start = judged([[float("nan"), 1.0]], [[1, 1]])
    assert judged([[5.0, 5.0]], [[1, 1]]).is_gain_on(start)


def test_what_is_kept_is_what_the_samples_say_one_by_one() -> None:
    noise = [gain for seed in range(6) for gain in gains_not_kept(seed)]
    assert noise, "no gain was noise, so that nothing is told by what was kept"


def gains_not_kept(seed: int) -> list[int]:
    """Steps with a lower loss than the start's that did not take its place.

    What is kept is held against errors that are measured apart, by numpy: the first gain of more
    than a standard error, from then on the lowest loss.
    """
    student, teacher = student_and_teacher()
    seen: list[NDArray[np.float64]] = []

    def look(record: StepRecord) -> None:
        if record.validation is not None:
            seen.append(errors(student, teacher))

    config = FinetuneConfig(steps=12, validate_every=1, batch_size=4, lr=3e-3, average=0, seed=seed)
    tuned = finetune(
        student, teacher, Images(samples=64), config=config, validation=HELD_OUT, on_progress=look
    )
    best = 0
    noise = []
    for record, now in zip(tuned.history[1:], seen[1:], strict=True):
        gain = seen[best] - now
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if best == 0 else 0.0
        assert record.is_best == bool(gain.mean() > error)
        best = record.step if record.is_best else best
        if best == 0 and gain.mean() > 0:
            noise.append(record.step)
    assert tuned.best_step == best
    return noise


def errors(student: OnnxModule, teacher: OnnxModule) -> NDArray[np.float64]:
    """Of each sample, the mean squared error."""
    (batch,) = HELD_OUT.batches(64)
    (images,) = (torch.from_numpy(values) for values in batch.inputs.values())
    with torch.no_grad():
        mine, wanted = student(images), teacher(images)
    return (mine - wanted).double().square().mean(1).numpy()

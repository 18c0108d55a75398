import math

import pytest

from onnxqat.core.errors import ConfigError
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.schedule import count_steps, make_schedule, rate_factor


def test_the_rate_rises_linearly_and_then_falls_along_a_half_cosine() -> None:
    factors = [rate_factor(step, steps=10, warmup=0.2) for step in range(1, 11)]
    rising = [1 / 3, 2 / 3]
    falling = [0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    assert factors == pytest.approx(rising + falling)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert rate_factor(1, steps=5, warmup=0.0) == 1.0


def test_the_step_schedule_falls_to_a_tenth_every_so_many_epochs() -> None:
    config = FinetuneConfig(schedule="step", drop_epochs=1.5, batch_size=8, warmup=0.0)
    schedule = make_schedule(config, steps=8, samples=16)  # 3 steps are 1.5 epochs
    expected = [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]
    assert [schedule(step) for step in range(1, 9)] == pytest.approx(expected)


def test_a_step_schedule_over_data_of_unknown_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="epochs cannot be counted"):
        make_schedule(FinetuneConfig(schedule="step"), steps=8, samples=None)


def test_every_step_moves() -> None:
    for warmup in (0.0, 0.05, 0.5, 1.0):
        for steps in (1, 2, 3, 20):
            factors = [rate_factor(s, steps=steps, warmup=warmup) for s in range(1, steps + 1)]
            assert all(0 < factor <= 1 for factor in factors)


def test_epochs_become_steps() -> None:
    config = FinetuneConfig(epochs=2, batch_size=32)
    assert count_steps(config, 100) == 7


def test_epochs_of_data_of_unknown_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="give steps instead"):
        count_steps(FinetuneConfig(epochs=1), None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"lr": -1e-3},
        {"lr": math.nan},
        {"warmup": 1.5},
        {"clip_grad": 0.0},
        {"steps": 10, "epochs": 1.0},
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FinetuneConfig(**wrong)

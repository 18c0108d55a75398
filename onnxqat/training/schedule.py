"""The learning rate over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnxqat.core.errors import ConfigError
from onnxqat.training.config import DEFAULT_STEPS, FinetuneConfig


def rate_factor(step: int, *, steps: int, warmup: float) -> float:
    """The factor, in (0, 1], on every learning rate in step 1 … `steps`.

    It rises linearly over the first `warmup` share of the steps, then falls along a half cosine
    that would reach 0 one step after the last (so that no step is wasted).
    """
    rising = round(warmup * steps)
    if step <= rising:
        return step / (rising + 1)
    done = (step - rising - 1) / (steps - rising)
    return 0.5 * (1 + math.cos(math.pi * done))


DROP = 0.1
"""Factor on the rate at each drop of the step schedule."""


def step_factor(step: int, *, steps: int, warmup: float, every: int) -> float:
    """The same for the step schedule: after the rise, a tenth after each `every` steps."""
    rising = round(warmup * steps)
    if step <= rising:
        return step / (rising + 1)
    return DROP ** ((step - 1) // every)


def make_schedule(
    config: FinetuneConfig, *, steps: int, samples: int | None
) -> Callable[[int], float]:
    """Step -> the factor on every rate.

    Args:
        config: With the kind of schedule.
        steps: In all.
        samples: Size of the training data, None if unknown.

    Raises:
        ConfigError: Drops are counted in epochs of data of unknown size.
    """
    if config.schedule == "cosine":
        return lambda step: rate_factor(step, steps=steps, warmup=config.warmup)
    if samples is None:
        raise ConfigError(
            "the data does not say how many samples it has, so epochs cannot be counted",
            at='schedule = "step"',
            fix='use schedule = "cosine"',
        )
    every = max(1, round(config.drop_epochs * samples / config.batch_size))
    return lambda step: step_factor(step, steps=steps, warmup=config.warmup, every=every)


def count_steps(config: FinetuneConfig, samples: int | None) -> int:
    """Optimizer steps in all.

    Args:
        config: With `steps`, `epochs` or neither.
        samples: Size of the training data, None if unknown.

    Raises:
        ConfigError: Epochs are asked of data of unknown size.
    """
    if config.epochs is None:
        return config.steps if config.steps is not None else DEFAULT_STEPS
    if samples is None:
        raise ConfigError(
            "the data does not say how many samples it has, so epochs cannot be counted",
            fix="give steps instead of epochs",
        )
    return max(1, math.ceil(config.epochs * samples / config.batch_size))

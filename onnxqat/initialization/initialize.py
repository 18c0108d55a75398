"""Run the initialization stages on a Q/DQ module, each with its gain."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from onnxqat.bridge import OnnxModule
from onnxqat.core.errors import ConfigError
from onnxqat.core.stage_gain import StageGain
from onnxqat.data import Dataset, kept_apart
from onnxqat.data.layout import batch_layout
from onnxqat.graph import input_specs
from onnxqat.graph.insert import INITIALIZATION_KEY
from onnxqat.initialization.config import InitializationConfig
from onnxqat.initialization.context import Context, ignore
from onnxqat.initialization.stages import STAGES
from onnxqat.training.batches import Loader
from onnxqat.training.losses import mse
from onnxqat.training.setting import (
    choose_device,
    on_device,
    on_threads,
    require_same_signature,
)
from onnxqat.training.validation import HeldOut

OnStage = Callable[[StageGain], None]


def initialize(
    student: OnnxModule,
    teacher: OnnxModule,
    data: Dataset,
    *,
    config: InitializationConfig,
    validation: Dataset | None = None,
    on_stage: OnStage | None = None,
) -> tuple[StageGain, ...]:
    """The gain of each stage, in order; the student is changed in place, never for the worse.

    A stage is kept if the worst output's error, on samples that no stage learns from, did not grow
    by it; else the student is what it was before. Both modules come back on the CPU.

    Args:
        student: The Q/DQ model.
        teacher: The FP32 model that it was made of.
        data: Samples; labels are not read.
        config: Which stages, and how many samples.
        validation: Samples to judge the stages by, which must not be the reported ones; None: a
            quarter of those drawn from `data`.
        on_stage: Called after each stage.

    Raises:
        ConfigError: The two models do not fit each other, or a stage is one of the FP32 model.
        DataError: The data does not fit the model, or has no sample.
        TrainingError: The teacher's outputs are not finite.
    """
    if config.float_stages:
        raise ConfigError(
            f"{' and '.join(config.float_stages)} work on the FP32 model, before it is quantized",
            fix="call equalize on that, place and calibrate again, or run a recipe, which does",
        )
    require_same_signature(student, teacher)
    device = choose_device(config.device)
    learn, judge = kept_apart(
        data,
        samples=config.samples,
        batch_size=config.batch_size,
        seed=config.seed,
        judge=validation,
    )
    axes = batch_layout(input_specs(student.graph)).axes
    loader = Loader(tuple(student.input_names), device, axes)
    size, samples = config.batch_size, config.samples
    cudnn = torch.backends.cudnn.flags(deterministic=True, benchmark=False)
    with on_device(device, student, teacher), on_threads(config.threads), cudnn:
        batches = tuple(loader.in_order(learn, size, samples))
        held_out = HeldOut(judge, loader, teacher, batch_size=size, samples=samples)
        context = Context(student, teacher, batches, config)
        return tuple(_run(context, _ratio(held_out, student), on_stage or ignore))


def _run(context: Context, ratio: Callable[[], float], on_stage: OnStage) -> Iterator[StageGain]:
    before = ratio()
    for name in context.config.stages:
        start = time.perf_counter()
        state = _values(context.student)
        notes: list[str] = []
        STAGES[name](replace(context, note=notes.append))
        after = ratio()
        is_better = after >= before  # never with a number that is none
        seconds = round(time.perf_counter() - start, 3)
        gain = StageGain(name, before, after, is_better, seconds, tuple(notes))
        on_stage(gain)
        yield gain
        if is_better:
            before = after
            _note(context.student, name)
        else:
            _put_back(context.student, state)


def _note(student: OnnxModule, stage: str) -> None:
    """Let the file say that a stage was kept."""
    known = {**student.graph.metadata, **student.notes}.get(INITIALIZATION_KEY)
    student.notes[INITIALIZATION_KEY] = f"{known},{stage}" if known else stage


def _ratio(held_out: HeldOut, student: OnnxModule) -> Callable[[], float]:
    """Measures the worst output's signal-to-quantization-noise ratio, in dB."""
    facts = held_out.observe()
    loss = mse(facts)

    def ratio() -> float:
        found = held_out.validate(student, loss, facts).sqnr_db
        return -math.inf if math.isnan(found) else found

    return ratio


@torch.no_grad()
def _values(student: OnnxModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in student.state_dict().items()}


@torch.no_grad()
def _put_back(student: OnnxModule, state: dict[str, Tensor]) -> None:
    """In place: the quantizers go on sharing their scales."""
    for name, value in student.state_dict().items():
        value.copy_(state[name])

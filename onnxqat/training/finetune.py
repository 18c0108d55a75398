"""Fine-tune a Q/DQ module until it answers like its FP32 teacher."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from onnxqat.bridge import OnnxModule
from onnxqat.core.codec import decode, encode
from onnxqat.core.sensitivity import Sensitivity
from onnxqat.data import Dataset
from onnxqat.data.layout import batch_layout
from onnxqat.graph import input_specs
from onnxqat.training.augmentation import augmented
from onnxqat.training.batches import Loader
from onnxqat.training.checkpoint import Checkpoint
from onnxqat.training.compiled import Compiled, require_compiler
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.distributed import Processes, processes
from onnxqat.training.identity import Identity, identity
from onnxqat.training.loop import Loop
from onnxqat.training.optimizer import (
    choose_average,
    choose_rates,
    is_rebuilt,
    make_optimizer,
)
from onnxqat.training.oscillation import make_damping, make_freezing
from onnxqat.training.parameters import Coordinates
from onnxqat.training.record import Finetuned, OnProgress
from onnxqat.training.resume import put_back
from onnxqat.training.schedule import count_steps, make_schedule
from onnxqat.training.selection import Selection, select
from onnxqat.training.sensitivity import SensitivityConfig, sensitivity
from onnxqat.training.setting import (
    choose_device,
    choose_memory_format,
    on_device,
    on_threads,
    require_same_signature,
)
from onnxqat.training.sharding import Share
from onnxqat.training.start import start_from_teacher
from onnxqat.training.targets import choose_targets, weight_bits
from onnxqat.training.terms import Compared, make_losses
from onnxqat.training.validation import PARTS, HeldOut
from onnxqat.training.views import Views, has_own_loss, make_views, observe_inner

DEFAULT_CONFIG = FinetuneConfig()
_LOG = logging.getLogger("onnxqat.training")


def finetune(
    student: OnnxModule,
    teacher: OnnxModule,
    data: Dataset,
    *,
    config: FinetuneConfig = DEFAULT_CONFIG,
    validation: Dataset | None = None,
    on_progress: OnProgress | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> Finetuned:
    """The student with the parameters of its best validation; never worse there than it came.

    Where no step is better than the start by more than the standard error of the gain over the
    validation samples, the student comes back as it was: what is noise there is noise elsewhere.

    The student is trained in place. Both modules come back on the CPU. Ctrl-C and a loss that is no
    number end the run early, with the best so far. Processes that are joined (`distributed`) train
    the one model together; each calls this with the same arguments.

    Args:
        student: The Q/DQ model.
        teacher: The FP32 model of the same inputs and outputs.
        data: What to train on; labels are only needed by a loss that says so.
        config: How.
        validation: Samples to choose the best checkpoint by, which must not be the reported ones;
            None: the first ones of `data`, which the steps then see as well.
        on_progress: Called with every step, in order, from this thread.
        checkpoint: A file to keep the run in, as often as `config` says. It stays afterwards.
        resume: Go on from that file, bit for bit as if the run had not stopped; from the start
            where there is no file yet.

    Raises:
        ConfigError: The two models do not fit each other, or the loss does not fit them, or the
            checkpoint is damaged or of another run.
        TrainingError: There is nothing to train, or the teacher's outputs are not finite.
        DataError: The data does not fit the model.
    """
    require_same_signature(student, teacher)
    config = replace(config, average=choose_average(config, rebuilt=is_rebuilt(student)))
    device, among = choose_device(config.device), processes()
    specs = input_specs(student.graph)
    axes = batch_layout(specs).axes
    steps_data = augmented(data, config.augment, specs)
    layout = choose_memory_format(config.memory_format, device)
    loader = Loader(tuple(student.input_names), device, axes, layout)
    selection = _select(student, teacher, data, config=config, among=among)
    kept = _checkpoint(
        checkpoint,
        lambda: identity(student, teacher, data, validation, config) | _as_identity(selection),
        config,
    )
    cudnn = torch.backends.cudnn.flags(deterministic=True, benchmark=False)
    with on_device(device, student, teacher), on_threads(config.threads), cudnn:
        if config.compile:
            require_compiler(device)
        student.saves_memory = not config.compile and config.save_memory is not False
        views = make_views(student, teacher, config)
        held_out = HeldOut(
            data if validation is None else validation,
            loader,
            views.judged.teacher,
            batch_size=config.micro_batch or config.batch_size,
            samples=config.validation_samples,
            parts=1 if has_own_loss(config) else PARTS,  # the user's may want whole batches
            processes=among,
        )
        loop = _prepare(
            views,
            held_out,
            config=config,
            samples=data.size,
            on_progress=on_progress,
            checkpoint=kept,
            selection=selection,
        )
        if kept is not None and resume and (content := among.from_first(kept.read)):
            put_back(loop, kept.parse(content))
        batches = loader.steps(
            steps_data,
            config.batch_size,
            share=Share(among.rank, among.world, config.micro_batch),
            seed=config.seed,
            ahead=2 * config.workers,
            start=loop.position,
        )
        with contextlib.closing(batches):
            stopped = loop.go(batches)
    return Finetuned(student, tuple(loop.history), loop.best.step, stopped, loop.origin)


def _select(
    student: OnnxModule,
    teacher: OnnxModule,
    data: Dataset,
    *,
    config: FinetuneConfig,
    among: Processes,
) -> Selection:
    """What may train. The first process measures for all, so that they agree.

    A model without quantizers, as the FP32 control is, trains all over.
    """
    if config.train == "all" or not student.quantizers:
        return select(student, config, None)
    measure = SensitivityConfig(leave_one_out=False, device=config.device, threads=config.threads)

    def measured() -> bytes:
        found = sensitivity(student, teacher, data, config=measure)
        return json.dumps(encode(found)).encode()

    found = decode(Sensitivity, json.loads(among.from_first(measured)))
    return select(student, config, found)


def _as_identity(selection: Selection) -> Identity:
    """The layers that were found sensitive: a run goes on with the same ones, or not at all."""
    if selection.nodes is None:
        return {}
    return {"the choice of sensitive layers": ", ".join(sorted(selection.nodes))}


def _checkpoint(
    path: Path | None, identify: Callable[[], Identity], config: FinetuneConfig
) -> Checkpoint | None:
    if path is None:
        return None
    return Checkpoint(
        path, identify(), minutes=config.checkpoint_minutes, steps=config.checkpoint_steps
    )


def _observe(views: Views, held_out: HeldOut) -> Compared:
    """What the loss compares."""
    seen = held_out.observe()
    outputs = {n: fact for n, fact in seen.items() if n in views.whole.student.output_names}
    known = {**outputs, **observe_inner(views.step, held_out.batches())}
    heads = {head.tensor: known[head.tensor] for head in views.heads if head.tensor in known}
    features = {name: known[name] for name in views.features}
    return Compared(outputs, heads, features)


def _prepare(
    views: Views,
    held_out: HeldOut,
    *,
    config: FinetuneConfig,
    samples: int | None,
    on_progress: OnProgress | None,
    checkpoint: Checkpoint | None,
    selection: Selection,
) -> Loop:
    steps = count_steps(config, samples)
    schedule = make_schedule(config, steps=steps, samples=samples)
    student, teacher = views.whole.student, views.whole.teacher
    compared = _observe(views, held_out)
    if held_out.processes.is_first:
        for head in views.heads:
            _LOG.info("compared: %s", head)
    loss, judge = make_losses(config, compared)
    start_from_teacher(student, teacher)
    targets = choose_targets(student, config, selection)
    coordinates = Coordinates(targets.trained)
    rates = choose_rates(config, bits=weight_bits(student), rebuilt=is_rebuilt(student))
    return Loop(
        student=student,
        teacher=teacher,
        view=views.step,
        runs=Compiled(views.step.student) if config.compile else views.step.student,
        config=config,
        steps=steps,
        targets=targets,
        coordinates=coordinates,
        optimizer=make_optimizer(config, coordinates, rates),
        lr=rates.weight,
        loss=loss,
        judge=lambda: held_out.judge(views.judged.student, judge, compared.outputs),
        device=held_out.loader.device,
        on_progress=on_progress,
        schedule=schedule,
        damping=make_damping(student, targets.trained, share=config.damping, steps=steps),
        freezing=make_freezing(student, targets.trained, threshold=config.freezing),
        checkpoint=checkpoint,
        processes=held_out.processes,
    )

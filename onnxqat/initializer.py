"""The initialization of a run, before and after Q/DQ is placed; by the first process alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from onnxqat.bridge import to_torch, write_back
from onnxqat.calibration import calibrate
from onnxqat.core.stage_gain import StageGain
from onnxqat.data import Dataset
from onnxqat.engine import compare
from onnxqat.graph import Change, Graph, insert
from onnxqat.initialization import equalize, initialize
from onnxqat.initialization.context import KEPT, ignore
from onnxqat.placement import place
from onnxqat.recipe import Recipe
from onnxqat.run_folder import RunFolder
from onnxqat.stage_keys import stage_key

STAGE = "initialize"
JUDGING_SAMPLES = 256
"""By which a stage for the FP32 model is judged, and at most as many that calibrate for that."""


@dataclass(frozen=True)
class Initialized:
    """The model that fine-tuning starts from, and what each stage gained."""

    model: Graph
    gains: tuple[StageGain, ...]


def equalized(
    graph: Graph,
    recipe: Recipe,
    data: tuple[Dataset, Dataset, Dataset | None],
    on_change: Callable[[Change], None] = ignore,
    on_gain: Callable[[StageGain], None] = ignore,
) -> Initialized:
    """The prepared FP32 model after the recipe's stages for it, and what each gained when the model
    is quantized as the recipe says; never one that lost by it.

    It takes seconds and comes out the same each time, so that it is not kept to go on from.

    Args:
        graph: The prepared model.
        recipe: The recipe.
        data: What calibrates, what is trained on, and what chooses the best step.
        on_change: Is told what the stages did.
        on_gain: Is told what each stage gained.
    """
    stages = recipe.initialization.float_stages
    if not stages:
        return Initialized(graph, ())
    train = data[1]
    model, before = graph, _quantized_db(graph, graph, recipe, data)
    gains: list[StageGain] = []
    for stage in stages:
        start = time.perf_counter()
        made: list[Change] = []
        trial = equalize(
            model,
            place(model, config=recipe.placement),
            train,
            stages=(stage,),
            samples=recipe.initialization.samples,
            threads=recipe.initialization.threads,
            on_change=made.append,
        )
        is_changed = any(change.kind == stage for change in made)
        after = _quantized_db(graph, trial, recipe, data) if is_changed else before
        is_better = after >= before
        for change in made:
            undone = Change(KEPT, change.node, f"the outputs lost by it: {change.detail}")
            on_change(change if is_better or change.kind != stage else undone)
        seconds = round(time.perf_counter() - start, 3)
        gains.append(StageGain(stage, before, after, is_better, seconds))
        on_gain(gains[-1])
        if is_better:
            model, before = trial, after
    return Initialized(model, tuple(gains))


def _quantized_db(
    fp32: Graph, trial: Graph, recipe: Recipe, data: tuple[Dataset, Dataset, Dataset | None]
) -> float:
    """The worst output's signal-to-quantization-noise ratio after a trial is quantized, in dB."""
    calibration, _, judge = data
    few = min(recipe.calibration.samples or JUDGING_SAMPLES, JUDGING_SAMPLES)
    plan = place(trial, config=recipe.placement)
    config = replace(recipe.calibration, samples=few)
    quantized = insert(trial, plan, calibrate(trial, plan, calibration, config=config))
    found = compare(fp32, quantized, judge or calibration, samples=JUDGING_SAMPLES)
    return -math.inf if math.isnan(found.sqnr_db) else found.sqnr_db


def initialized(
    models: tuple[Graph, Graph],
    recipe: Recipe,
    data: tuple[Dataset, Dataset | None],
    folder: RunFolder,
    on_gain: Callable[[StageGain], None],
) -> Initialized:
    """The quantized model after the recipe's stages; as a stopped run left it, if it did.

    Args:
        models: The quantized model and its FP32 teacher, which lie in the folder already.
        recipe: The recipe.
        data: What is trained on, and what chooses the best step.
        folder: The run's.
        on_gain: Is told what each stage gained.
    """
    roles = recipe.data
    sources = (roles.train or roles.calibration, roles.validation)
    digest = folder.digest_of("fp32.onnx", "ptq.onnx")
    key = stage_key(digest, recipe.initialization, recipe.finetune.fallback, sources=sources)
    if folder.is_done(STAGE, key) and (left := folder.read_initialization()) is not None:
        return Initialized(*left)
    student, teacher = (to_torch(model, fallback=recipe.finetune.fallback) for model in models)
    train, validation = data
    gains = initialize(
        student,
        teacher,
        train,
        config=replace(recipe.initialization, stages=recipe.initialization.qdq_stages),
        validation=validation,
        on_stage=on_gain,
    )
    made = write_back(student)
    folder.save_initialization(made, gains)
    folder.mark_done(STAGE, key)
    return Initialized(made, gains)

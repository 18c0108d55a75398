"""The initialization of a run, before and after Q/DQ is placed; by the first process alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from onnxqat.bridge import to_torch, write_back
from onnxqat.core.stage_gain import StageGain
from onnxqat.data import Dataset
from onnxqat.graph import Change, Graph
from onnxqat.initialization import equalize, initialize
from onnxqat.recipe import Recipe
from onnxqat.run_folder import RunFolder
from onnxqat.stage_keys import stage_key

STAGE = "initialize"


@dataclass(frozen=True)
class Initialized:
    """The model that fine-tuning starts from, and what each stage gained."""

    model: Graph
    gains: tuple[StageGain, ...]


def equalized(graph: Graph, recipe: Recipe, data: Dataset, changes: list[Change]) -> Graph:
    """The prepared FP32 model after the recipe's stages for it; what they did is added to
    `changes`.

    It takes seconds and comes out the same each time, so that it is not kept to go on from.
    """
    stages = recipe.initialization.float_stages
    if not stages:
        return graph
    return equalize(
        graph,
        data,
        stages=stages,
        quant_format=recipe.placement.quant_format,
        on_change=changes.append,
    )


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

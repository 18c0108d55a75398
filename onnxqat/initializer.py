"""The initialization of a run: done by the first process alone, and taken up where it was done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxqat.bridge import to_torch, write_back
from onnxqat.core.stage_gain import StageGain
from onnxqat.data import Dataset
from onnxqat.graph import Graph
from onnxqat.initialization import initialize
from onnxqat.recipe import Recipe
from onnxqat.run_folder import RunFolder
from onnxqat.stage_keys import stage_key

STAGE = "initialize"


@dataclass(frozen=True)
class Initialized:
    """The model that fine-tuning starts from, and what each stage gained."""

    model: Graph
    gains: tuple[StageGain, ...]


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
        config=recipe.initialization,
        validation=validation,
        on_stage=on_gain,
    )
    made = write_back(student)
    folder.save_initialization(made, gains)
    folder.mark_done(STAGE, key)
    return Initialized(made, gains)

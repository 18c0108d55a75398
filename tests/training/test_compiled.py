"""Training through torch.compile."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxqat.bridge import to_torch
from onnxqat.core.errors import ConfigError, TrainingError
from onnxqat.training import FinetuneConfig, finetune
from onnxqat.training.compiled import Compiled
from tests.support.onnx_text import model_of
from tests.support.students import Images, student_and_teacher, values_of

CONFIG = FinetuneConfig(steps=3, validate_every=3, compile=True)


def test_without_a_compiler_it_says_what_is_missing(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    student, teacher = student_and_teacher()
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler on a CPU, and '/nowhere/c\+\+'"):
        finetune(student, teacher, Images(), config=CONFIG)


def test_it_does_not_go_with_save_memory() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        FinetuneConfig(compile=True, save_memory=True)


def test_what_cannot_be_compiled_in_one_piece_is_refused_and_not_run_otherwise() -> None:
    text = "g (float[n] x) => (float[n] y) {c = ReduceSum(x) k = Cast<to = 9>(c) y = If(k) <"
    text += "then_branch = t () => (float[n] p) {p = Neg(x)},"
    text += "else_branch = e () => (float[n] q) {q = Relu(x)}>}"
    with pytest.raises(TrainingError, match=r"torch\.compile cannot compile the model"):
        Compiled(to_torch(model_of(text.replace("ReduceSum", "ReduceSum<keepdims = 0>"))))(
            torch.ones(3)
        )


@pytest.mark.slow
def test_it_trains_what_is_trained_without_it() -> None:
    def trained(**choice: bool) -> dict[str, np.ndarray]:
        student, teacher = student_and_teacher()
        config = FinetuneConfig(steps=3, validate_every=3, **choice)
        return values_of(finetune(student, teacher, Images(), config=config).module)

    ours, theirs = trained(compile=True), trained()
    for name in ours:  # other kernels round otherwise, and Adam makes much of little at first
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("choice", "saves"),
    [({}, True), ({"save_memory": False}, False), ({"save_memory": True}, True)],
)
def test_memory_is_saved_unless_it_is_not_wanted(choice, saves) -> None:
    student, teacher = student_and_teacher()
    config = FinetuneConfig(steps=1, batch_size=8, validation_samples=8, threads=1, **choice)
    assert finetune(student, teacher, Images(16), config=config).module.saves_memory is saves

"""A run that ends at a number that is not finite says at which step, and where the number began."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from onnxqat.bridge import OnnxModule, to_torch
from onnxqat.training import FinetuneConfig, Finetuned, finetune
from tests.support.onnx_text import model_of
from tests.support.students import Images, student_and_teacher

QUICK = FinetuneConfig(steps=6, batch_size=32, validate_every=6, device="cpu")
TEXT = """g (float[n, 3] x) => (float[n, 3] logits)
<float[3, 3] w = {%s}> {
    mixed = MatMul (x, w)
    logits = Log (mixed)
}"""


@dataclass
class Vectors(Images):
    """Positive vectors [samples, 3]."""

    def __post_init__(self) -> None:
        self.images = np.random.default_rng(0).uniform(1, 2, (self.samples, 3)).astype(np.float32)
        self.labels = np.arange(self.samples) % 3

    def batches(self, *arguments, **keywords):
        for batch in super().batches(*arguments, **keywords):
            yield replace(batch, inputs={"x": batch.inputs["image"]})


def diagonal(value: float) -> OnnxModule:
    entries = ", ".join(str(value if i % 4 == 0 else 0.0) for i in range(9))
    return to_torch(model_of(TEXT % entries))


def run(student: OnnxModule, teacher: OnnxModule, data: Images, **choice) -> Finetuned:
    tuned = finetune(student, teacher, data, config=replace(QUICK, **choice))
    assert tuned.stopped == "non-finite"
    return tuned


def test_a_tensor_of_the_student_is_named_with_its_node() -> None:
    tuned = run(diagonal(-1.0), diagonal(1.0), Vectors())
    assert tuned.history[-1].step == 1
    assert tuned.origin is not None
    assert tuned.origin.startswith("tensor 'logits' of node")


def test_an_input_of_the_batch_is_named() -> None:
    student, teacher = student_and_teacher()
    data, clean = Images(samples=64), Images(samples=64, seed=3)
    data.images[5] = np.inf
    tuned = finetune(student, teacher, data, config=QUICK, validation=clean)
    assert tuned.stopped == "non-finite"
    assert tuned.origin == "input 'image' of the batch"


def test_a_loss_that_makes_it_of_finite_outputs_is_told(tmp_path) -> None:
    (tmp_path / "bad.py").write_text(
        "def loss(student, teacher, labels):\n    return student['logits'].sum() * float('nan')\n"
    )
    tuned = run(*student_and_teacher(), Images(), loss=f"{tmp_path / 'bad.py'}:loss")
    assert tuned.origin == "the loss itself, of outputs that are finite"


def test_a_gradient_that_overflows_is_told_before_it_spoils_the_parameters(tmp_path) -> None:
    (tmp_path / "steep.py").write_text(
        "def loss(student, teacher, labels):\n"
        "    noise = (student['logits'] - teacher['logits']).square().mean()\n"
        "    return (noise + 1e-30).log() * 0 + (noise * 0).sqrt()\n"
    )
    student, teacher = student_and_teacher()
    tuned = run(student, teacher, Images(), loss=f"{tmp_path / 'steep.py'}:loss")
    assert tuned.history[-1].step == 1
    assert tuned.history[-1].loss == 0
    assert tuned.origin is not None
    assert tuned.origin.startswith("the gradient of 'head_")
    assert all(bool(torch.isfinite(value).all()) for value in student.parameters())


def test_validations_without_a_gain_end_the_run_when_patience_is_over() -> None:
    student, teacher = student_and_teacher()
    config = FinetuneConfig(steps=40, lr=1e-12, scale_lr=1e-12, validate_every=2, patience=3)
    tuned = finetune(student, teacher, Images(), config=config)
    judged = [record for record in tuned.history if record.validation is not None]
    best = max(index for index, record in enumerate(judged) if record.is_best)
    assert tuned.stopped == "early"
    assert len(judged) == best + 1 + 3
    assert tuned.history[-1].step < 40

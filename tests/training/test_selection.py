"""Selective training: what is frozen keeps its bits and gets no gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxqat.bridge import OnnxModule
from onnxqat.core.errors import ConfigError
from onnxqat.training import FinetuneConfig, SensitivityConfig, finetune, sensitivity
from tests.support.students import Images, student_and_teacher, values_of

DATA = Images(samples=64)
STEM, INNER, HEAD = "/stem/Conv", "/inner/Conv", "/logits/Gemm"


def trained(**choice: object) -> tuple[OnnxModule, set[str]]:
    """The student after ten steps, and the names of what is not what it was."""
    student, teacher = student_and_teacher()
    before = values_of(student)
    config = FinetuneConfig(steps=10, validate_every=10, threads=1, **choice)
    tuned = finetune(student, teacher, DATA, config=config)
    after = values_of(tuned.module)
    assert tuned.best_step == 10, "the steps gain nothing, so that nothing can be told by them"
    return student, {name for name in before if not np.array_equal(before[name], after[name])}


def test_everything_trains_unless_something_else_is_said() -> None:
    _, changed = trained()
    assert changed >= {"stem_w", "stem_b", "inner_w", "head_w", "head_b", "image_scale"}


def test_what_a_pattern_freezes_keeps_its_bits() -> None:
    student, changed = trained(freeze=("/stem/.*", "head_w"))
    assert not changed & {"stem_w", "stem_b", "stem_w_scale", "image_scale", "head_w"}
    assert changed >= {"inner_w", "inner_b", "head_b"}
    assert not any(x.requires_grad for x in frozen_of(student, "stem_w", "stem_b", "head_w"))


def test_only_what_matches_trains() -> None:
    _, changed = trained(train_only=("/inner/.*",))
    assert changed >= {"inner_w", "inner_b"}
    assert changed <= {"inner_w", "inner_b", "inner_w_scale", "stem_out_scale"}


def test_a_shared_tensor_trains_for_one_of_its_readers() -> None:
    """`stem_out` is read by /inner/Conv and, on the shortcut, by /sum/Add."""
    _, changed = trained(freeze=("/sum/Add",))
    assert "stem_out_scale" in changed
    _, changed = trained(freeze=("/sum/Add", "/inner/Conv"))
    assert "stem_out_scale" not in changed


def frozen_of(student: OnnxModule, *names: str) -> list[torch.nn.Parameter]:
    by_name = {student.onnx_name(name): x for name, x in student.named_parameters()}
    return [by_name[name] for name in names]


@pytest.mark.parametrize(
    ("spoilt", "weight"), [("stem_w", "stem_w"), ("head_w", "head_w"), ("flat", "head_w")]
)
def test_the_layer_that_makes_most_of_the_error_trains(spoilt: str, weight: str) -> None:
    student, teacher = student_and_teacher()
    with torch.no_grad():
        student.quantizers[spoilt].scale.mul_(300.0)  # every code is 0
    before = values_of(student)
    config = FinetuneConfig(steps=3, validate_every=3, train="sensitive", train_share=0.001)
    weights = {"stem_w", "inner_w", "head_w"}

    finetune(student, teacher, DATA, config=config)

    learning = {name for name in weights if frozen_of(student, name)[0].requires_grad}
    assert learning == {weight}
    after = values_of(student)
    assert all(np.array_equal(before[name], after[name]) for name in weights - {weight})


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_no_more_than_the_share_of_the_weights_trains(share: float) -> None:
    student, teacher = student_and_teacher()
    config = FinetuneConfig(steps=1, train="sensitive", train_share=share)

    finetune(student, teacher, DATA, config=config)

    sizes = {x: frozen_of(student, x)[0] for x in ("stem_w", "inner_w", "head_w")}
    learning = sum(x.numel() for x in sizes.values() if x.requires_grad)
    assert 0 < learning <= share * sum(x.numel() for x in sizes.values())


def test_a_node_s_part_of_the_error_is_that_of_its_data_and_weights() -> None:
    config = SensitivityConfig(samples=16, leave_one_out=False)
    found = sensitivity(*student_and_teacher(), DATA, config=config)
    shares = {one.name: one.share for one in found.quantizers}
    assert found.of_node(HEAD) == pytest.approx(shares["flat"] + shares["head_w"])
    assert found.of_node("/no/such") == 0


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        ({"freeze": ("/nowhere/.*",)}, "matches no node"),
        ({"train_only": ("(",)}, "no regular expression"),
        ({"freeze": (".*",)}, "nothing is left to train"),
    ],
)
def test_a_choice_that_cannot_be_meant_is_refused(
    choice: dict[str, tuple[str, ...]], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        finetune(*student_and_teacher(), DATA, config=FinetuneConfig(steps=1, **choice))


def test_the_share_must_be_one() -> None:
    with pytest.raises(ConfigError, match="train_share"):
        FinetuneConfig(train_share=0.0)

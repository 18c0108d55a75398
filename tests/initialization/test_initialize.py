"""`initialize`: stages in order, each judged on samples that none learns from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from onnxqat.bridge import to_torch, write_back
from onnxqat.core.errors import ConfigError
from onnxqat.initialization import STAGES, Context, InitializationConfig, initialize
from tests.support.students import Images, sqnr_db, student_and_teacher, values_of

CONFIG = {"samples": 64, "batch_size": 8, "threads": 1}


@pytest.fixture
def stages(monkeypatch):
    """A table of stages that only do what a test wants."""
    for name in tuple(STAGES):
        monkeypatch.delitem(STAGES, name)
    return lambda **wanted: [monkeypatch.setitem(STAGES, *item) for item in wanted.items()]


@torch.no_grad()
def add_to_biases(context: Context, amount: float) -> None:
    context.student.head_b.add_(amount)


def nothing(context: Context) -> None:
    pass


def test_a_stage_that_makes_the_outputs_worse_is_undone_to_the_bit(stages):
    student, teacher = student_and_teacher()
    before = values_of(student)
    stages(spoil=lambda context: add_to_biases(context, 3.0))
    config = InitializationConfig(stages=("spoil",), **CONFIG)
    (gain,) = initialize(student, teacher, Images(), config=config)
    assert not gain.kept
    assert gain.after_db < gain.before_db
    assert all(np.array_equal(before[name], value) for name, value in values_of(student).items())


def test_a_stage_that_makes_them_no_number_is_undone(stages):
    student, teacher = student_and_teacher()
    stages(spoil=lambda context: add_to_biases(context, math.nan))
    config = InitializationConfig(stages=("spoil",), **CONFIG)
    (gain,) = initialize(student, teacher, Images(), config=config)
    assert (gain.kept, gain.after_db) == (False, -math.inf)
    assert torch.isfinite(student.head_b).all()


def test_a_stage_that_helps_is_kept_and_the_next_begins_there(stages):
    student, teacher = student_and_teacher()
    with torch.no_grad():
        student.head_b.add_(3.0)
    spoiled = sqnr_db(student, teacher, Images())
    stages(mend=lambda context: add_to_biases(context, -3.0), idle=nothing)
    config = InitializationConfig(stages=("mend", "idle"), **CONFIG)
    mended, idle = initialize(student, teacher, Images(), config=config)
    assert mended.kept
    assert mended.before_db == pytest.approx(spoiled, abs=0.5), "other samples, the same error"
    assert idle.before_db == idle.after_db == mended.after_db
    assert sqnr_db(student, teacher, Images()) > spoiled + 20


def test_the_samples_that_judge_are_not_among_those_that_stages_see(stages):
    student, teacher = student_and_teacher()
    data, seen = Images(64), []
    stages(look=lambda context: seen.extend(b.inputs[0] for b in context.batches))
    initialize(student, teacher, data, config=InitializationConfig(stages=("look",), **CONFIG))
    known = {image.tobytes() for image in data.images}
    learned = {image.numpy().tobytes() for batch in seen for image in batch}
    assert learned < known
    assert len(learned) == 48, "a quarter of 64 judges"


def test_samples_of_their_own_to_judge_by_leave_all_to_the_stages(stages):
    student, teacher = student_and_teacher()
    seen = []
    stages(look=lambda context: seen.extend(batch.samples for batch in context.batches))
    initialize(
        student,
        teacher,
        Images(64),
        config=InitializationConfig(stages=("look",), **CONFIG),
        validation=Images(16, seed=2),
    )
    assert sum(seen) == 64


def test_an_unknown_stage_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match="unknown initialization stage 'magic'"):
        InitializationConfig(stages=("magic",))


def test_a_stage_of_the_float_model_cannot_come_after_one_of_the_quantized_model():
    with pytest.raises(ConfigError, match="smooth must come before"):
        InitializationConfig(stages=("bias_correction", "smooth"))


def test_models_of_other_inputs_are_refused():
    student, _ = student_and_teacher()
    _, teacher = student_and_teacher()
    teacher.input_names = ("other",)
    with pytest.raises(ConfigError, match="different input names"):
        initialize(student, teacher, Images(), config=InitializationConfig())


def test_each_gain_is_told_as_soon_as_it_is_known(stages):
    student, teacher = student_and_teacher()
    stages(idle=nothing)
    told = []
    config = InitializationConfig(stages=("idle", "idle"), **CONFIG)
    gains = initialize(student, teacher, Images(), config=config, on_stage=told.append)
    assert tuple(told) == gains


def test_the_file_says_which_stages_were_kept(stages):
    student, teacher = student_and_teacher()
    stages(spoil=lambda context: add_to_biases(context, 3.0), idle=nothing)
    config = InitializationConfig(stages=("idle", "spoil", "idle"), **CONFIG)
    initialize(student, teacher, Images(), config=config)
    assert write_back(student).metadata["onnxqat.initialization"] == "idle,idle"
    again = to_torch(write_back(student))
    initialize(again, teacher, Images(), config=InitializationConfig(stages=("idle",), **CONFIG))
    assert write_back(again).metadata["onnxqat.initialization"] == "idle,idle,idle"

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from onnxqat.bridge import to_torch, write_back
from onnxqat.core.errors import ConfigError, TrainingError
from onnxqat.graph import save, structural_diff
from onnxqat.graph.insert import INITIALIZATION_KEY
from onnxqat.training import FinetuneConfig, StepRecord, finetune
from onnxqat.training.optimizer import (
    REBUILT,
    REBUILT_AVERAGE,
    RECOMMENDED,
    choose_average,
    choose_rates,
    is_rebuilt,
)
from onnxqat.training.targets import choose_targets, weight_bits
from tests.support.onnx_text import model_of
from tests.support.students import Images, sqnr_db, student_and_teacher, values_of

QUICK = FinetuneConfig(steps=20, batch_size=32, validate_every=5)
HELD_OUT = Images(samples=128, seed=2)


def is_scale(name: str) -> bool:
    return name.endswith("_scale")


@pytest.mark.parametrize("format_name", ["int8", "w4a8"])
def test_twenty_steps_without_labels_bring_the_outputs_nearer_on_unseen_data(format_name) -> None:
    student, teacher = student_and_teacher(format_name)
    unseen = Images(samples=256, seed=3)
    before = sqnr_db(student, teacher, unseen)
    tuned = finetune(student, teacher, Images(labelled=False), config=QUICK, validation=HELD_OUT)
    assert sqnr_db(tuned.module, teacher, unseen) > before + 0.5
    assert tuned.stopped == "finished"


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_does_not() -> None:
    def train(seed: int) -> dict[str, np.ndarray]:
        student, teacher = student_and_teacher()
        config = replace(QUICK, seed=seed)
        return values_of(finetune(student, teacher, Images(), config=config).module)

    first, second, other = train(0), train(0), train(1)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_the_parameters_handed_out_are_those_of_the_best_validation() -> None:
    student, teacher = student_and_teacher()
    seen: dict[int, dict[str, np.ndarray]] = {}

    def keep(record: StepRecord) -> None:
        if record.validation is not None:
            seen[record.step] = values_of(student)

    config = replace(QUICK, lr=0.05, warmup=0.0)
    tuned = finetune(
        student, teacher, Images(), config=config, validation=HELD_OUT, on_progress=keep
    )
    judged = {r.step: r.validation.loss for r in tuned.history if r.validation is not None}
    assert tuned.best_step == min(judged, key=lambda step: judged[step])
    best = values_of(tuned.module)
    assert all(np.array_equal(best[name], seen[tuned.best_step][name]) for name in best)


def test_training_that_only_harms_hands_out_the_start_unchanged() -> None:
    student, teacher = student_and_teacher()
    before = values_of(student)
    last_only = 20  # no validation before it, so no step back either
    config = replace(QUICK, lr=5.0, scale_lr=1.0, clip_grad=None, validate_every=last_only)
    tuned = finetune(student, teacher, Images(), config=config, validation=HELD_OUT)
    after = values_of(tuned.module)
    assert tuned.best_step == 0
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_after_a_setback_it_goes_on_from_the_best_in_shorter_steps() -> None:
    student, teacher = student_and_teacher()
    config = FinetuneConfig(steps=6, lr=5.0, validate_every=1, warmup=0.0, batch_size=8)
    history = finetune(student, teacher, Images(samples=16), config=config).history
    losses = [record.validation.loss for record in history if record.validation is not None]
    assert losses[1] > 4 * losses[0], "the rate is meant to be far too large"
    assert history[2].lr < 0.3 * history[1].lr


def test_ctrl_c_hands_out_the_best_so_far() -> None:
    student, teacher = student_and_teacher()
    at_best: dict[str, np.ndarray] = {}

    def interrupt(record: StepRecord) -> None:
        if record.is_best:
            at_best.update(values_of(student))
        if record.step == 12:
            raise KeyboardInterrupt

    tuned = finetune(
        student, teacher, Images(), config=QUICK, validation=HELD_OUT, on_progress=interrupt
    )
    after = values_of(tuned.module)
    assert tuned.stopped == "interrupted"
    assert tuned.best_step == max(r.step for r in tuned.history if r.is_best) > 0
    assert tuned.history[-1].step == 12
    assert all(np.array_equal(at_best[name], after[name]) for name in at_best)


def test_a_loss_that_is_no_number_ends_the_run_at_its_step_with_the_best_so_far(tmp_path) -> None:
    (tmp_path / "bad.py").write_text(
        "calls = []\n"
        "def loss(student, teacher, labels):\n"
        "    calls.append(1)\n"
        "    factor = float('nan') if len(calls) == 8 else 1.0\n"
        "    return factor * (student['logits'] - teacher['logits']).square().mean()\n"
    )
    student, teacher = student_and_teacher()
    # One call a validation (steps 0 and 5; 32 samples are one batch) and one a step.
    config = replace(QUICK, loss=f"{tmp_path / 'bad.py'}:loss", validation_samples=32)
    tuned = finetune(student, teacher, Images(), config=config, validation=HELD_OUT)
    assert tuned.stopped == "non-finite"
    assert tuned.best_step == 5
    assert tuned.history[-1].step == 6
    assert math.isnan(tuned.history[-1].loss)
    assert all(np.isfinite(values).all() for values in values_of(tuned.module).values())


def test_frozen_scales_stay_and_learned_ones_move_and_stay_positive() -> None:
    def moved(**choice: str) -> set[str]:
        student, teacher = student_and_teacher()
        before = values_of(student)
        after = values_of(
            finetune(student, teacher, Images(), config=replace(QUICK, **choice)).module
        )
        assert all((after[name] > 0).all() for name in after if is_scale(name))
        return {n for n in before if is_scale(n) and not np.array_equal(before[n], after[n])}

    assert moved(scales="frozen", weight_scales="frozen") == set()
    learned = moved(scales="learned", weight_scales="frozen")
    weights = {"stem_w_scale", "inner_w_scale", "head_w_scale"}
    assert learned
    assert not learned & weights
    assert moved(scales="frozen", weight_scales="learned") == weights
    assert moved(scales="frozen", weight_scales="recomputed") == weights


def test_recomputed_weight_scales_are_amax_over_qmax_in_the_file(tmp_path: Path) -> None:
    student, teacher = student_and_teacher()
    tuned = finetune(student, teacher, Images(), config=replace(QUICK, weight_scales="recomputed"))
    save(write_back(tuned.module), tmp_path / "qat.onnx")
    stored = onnx.load(tmp_path / "qat.onnx").graph.initializer
    values = {entry.name: numpy_helper.to_array(entry) for entry in stored}
    for name in ("stem_w", "inner_w", "head_w"):
        amax = np.abs(values[name]).reshape(len(values[name]), -1).max(axis=1)
        np.testing.assert_array_equal(values[f"{name}_scale"], amax / np.float32(127))


def test_only_values_of_initializers_change() -> None:
    student, teacher = student_and_teacher()
    before = student.graph
    after = write_back(finetune(student, teacher, Images(), config=QUICK).module)
    assert all("value" in line for line in structural_diff(before, after))


def test_every_step_is_reported_in_order_with_the_start_first() -> None:
    student, teacher = student_and_teacher()
    seen: list[StepRecord] = []
    tuned = finetune(student, teacher, Images(), config=QUICK, on_progress=seen.append)
    assert tuned.history == tuple(seen)
    assert [record.step for record in seen] == list(range(21))
    assert [r.step for r in seen if r.validation is not None] == [0, 5, 10, 15, 20]
    assert seen[0].loss is None
    assert all(record.steps == 20 for record in seen)


def test_the_validation_of_the_start_is_what_the_outputs_say() -> None:
    student, teacher = student_and_teacher()
    expected = sqnr_db(student, teacher, HELD_OUT)
    tuned = finetune(student, teacher, Images(), config=QUICK, validation=HELD_OUT)
    start = tuned.history[0].validation
    assert start is not None
    assert start.sqnr_db == pytest.approx(expected, abs=1e-3)
    assert start.samples == 128
    assert 0 <= start.top1 <= 1
    assert 0.9 <= start.agreement <= 1


def test_a_model_with_a_fixed_batch_of_one_accumulates_up_to_the_batch_size() -> None:
    def train(data: Images) -> dict[str, np.ndarray]:
        student, teacher = student_and_teacher()
        config = FinetuneConfig(steps=2, batch_size=8, weight_scales="frozen", scales="frozen")
        return values_of(finetune(student, teacher, data, config=config).module)

    whole, one_by_one = train(Images(samples=8)), train(Images(samples=8, fixed=1))
    for name in whole:
        np.testing.assert_allclose(one_by_one[name], whole[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", ["kl", "labels", "mse+0.1*labels"])
def test_each_loss_trains(loss: str) -> None:
    student, teacher = student_and_teacher("w4a8")
    tuned = finetune(student, teacher, Images(), config=replace(QUICK, loss=loss))
    assert tuned.best_step > 0


def test_sgd_trains() -> None:
    student, teacher = student_and_teacher("w4a8")
    tuned = finetune(student, teacher, Images(), config=replace(QUICK, optimizer="sgd"))
    assert tuned.best_step > 0


def test_a_teacher_of_another_model_is_refused() -> None:
    student, _ = student_and_teacher()
    stranger = to_torch(model_of("g (float[1, 2] a) => (float[1, 2] b) { b = Relu (a) }"))
    with pytest.raises(ConfigError, match="different input names"):
        finetune(student, stranger, Images(), config=QUICK)


def test_a_model_without_weights_is_refused() -> None:
    text = "g (float[n, 3, 8, 8] image) => (float[n, 3, 8, 8] b) { b = Relu (image) }"
    with pytest.raises(TrainingError, match="no weight"):
        finetune(to_torch(model_of(text)), to_torch(model_of(text)), Images(), config=QUICK)


def test_a_teacher_whose_output_is_not_finite_is_named() -> None:
    text = "g (float[n, 3, 8, 8] image) => (float[n, 3, 8, 8] b) { b = Log (image) }"
    with pytest.raises(TrainingError, match="tensor 'b'"):
        finetune(to_torch(model_of(text)), to_torch(model_of(text)), Images(), config=QUICK)


def test_labels_that_are_asked_for_and_missing_are_said() -> None:
    student, teacher = student_and_teacher()
    with pytest.raises(ConfigError, match="data has none"):
        finetune(student, teacher, Images(labelled=False), config=replace(QUICK, loss="labels"))


def test_the_threads_asked_for_compute_and_afterwards_as_many_as_before() -> None:
    student, teacher = student_and_teacher()
    before = torch.get_num_threads()
    seen = []
    config = replace(QUICK, steps=1, threads=before + 1)
    finetune(
        student,
        teacher,
        Images(),
        config=config,
        on_progress=lambda _: seen.append(torch.get_num_threads()),
    )
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_scales_are_learned_but_of_fp8_where_they_would_only_move_roundings_about() -> None:
    def learned(format_name: str, **chosen: str) -> set[bool]:
        student, _ = student_and_teacher(format_name)
        choose_targets(student, replace(QUICK, **chosen))
        return {quantizer.learn_scale for quantizer in student.quantizers.values()}

    assert True in learned("int8")
    assert learned("fp8") == {False}
    assert learned("fp8", scales="learned", weight_scales="learned") == {True}


@pytest.mark.parametrize(
    ("format_name", "bits"), [("int8", 8), ("w4a8", 4), ("fp8", 8), ("w4a4", 4)]
)
def test_the_rates_are_those_recommended_for_the_bits_of_the_weights(format_name, bits) -> None:
    student, _ = student_and_teacher(format_name)
    assert weight_bits(student) == bits
    assert choose_rates(FinetuneConfig(), bits=weight_bits(student)) == RECOMMENDED[bits]


def test_a_model_that_a_stage_has_trained_moves_less() -> None:
    student, _ = student_and_teacher("w4a8")
    assert not is_rebuilt(student)
    student.notes[INITIALIZATION_KEY] = "bias_correction,brecq"
    assert is_rebuilt(student)
    assert is_rebuilt(to_torch(write_back(student)))
    rates = choose_rates(FinetuneConfig(), bits=4, rebuilt=True)
    assert (rates.weight, rates.scale) == (REBUILT.weight, REBUILT.scale)


def test_a_model_that_a_stage_has_trained_is_averaged_unless_the_user_says_otherwise() -> None:
    chosen = {
        (average, rebuilt): choose_average(FinetuneConfig(average=average), rebuilt=rebuilt)
        for average in (None, 0.0, 0.9)
        for rebuilt in (False, True)
    }
    assert chosen[None, True] == REBUILT_AVERAGE
    assert chosen[None, False] is chosen[0.0, True] is chosen[0.0, False] is None
    assert chosen[0.9, True] == chosen[0.9, False] == 0.9


def test_a_rate_of_the_users_moves_the_others_in_the_recommended_ratio() -> None:
    recommended = RECOMMENDED[8]
    rates = choose_rates(FinetuneConfig(lr=2 * recommended.weight), bits=8)
    assert rates.weight_scale == pytest.approx(2 * recommended.weight_scale)
    assert rates.bias == pytest.approx(2 * recommended.bias)


def test_at_first_only_the_scales_train_where_that_is_asked_for() -> None:
    student, teacher = student_and_teacher("w4a8")
    seen: dict[int, dict[str, np.ndarray]] = {}
    config = replace(QUICK, steps=10, scales_first=0.5, validate_every=10)

    def keep(record: StepRecord) -> None:
        seen[record.step] = values_of(student)

    finetune(student, teacher, Images(), config=config, on_progress=keep)

    def moved(first: int, last: int) -> set[bool]:
        before, after = seen[first], seen[last]
        return {is_scale(n) for n in before if not np.array_equal(before[n], after[n])}

    assert moved(0, 5) == {True}
    assert moved(5, 6) == {True, False}


def test_the_average_handed_out_is_that_of_the_steps() -> None:
    student, teacher = student_and_teacher()
    name, seen = "inner_b", []
    config = replace(QUICK, steps=12, average=0.5, validate_every=12, lr=0.02)
    start = values_of(student)[name]

    def keep(record: StepRecord) -> None:
        seen.append(values_of(student)[name])

    tuned = finetune(student, teacher, Images(), config=config, on_progress=keep)
    expected = start.astype(np.float64)
    for step, value in enumerate(seen[1:], start=1):
        keeping = min(0.5, step / (step + 9))
        expected = keeping * expected + (1 - keeping) * value
    handed_out = values_of(tuned.module)[name]
    assert tuned.best_step == 12
    np.testing.assert_allclose(handed_out, expected, rtol=1e-5, atol=1e-7)
    assert not np.array_equal(handed_out, seen[-1])


def test_half_precision_trains_what_full_precision_trains_but_for_rounding() -> None:
    def train(precision: str) -> dict[str, np.ndarray]:
        student, teacher = student_and_teacher("w4a8")
        config = replace(QUICK, precision=precision)
        tuned = finetune(student, teacher, Images(), config=config, validation=HELD_OUT)
        assert tuned.best_step > 0
        return values_of(tuned.module)

    full, half = train("float32"), train("bfloat16")
    assert all(values.dtype == np.float32 for values in half.values())
    assert not all(np.array_equal(full[name], half[name]) for name in full)

import math

import pytest
import torch

from onnxqat.core.errors import ConfigError, TrainingError
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.losses import (
    OutputFacts,
    cross_entropy,
    kl,
    mse,
    observe_outputs,
    parse_terms,
    scores_name,
)
from onnxqat.training.terms import Compared, make_loss, users_loss

LOGITS = {"y": OutputFacts(variance=4.0, is_probability=False)}
PROBABILITIES = {"y": OutputFacts(variance=0.25, is_probability=True)}


def y(*rows: list[float]) -> dict[str, torch.Tensor]:
    return {"y": torch.tensor(rows)}


def test_mse_is_the_mean_square_over_the_teachers_variance() -> None:
    loss = mse(LOGITS)(y([1.0, 2.0], [3.0, 4.0]), y([1.0, 0.0], [3.0, 2.0]), None)
    assert float(loss) == pytest.approx((0 + 4 + 0 + 4) / 4 / 4.0)


def test_each_output_of_several_counts_by_its_own_variance() -> None:
    facts = {"small": OutputFacts(0.01, False), "large": OutputFacts(100.0, False)}
    student = {"small": torch.tensor([0.1]), "large": torch.tensor([10.0])}
    teacher = {"small": torch.tensor([0.0]), "large": torch.tensor([0.0])}
    assert float(mse(facts)(student, teacher, None)) == pytest.approx((0.01 / 0.01 + 1.0) / 2)


def test_a_constant_output_is_compared_in_its_own_unit() -> None:
    facts = {"y": OutputFacts(0.0, False)}
    assert float(mse(facts)(y([2.0]), y([0.0]), None)) == 4.0


def test_kl_is_the_textbook_sum_over_classes() -> None:
    student, teacher = y([0.0, 0.0]), y([math.log(3.0), 0.0])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(kl(LOGITS, temperature=1.0)(student, teacher, None)) == pytest.approx(expected)


def test_kl_at_a_temperature_softens_both_sides_and_keeps_the_gradients_size() -> None:
    student, teacher = y([0.0, 0.0]), y([2 * math.log(3.0), 0.0])
    expected = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert float(kl(LOGITS, temperature=2.0)(student, teacher, None)) == pytest.approx(expected)


def test_kl_takes_probabilities_as_probabilities() -> None:
    loss = kl(PROBABILITIES, temperature=1.0)(y([0.5, 0.5]), y([0.75, 0.25]), None)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(loss) == pytest.approx(expected)


def test_kl_of_a_segmentation_is_the_mean_over_its_pixels() -> None:
    student = {"y": torch.zeros(1, 2, 1, 2)}
    teacher = {"y": torch.tensor([math.log(3.0), 0.0, 0.0, 0.0]).reshape(1, 2, 1, 2)}
    expected = (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)) / 2
    assert float(kl(LOGITS, temperature=1.0)(student, teacher, None)) == pytest.approx(expected)


def test_cross_entropy_is_minus_the_log_of_the_right_classs_probability() -> None:
    logits = y([0.0, math.log(3.0)], [0.0, 0.0])
    loss = cross_entropy(LOGITS)(logits, logits, torch.tensor([1, 0], dtype=torch.uint8))
    assert float(loss) == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)


def test_cross_entropy_without_labels_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match='use loss = "mse" or "kl"'):
        cross_entropy(LOGITS)(y([0.0, 1.0]), y([0.0, 1.0]), None)


def test_observing_tells_variance_and_probabilities_and_leaves_out_integers() -> None:
    first = {"logits": torch.tensor([[1.0, 3.0]]), "p": torch.tensor([[0.5, 0.5]])}
    second = {"logits": torch.tensor([[5.0, 7.0]]), "p": torch.tensor([[0.0, 1.0]])}
    facts = observe_outputs([dict(batch, top=torch.tensor([1])) for batch in (first, second)])
    assert facts["logits"] == OutputFacts(variance=5.0, is_probability=False)
    assert facts["p"].is_probability
    assert "top" not in facts


def test_class_scores_are_the_first_output_of_rank_two_with_classes() -> None:
    facts = {name: OutputFacts(1.0, False) for name in ("boxes", "one", "scores")}
    outputs = {
        "boxes": torch.zeros(2, 10, 4),
        "one": torch.zeros(2, 1),
        "scores": torch.zeros(2, 5),
    }
    assert scores_name(facts, outputs) == "scores"


def test_terms_are_added_with_their_factors() -> None:
    assert parse_terms("mse + 0.1*labels") == ((1.0, "mse"), (0.1, "labels"))
    loss = make_loss(FinetuneConfig(loss="mse+0.5*kl"), Compared(LOGITS))
    student, teacher = y([0.0, 0.0]), y([math.log(3.0), 0.0])
    expected = mse(LOGITS)(student, teacher, None)
    expected = expected + 0.5 * kl(LOGITS, temperature=1.0)(student, teacher, None)
    assert float(loss(student, teacher, None)) == pytest.approx(float(expected))


@pytest.mark.parametrize("text", ["", "mse+", "x*mse", "-1*mse", "nan*mse", "mae", "mse+mea"])
def test_a_loss_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="loss"):
        make_loss(FinetuneConfig(loss=text), Compared(LOGITS))


def test_a_loss_of_the_users_own_comes_from_a_file(tmp_path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def mae(student, teacher, labels):\n"
                    "    return (student['y'] - teacher['y']).abs().mean()\n")  # fmt: skip
    loss = make_loss(FinetuneConfig(loss=f"{path}:mae"), Compared(LOGITS))
    assert float(loss(y([1.0, 2.0]), y([0.0, 0.0]), None)) == 1.5


@pytest.mark.parametrize("name", ["math:no_such", "no_such_module:f", "no_such.py:f"])
def test_a_loss_that_cannot_be_imported_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="no_such"):
        make_loss(FinetuneConfig(loss=name), Compared(LOGITS))


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        (lambda student: student["y"], r"returns shape \[1, 2\]"),
        (lambda student: 1.0, "returns float"),
        (lambda student: student["y"].detach().sum(), "does not depend on the student"),
        (lambda student: student["z"], "failed: KeyError: 'z'"),
    ],
)
def test_a_users_loss_that_is_no_loss_is_told_by_its_name(returned, complaint) -> None:
    student = {"y": torch.tensor([[1.0, 2.0]], requires_grad=True)}
    loss = users_loss(lambda student, teacher, labels: returned(student), "mine.py:loss")
    with pytest.raises(TrainingError, match=f"'mine.py:loss' {complaint}"):
        loss(student, student, None)


def test_a_users_loss_of_one_element_becomes_a_number() -> None:
    student = {"y": torch.tensor([[1.0, 2.0]], requires_grad=True)}
    loss = users_loss(lambda s, t, labels: s["y"].sum(1), "mine.py:loss")
    assert loss(student, student, None).shape == ()

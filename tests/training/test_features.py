"""Distillation of inner tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from onnxqat.bridge import OnnxModule, to_torch
from onnxqat.core.errors import ConfigError, ModelError
from onnxqat.graph import as_graph, prepare
from onnxqat.graph.graph import Graph
from onnxqat.training import FinetuneConfig, StepRecord, finetune
from onnxqat.training.features import MOST_FOUND, find_features
from tests.support.nets import images
from tests.support.networks import convolutional, transformers
from tests.support.students import Images, student_and_teacher, values_of

CONFIG = FinetuneConfig(steps=20, batch_size=32, validate_every=20)
HELD_OUT = Images(samples=128, seed=2)
UNSEEN = images(64, seed=9)


def found_in(graph: Graph, *wanted: str) -> list[str]:
    """The operators that make the features of a graph that is its own teacher."""
    makers = {tensor.name: node.op for node in graph.nodes for tensor in node.outputs}
    return [makers[name] for name in find_features(graph, graph, wanted)]


def test_of_a_resnet_the_sums_of_its_blocks_are_found() -> None:
    assert found_in(prepare(as_graph(convolutional.resnet18(32)))) == ["Add"] * 8


def test_of_a_transformer_the_sums_of_its_blocks_are_found() -> None:
    found = found_in(prepare(as_graph(transformers.vit(blocks=3, tokens=8, heads=1))))
    assert found == ["Add"] * 5  # the sixth is the output itself


def test_of_a_chain_the_layers_are_found() -> None:
    found = found_in(prepare(as_graph(convolutional.mobilenet_v1(32))))
    assert set(found) == {"Conv"}
    assert len(found) == 7


def test_of_many_some_are_taken_up_to_the_last_one() -> None:
    graph = prepare(as_graph(transformers.vit(blocks=12, tokens=8, heads=1)))
    whole = find_features(graph, graph, ())
    assert len(whole) == MOST_FOUND
    makers = {tensor.name: node for node in graph.nodes for tensor in node.outputs}
    last = [node for node in graph.nodes if node.op == "Softmax"][-1]
    assert graph.nodes.index(makers[whole[-1]]) > graph.nodes.index(last)


def test_tensors_are_named_or_matched_and_come_in_node_order() -> None:
    graph = prepare(as_graph(convolutional.resnet18(32)))
    assert find_features(graph, graph, ("Relu_[0-9]_out", "Conv_0_out")) == (
        "Conv_0_out",
        *(n.outputs[0].name for n in graph.nodes if n.op == "Relu" and len(n.name) == 6),
    )


@pytest.mark.parametrize("name", ["nowhere", "Rel", "[", "logits"])
def test_a_name_that_matches_nothing_inside_is_refused(name) -> None:
    student, teacher = student_and_teacher()
    with pytest.raises(ConfigError, match="no tensor that both models compute"):
        finetune(
            student, teacher, Images(), config=replace(CONFIG, loss="features", features=(name,))
        )


def test_features_that_no_term_looks_at_are_refused() -> None:
    student, teacher = student_and_teacher()
    with pytest.raises(ConfigError, match="no term of the loss looks at them"):
        finetune(student, teacher, Images(), config=replace(CONFIG, features=("stem",)))


@torch.no_grad()
def error_at(name: str, student: OnnxModule, teacher: OnnxModule, x=UNSEEN, relative=True) -> float:
    """Squared error of an inner tensor, if relative over its variance."""
    ours, theirs = (m.with_outputs([name])(torch.from_numpy(x))[-1] for m in (student, teacher))
    error = (ours - theirs).square().mean()
    return float(error / theirs.var() if relative else error)


def test_compared_inner_tensors_come_nearer_than_where_only_the_outputs_are_compared() -> None:
    def error_after(loss: str, steps: int = 60) -> float:
        student, teacher = student_and_teacher("w4a8")
        (name,) = find_features(student.graph, teacher.graph, ())
        errors = []

        def look(record: StepRecord) -> None:
            if record.validation is None:  # which may put back what helps no output
                errors.append(error_at(name, student, teacher))

        config = replace(CONFIG, loss=loss, steps=steps, validate_every=steps)
        finetune(student, teacher, Images(), config=config, validation=HELD_OUT, on_progress=look)
        return errors[-1]

    assert error_after("features") < error_after("mse") < error_after("mse", steps=2)


def test_the_best_step_is_chosen_by_the_outputs() -> None:
    def first(loss: str) -> float:
        student, teacher = student_and_teacher("w4a8")
        config = replace(CONFIG, loss=loss, steps=1)
        history = finetune(student, teacher, Images(), config=config, validation=HELD_OUT).history
        assert history[0].validation is not None
        return history[0].validation.loss

    assert first("mse") == first("mse+3*features") == first("features")


def test_the_features_count_by_their_factor() -> None:
    def loss(terms: str) -> float:
        student, teacher = student_and_teacher("w4a8")
        config = replace(CONFIG, loss=terms, steps=1)
        history = finetune(student, teacher, Images(), config=config, validation=HELD_OUT).history
        assert history[1].loss is not None
        return history[1].loss

    outputs, both = loss("mse"), loss("mse+3*features")
    assert both == pytest.approx(outputs + 3 * loss("features"), rel=1e-5)


def test_a_loss_of_the_users_sees_the_features_by_name(tmp_path) -> None:
    (tmp_path / "own.py").write_text(
        "def loss(student, teacher, labels):\n"
        "    return (student['stem'] - teacher['stem']).square().mean()\n"
    )
    student, teacher = student_and_teacher("w4a8")
    config = replace(CONFIG, loss=f"{tmp_path / 'own.py'}:loss", features=("stem",))
    expected = error_at("stem", student, teacher, images(128, seed=2), relative=False)
    history = finetune(student, teacher, Images(), config=config, validation=HELD_OUT).history
    assert history[0].validation is not None
    assert history[0].validation.loss == pytest.approx(expected, rel=1e-4)


def test_views_return_inner_tensors_and_share_the_parameters() -> None:
    student, _ = student_and_teacher()
    view = student.with_outputs(["stem"])
    x = torch.from_numpy(images(4))
    logits, stem = view(x)
    assert torch.equal(logits, student(x))
    walked = {name: value for _, name, value in to_torch(student.graph).walk(x)}
    torch.testing.assert_close(stem, walked["stem"])
    with torch.no_grad():
        next(iter(student.parameters())).mul_(1.5)
    assert torch.equal(view(x)[0], student(x))
    assert values_of(student).keys() == values_of(view).keys()


def test_a_view_of_a_tensor_that_is_not_there_is_refused() -> None:
    student, _ = student_and_teacher()
    with pytest.raises(ModelError, match="computes no such tensor"):
        student.with_outputs(["nowhere"])


def test_compared_relus_get_their_names_gradients() -> None:
    """A Relu that is one with its quantizer in the student is apart from it in the view."""
    student, _ = student_and_teacher()
    relu = next(node for node in student.graph.nodes if node.op == "Relu")
    view = student.with_outputs([relu.outputs[0].name])
    *_, value = view(torch.from_numpy(images(2)))
    value.sum().backward()
    grads = [p.grad for p in student.parameters() if p.grad is not None]
    assert grads
    assert any(np.any(grad.numpy()) for grad in grads)

"""The torch module of a graph: names, state, copies, host arithmetic, subgraphs, errors."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper, parser

from onnxqat.bridge import to_torch
from onnxqat.core.errors import ModelError, UnsupportedOpError
from tests.support.bridge import Array, assert_agrees, runtime, torch_outputs
from tests.support.nets import images, residual_net


def model_of(text: str, **weights: Array) -> onnx.ModelProto:
    """A model in ONNX text syntax, with more initializers, its nodes named by their outputs."""
    model = parser.parse_model(text)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def random(*shape: int, seed: int = 0) -> Array:
    values: Array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values


DYNAMIC_FLATTEN = """
<ir_version: 8, opset_import: ["" : 17]>
flatten (float[batch, c, h, w] x) => (float[batch, n] y, int64[4] s)
<int64 zero = {0}, int64 one = {1}, int64[1] first = {0}, int64[1] rest = {-1}>
{
    [shape] s = Shape (x)
    [batch] b = Gather <axis = 0> (s, zero)
    [channels] c1 = Gather <axis = 0> (s, one)
    [twice] c2 = Add (c1, c1)
    [back] c3 = Sub (c2, c1)
    [wide] b1 = Unsqueeze (b, first)
    [channels1] c4 = Unsqueeze (c3, first)
    [sizes] sizes = Concat <axis = 0> (b1, c4, rest)
    [folded] folded = Reshape (x, sizes)
    [sum] summed = ReduceSum (folded, rest)
    [flat] y = Squeeze (summed, rest)
}
"""


def test_parameters_and_buffers_are_the_float_initializers_by_name() -> None:
    module = to_torch(residual_net())
    assert sorted(module.state_dict()) == sorted(
        ["stem_w", "stem_b", "inner_w", "inner_b", "head_w", "head_b"]
    )
    assert module.onnx_name("stem_w") == "stem_w"
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_constant_of_a_formula_is_no_parameter() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    formula (float[n, 4] x) => (float[n, 4] y) <float half = {0.5}, float e = {2.0}>
    {
        a = Mul (x, half)
        b = Pow (a, e)
        c = Add (b, bias)
        y = Add (c, mask)
    }
    """
    mask = np.array([0, -np.inf, 0, 0], np.float32)
    module = to_torch(model_of(text, bias=random(4), mask=mask))
    assert [name for name, _ in module.named_parameters()] == ["bias"]


def test_weights_that_are_reshaped_on_their_way_are_parameters() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    moved (float[n, 6] x) => (float[n, 4] y) <int64[2] shape = {6, 4}>
    {
        w1 = Reshape (w, shape)
        y = MatMul (x, w1)
    }
    """
    module = to_torch(model_of(text, w=random(4, 6)))
    module(torch.from_numpy(random(2, 6))).sum().backward()
    assert module.get_tensor("w").grad is not None


def test_running_statistics_are_buffers_of_the_state() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    norm (float[n, 3, h, w] x) => (float[n, 3, h, w] y)
    { y = BatchNormalization (x, scale, shift, mean, variance) }
    """
    weights = {n: abs(random(3)) for n in ("scale", "shift", "mean", "variance")}
    module = to_torch(model_of(text, **weights))
    assert {name for name, _ in module.named_buffers()} == {"mean", "variance"}
    assert {name for name, _ in module.named_parameters()} == {"scale", "shift"}
    assert set(module.state_dict()) == set(weights)


def test_names_that_torch_forbids_come_back() -> None:
    model = residual_net()
    for initializer in model.graph.initializer:
        old, initializer.name = initializer.name, f"net.{initializer.name}"
        for node in model.graph.node:
            node.input[:] = [f"net.{old}" if i == old else i for i in node.input]
    module = to_torch(model)
    names = {module.onnx_name(key) for key in module.state_dict()}
    assert names == {initializer.name for initializer in model.graph.initializer}


def test_the_batch_is_dynamic() -> None:
    module = to_torch(residual_net())
    for batch in (1, 7):
        feeds = {"image": images(batch)}
        (want,) = runtime(residual_net(), feeds)
        np.testing.assert_allclose(torch_outputs(module, feeds)[0], want, atol=1e-5)


def test_several_outputs_come_as_a_tuple_in_graph_order() -> None:
    module = to_torch(model_of(DYNAMIC_FLATTEN))
    y, s = module(torch.ones(2, 3, 4, 5))
    assert module.output_names == ("y", "s")
    assert y.shape == (2, 3)
    assert s.tolist() == [2, 3, 4, 5]


def test_shape_arithmetic_agrees_with_onnx_runtime() -> None:
    for batch in (1, 4):
        assert_agrees(model_of(DYNAMIC_FLATTEN), {"x": random(batch, 3, 2, 5)})


def test_a_shape_may_index_data() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    rows (float[n, m] x, float[k, 3] table) => (float[n, 3] y)
    <int64 zero = {0}, int64 one = {1}>
    {
        s = Shape (x)
        n = Gather (s, zero)
        every = Range (zero, n, one)
        y = Gather (table, every)
    }
    """
    for n in (1, 3):
        assert_agrees(model_of(text), {"x": random(n, 2), "table": random(5, 3)})


@pytest.mark.parametrize("index", [np.array(1), np.array([1]), np.array([[2, -1]])])
def test_the_rank_of_an_index_shapes_the_result(index: Array) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    rows (float[4, 2] x) => (float[a, b] y) { y = Gather <axis = 0> (x, index) }
    """
    model = model_of(text, index=index)
    shape = [*index.shape, 2]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, shape))
    assert_agrees(model, {"x": random(4, 2)})


def test_a_condition_from_a_shape_of_one_element_decides() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    rows (float[n, 4] x) => (float[n, 4] y) <int64[1] three = {3}, int64[1] zero = {0}>
    {
        s = Shape (x)
        first = Gather (s, zero)
        is_three = Equal (first, three)
        y = If (is_three) <
            then_branch = yes () => (float[n, 4] t) { t = Neg (x) },
            else_branch = no () => (float[n, 4] e) { e = Abs (x) }
        >
    }
    """
    for n in (3, 4):
        assert_agrees(model_of(text), {"x": random(n, 4)})


@pytest.mark.parametrize("model", [DYNAMIC_FLATTEN, None], ids=["shapes", "net"])
def test_a_step_never_reads_from_the_device(model: str | None) -> None:
    """Tensors on the meta device have no values: reading one back would raise."""
    module = to_torch(residual_net() if model is None else model_of(model)).to("meta")
    shape = (5, 3, 8, 8)
    outputs = module(torch.empty(shape, device="meta"))
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    assert first.device.type == "meta"
    assert first.shape[0] == 5


def test_constants_are_folded_once() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    folded (float[n, 4] x) => (float[n, 4] y)
    <float[1, 4] a = {1.0, 2.0, 3.0, 4.0}, float two = {2.0}>
    {
        b = Pow (a, two)
        c = Sqrt (b)
        y = Div (x, c)
    }
    """
    module = to_torch(model_of(text))
    assert repr(module).count("\n") == 2  # the Div and the return
    assert_agrees(model_of(text), {"x": random(3, 4)})


def test_a_copy_is_independent_and_shares_the_graph() -> None:
    module = to_torch(residual_net())
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    x = torch.from_numpy(images(2))
    assert torch.count_nonzero(other(x)) == 0
    assert torch.count_nonzero(module(x)) > 0
    assert other.graph is module.graph


def test_the_state_goes_from_one_module_to_another() -> None:
    one, other = to_torch(residual_net(seed=1)), to_torch(residual_net(seed=2))
    other.load_state_dict(one.state_dict())
    x = torch.from_numpy(images(2))
    assert torch.equal(one(x), other(x))


def test_the_module_does_not_change_the_callers_model() -> None:
    model = residual_net()
    before = model.SerializeToString(deterministic=True)
    module = to_torch(model)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert model.SerializeToString(deterministic=True) == before
    assert np.array_equal(
        numpy_helper.to_array(model.graph.initializer[0]),
        module.sources["stem_w"][0].value,
    )


BRANCHES = """
<ir_version: 8, opset_import: ["" : 17]>
branches (float[n, 4] x, bool flag) => (float[n, m] y)
{
    h = Relu (x)
    [choice] y = If (flag) <
        then_branch = big () => (float[n, m] t) { t = MatMul (h, w) },
        else_branch = small () => (float[n, m] e)
        <float[4] k = {1.0, 2.0, 3.0, 4.0}> { e = Mul (h, k) }
    >
}
"""


@pytest.mark.parametrize("flag", [True, False])
def test_a_branch_sees_the_values_around_it(flag: bool) -> None:
    model = model_of(BRANCHES, w=random(4, 4))
    assert_agrees(model, {"x": random(3, 4), "flag": np.array(flag)})


def test_weights_inside_and_outside_of_a_branch_are_trained() -> None:
    module = to_torch(model_of(BRANCHES, w=random(4, 4)))
    assert {name for name, _ in module.named_parameters()} == {"w", "k"}
    x = torch.from_numpy(random(3, 4))
    module(x, torch.tensor(False)).sum().backward()
    assert module.get_tensor("k").grad is not None
    assert module.get_tensor("w").grad is None


def test_branches_may_use_a_name_twice() -> None:
    text = BRANCHES.replace("(h, w)", "(h, k)").replace(
        "then_branch = big () => (float[n, m] t)",
        "then_branch = big () => (float[n, m] t) <float[4] k = {5.0, 6.0, 7.0, 8.0}>",
    )
    text = text.replace("MatMul (h, k)", "Mul (h, k)")
    model = model_of(text)
    module = to_torch(model)
    assert {module.onnx_name(name) for name, _ in module.named_parameters()} == {"k"}
    assert len(list(module.parameters())) == 2
    for flag in (True, False):
        assert_agrees(model, {"x": random(3, 4), "flag": np.array(flag)})


def test_unknown_operators_are_listed_all_at_once_with_their_nodes() -> None:
    nodes = [
        helper.make_node("Foo", ["x"], ["a"], name="first_foo", domain="my.ops"),
        helper.make_node("Foo", ["a"], ["b"], name="second_foo", domain="my.ops"),
        helper.make_node("ImageDecoder", ["b"], ["y"], name="picture"),
    ]
    value = [helper.make_tensor_value_info(n, 1, [1]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "unknown", value[:1], value[1:])
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("my.ops", 1)]
    with pytest.raises(UnsupportedOpError) as caught:
        to_torch(helper.make_model(graph, opset_imports=domains, ir_version=8))
    message = str(caught.value)
    assert "my.ops.Foo" in message
    assert "'first_foo', 'second_foo'" in message
    assert "ImageDecoder since version 20 (have: none): 'picture'" in message
    assert "fix:" in message


def test_a_failure_names_the_node_the_operator_and_the_shapes() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    product (float[n, m] x) => (float[n, k] y) { [the_product] y = MatMul (x, w) }
    """
    module = to_torch(model_of(text, w=random(3, 2)))
    with pytest.raises(ModelError) as caught:
        module(torch.ones(2, 5))
    message = str(caught.value)
    assert "MatMul failed" in message
    assert "node 'the_product'" in message
    assert "[2, 5], [3, 2]" in message


def test_a_failure_in_a_branch_names_the_node_in_the_branch() -> None:
    module = to_torch(model_of(BRANCHES.replace("t = Mat", "[inner] t = Mat"), w=random(3, 4)))
    with pytest.raises(ModelError, match="node 'inner'"):
        module(torch.ones(2, 4), torch.tensor(True))


def test_a_failure_while_building_names_the_node() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    bad (float[n, 4] x) => (float[n, 4] y)
    <int64[2] a = {1, 2}, int64[3] b = {1, 2, 3}>
    {
        [impossible] c = Mul (a, b)
        y = Reshape (x, c)
    }
    """
    with pytest.raises(ModelError, match="node 'impossible'"):
        to_torch(model_of(text))


def test_an_array_is_told_before_an_operator_stumbles_over_it() -> None:
    module = to_torch(residual_net())
    with pytest.raises(ModelError, match="'image' is a NumPy array") as told:
        module(np.ones((1, 3, 8, 8), np.float32))
    assert "from_numpy" in str(told.value)


def test_a_wrong_number_of_inputs_is_told() -> None:
    module = to_torch(residual_net())
    with pytest.raises(ModelError, match="has 1 inputs, and 2 were given"):
        module(torch.ones(1), torch.ones(1))


def test_printing_shows_the_graph_by_node_names() -> None:
    text = str(to_torch(residual_net()))
    assert "/stem/Conv: Conv(image, stem_w, stem_b) -> stem" in text
    assert text.splitlines()[-1].strip() == "return logits"


def test_freed_tensors_do_not_outlive_their_last_use() -> None:
    """A chain of 50 Adds on 1 MB needs a few MB at a time, not 50."""
    lines = "\n".join(f"x{i + 1} = Add (x{i}, x{i})" for i in range(50))
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    chain (float[n] x0) => (float[n] x50) {{ {lines} }}
    """
    module = to_torch(model_of(text))
    with torch.no_grad(), _LiveBytes() as live:
        module(torch.zeros(1 << 18))
    assert live.most <= 4 << 20


class _LiveBytes(torch.utils._python_dispatch.TorchDispatchMode):
    """The most bytes that results of operators held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            size = result.untyped_storage().nbytes()
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(result, self._gone, size)
        return result

    def _gone(self, size: int) -> None:
        self.now -= size


def test_compiled_it_computes_the_same_for_every_batch() -> None:
    module = to_torch(residual_net())
    compiled = torch.compile(module, backend="eager", fullgraph=True, dynamic=True)
    for batch in (2, 5):
        x = torch.from_numpy(images(batch))
        torch.testing.assert_close(compiled(x), module(x))

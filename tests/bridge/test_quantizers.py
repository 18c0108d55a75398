"""Which Q/DQ pairs are fake quantizers, and what is said of those that are not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import parser

from onnxqat.bridge import to_torch
from tests.support.bridge import Array, assert_agrees
from tests.support.nets import images
from tests.support.students import student_and_teacher

PLAIN = "q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z)"
AS_WRITTEN = {
    "the scale 't' is computed in the graph": "a = Abs (x) m = ReduceMax <keepdims = 0> (a) "
    "t = Div (m, top) q = QuantizeLinear (x, t, z) y = DequantizeLinear (q, t, z)",
    "the scale 'negative' is not positive": "q = QuantizeLinear (x, negative, z) "
    "y = DequantizeLinear (q, negative, z)",
    "Q and DQ have different scales": "q = QuantizeLinear (x, s, z) "
    "y = DequantizeLinear (q, other, z)",
    "Q and DQ have different zero points": "q = QuantizeLinear (x, s, z) "
    "y = DequantizeLinear (q, s, one)",
    "Q and DQ have different axes": "q = QuantizeLinear <axis = 0> (x, three, zs) "
    "y = DequantizeLinear <axis = 1> (q, three, zs)",
    "the zero points differ from channel to channel, or are computed": "q = QuantizeLinear "
    "<axis = 1> (x, three, points) y = DequantizeLinear <axis = 1> (q, three, points)",
    "not only DQ reads the codes": "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) "
    "c = Cast <to = 1> (q) y = Add (c, d)",
}
"""What is said -> the nodes."""


def model_of(body: str, *, flag: str = "") -> onnx.ModelProto:
    model = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        net ({flag}float[3, 3] x) => (float[3, 3] y)
        <float s = {{0.1}}, float other = {{0.2}}, float negative = {{-0.1}}, float top = {{127.0}},
         float[3] three = {{0.1, 0.2, 0.3}}, int8 z = {{0}}, int8 one = {{1}},
         int8[3] zs = {{0, 0, 0}}, int8[3] points = {{0, 1, 2}}>
        {{ {body} }}""")
    for node in model.graph.node:
        node.name = node.name or f"the_{node.output[0]}"
    return model


def inputs() -> dict[str, Array]:
    return {"x": np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)}


@pytest.mark.parametrize(("reason", "body"), AS_WRITTEN.items(), ids=AS_WRITTEN)
def test_a_pair_that_runs_as_written_says_why_and_computes_what_onnx_runtime_does(
    reason: str, body: str
) -> None:
    model = model_of(body)
    module = to_torch(model)
    (finding,) = module.findings
    assert finding.rule == "qdq_as_written"
    assert finding.message.endswith(reason)
    assert finding.node in {"the_y", "the_d"}
    assert finding.tensor == "x"
    assert not module.quantizers
    assert_agrees(model, inputs())


def test_of_a_fake_quantizer_there_is_nothing_to_say() -> None:
    module = to_torch(model_of(PLAIN))
    assert module.findings == ()
    assert set(module.quantizers) == {"x"}
    assert_agrees(model_of(PLAIN), inputs())


def test_pairs_in_a_branch_and_codes_that_no_pair_makes_are_told_too() -> None:
    model = model_of(
        "c, t, p = DynamicQuantizeLinear (x) [dynamic] d = DequantizeLinear (c, t, p) "
        "y = If (flag) < then_branch = yes () => (float[3, 3] a) "
        "{ q = QuantizeLinear (d, s, z) [inner] a = DequantizeLinear (q, s, z) }, "
        "else_branch = no () => (float[3, 3] b) { b = Neg (d) } >",
        flag="bool flag, ",
    )
    findings = {finding.node: finding for finding in to_torch(model).findings}
    assert set(findings) == {"dynamic", "inner"}
    assert findings["dynamic"].message.endswith("'c' is made by DynamicQuantizeLinear")
    assert (findings["inner"].tensor, findings["dynamic"].tensor) == ("d", "c")
    assert findings["inner"].message.endswith("it lies in a subgraph")
    for flag in (True, False):
        assert_agrees(model, {"flag": np.array(flag), **inputs()})


def test_printing_a_fake_quantizer_names_all_its_nodes() -> None:
    lines = str(to_torch(model_of("r = Relu (x) " + PLAIN.replace("(x", "(r")))).splitlines()
    assert lines[1] == (
        "  the_r + the_q + the_y: FakeQuantize(x) -> y  # per-tensor, codes -128..127"
    )


def test_a_quantizer_switched_over_gives_what_a_whole_run_without_it_gives() -> None:
    student, _ = student_and_teacher()
    x = torch.from_numpy(images(8))
    names = list(student.quantizers)
    groups = [[name] for name in names] + [names[:3]]
    whole = {}
    for number, group in enumerate(groups):
        for name in group:
            student.quantizers[name].enabled = False
        whole[number] = student(x).detach()
        for name in group:
            student.quantizers[name].enabled = True

    branched = {number: outputs[0] for number, outputs in student.switched((x,), groups)}

    assert branched.keys() == whole.keys()
    assert all(torch.equal(branched[number], whole[number]) for number in whole)
    assert all(quantizer.enabled for quantizer in student.quantizers.values())


def test_a_quantizer_that_is_off_is_switched_on() -> None:
    student, _ = student_and_teacher()
    x = torch.from_numpy(images(8))
    expected = student(x).detach()
    for quantizer in student.quantizers.values():
        quantizer.enabled = False

    [(_, (outputs,))] = student.switched((x,), [list(student.quantizers)])

    assert torch.equal(outputs, expected)
    assert not any(quantizer.enabled for quantizer in student.quantizers.values())


def test_what_lies_before_a_quantizer_is_computed_once_for_all() -> None:
    student, _ = student_and_teacher()
    x = torch.from_numpy(images(8))
    runs = []
    first = student.quantizers["image"]
    first.register_forward_pre_hook(lambda *_: runs.append(1))

    list(student.switched((x,), [["head_w"], ["flat"], ["stem_out"]]))

    assert len(runs) == 1

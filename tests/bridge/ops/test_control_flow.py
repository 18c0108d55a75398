"""Subgraphs, sequences and optionals, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from onnxqat.bridge import to_torch
from onnxqat.core.errors import ModelError
from tests.support.bridge import Array, assert_agrees
from tests.support.onnx_text import model_of

RNG = np.random.default_rng(0)


def draw(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


LOOP = """loop (float[2, 3] x, int64 n, bool go) => (float[2, 3] last, float[k, 2, 3] all) {
    last, all = Loop (n, go, x) <
        body = step (int64 i, bool c, float[2, 3] s) => (bool d, float[2, 3] t, float[2, 3] u) {
            f = Cast <to = 1> (i)
            t = Add (s, f)
            u = Mul (t, x)
            limit = Constant <value_float = 6.0> ()
            m = ReduceMax <keepdims = 0> (t)
            d = Less (m, limit)
        }
    >
}"""


@pytest.mark.parametrize("go", [True, False])
@pytest.mark.parametrize("trips", [0, 1, 3, 50])
def test_a_loop_ends_by_its_count_or_its_condition(trips: int, go: bool) -> None:
    feeds = {"x": draw(2, 3), "n": np.array(trips), "go": np.array(go)}
    assert_agrees(model_of(LOOP), feeds)


def test_a_loop_without_count_or_condition_at_first() -> None:
    feeds = {"x": draw(2, 3)}
    text = LOOP.replace(", int64 n, bool go", "").replace("Loop (n, go, x)", 'Loop ("", "", x)')
    assert_agrees(model_of(text), feeds)


def test_a_loop_that_never_runs_and_declares_too_little_is_an_error() -> None:
    text = LOOP.replace("float[2, 3] u)", "float[a, b] u)")
    feeds = [torch.from_numpy(draw(2, 3)), torch.tensor(0), torch.tensor(True)]
    with pytest.raises(ModelError, match="does not declare the shape of 'u'"):
        to_torch(model_of(text))(*feeds)


def test_a_loop_in_a_loop_reads_the_values_of_all_graphs_around_it() -> None:
    text = """nested (float[2] x) => (float[2] y, float[3, 4, 2] all) {
        three = Constant <value = int64 {3}> ()
        four = Constant <value = int64 {4}> ()
        yes = Constant <value = bool {1}> ()
        y, all = Loop (three, yes, x) <
            body = outer (int64 i, bool c, float[2] s) => (bool d, float[2] t, float[4, 2] u) {
                d = Identity (c)
                t, u = Loop (four, yes, s) <
                    body = inner (int64 j, bool e, float[2] p) => (bool f, float[2] q, float[2] r) {
                        f = Identity (e)
                        ij = Mul (i, j)
                        g = Cast <to = 1> (ij)
                        h = Add (p, x)
                        q = Add (h, g)
                        r = Sub (q, s)
                    }
                >
            }
        >
    }"""
    assert_agrees(model_of(text), {"x": draw(2)})


SCAN = """scan (float[2] s, float[3, 4, 2] x, float[4, 5] y)
    => (float[2] last, float[a, b, c] all) {{
    last, all = Scan <
        num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [{forward}, 1],
        scan_output_axes = [{axis}], scan_output_directions = [{backward}],
        body = step (float[2] p, float[3, 2] v, float[5] w) => (float[2] q, float[3, 2] r) {{
            total = ReduceSum <keepdims = 0> (w)
            m = ReduceMean <axes = [0], keepdims = 0> (v)
            n = Add (p, m)
            q = Mul (n, total)
            r = Add (v, q)
        }}
    > (s, x, y)
}}"""


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize(("forward", "backward"), [(0, 0), (1, 0), (0, 1)])
def test_a_scan_goes_along_any_axis_in_any_direction(
    axis: int, forward: int, backward: int
) -> None:
    text = SCAN.format(axis=axis, forward=forward, backward=backward)
    assert_agrees(model_of(text), {"s": draw(2), "x": draw(3, 4, 2), "y": draw(4, 5)})


def test_a_scan_of_opset_8_runs_for_each_image_of_a_batch() -> None:
    text = """scan (float[2, 3] s, float[2, 4, 3] x) => (float[2, 3] last, float[2, 4, 3] all) {
        last, all = Scan <
            num_scan_inputs = 1, directions = [1],
            body = step (float[3] p, float[3] v) => (float[3] q, float[3] r) {
                q = Add (p, v)
                r = Mul (q, v)
            }
        > ("", s, x)
    }"""
    assert_agrees(model_of(text, opset=8), {"s": draw(2, 3), "x": draw(2, 4, 3)})


@pytest.mark.parametrize("flag", [True, False])
def test_a_shape_out_of_a_branch_is_a_shape(flag: bool) -> None:
    text = """shapes (float[n, m] x, bool flag) => (float[a, b] y) {
        s = If (flag) <
            then_branch = yes () => (int64[2] t) { t = Constant <value = int64[2] {-1, 2}> () },
            else_branch = no () => (int64[2] e) {
                z = Shape (x)
                i = Constant <value = int64[2] {1, 0}> ()
                e = Gather (z, i)
            }
        >
        y = Reshape (x, s)
    }"""
    assert_agrees(model_of(text), {"x": draw(3, 4), "flag": np.array(flag)})


NOWHERE = torch.device("meta")
"""A device without memory: nothing can be read off it, so nothing may wait for it."""


def test_shapes_out_of_branches_and_loops_wait_for_no_device() -> None:
    text = """shapes (float[n, m] x) => (float[a, b] y, float[k, c] all) {
        s = Shape (x)
        zero = Constant <value = int64 {0}> ()
        one = Constant <value = int64 {1}> ()
        rows = Gather (s, zero)
        columns = Gather (s, one)
        is_tall = Greater (rows, columns)
        picked = If (is_tall) <
            then_branch = yes () => (int64 t) { t = Identity (rows) },
            else_branch = no () => (int64 e) { e = Mul (columns, one) }
        >
        three = Constant <value = int64 {3}> ()
        yes = Constant <value = bool {1}> ()
        size, all = Loop (three, yes, picked) <
            body = step (int64 i, bool c, int64 p) => (bool d, int64 q, float[m] u) {
                d = Identity (c)
                q = Add (p, i)
                j = Sub (q, q)
                u = Gather <axis = 0> (x, j)
            }
        >
        axes = Constant <value = int64[1] {0}> ()
        wide = Unsqueeze (size, axes)
        minus = Constant <value = int64[1] {-1}> ()
        shape = Concat <axis = 0> (minus, wide)
        whole = Mul (size, one)
        ends = Unsqueeze (whole, axes)
        z = Expand (x, s)
        flat = Reshape (z, minus)
        pads = Concat <axis = 0> (axes, ends)
        padded = Pad (flat, pads)
        y = Unsqueeze (padded, axes)
    }"""
    module = to_torch(model_of(text))
    y, rows = module.to(NOWHERE)(torch.empty(5, 4, device=NOWHERE))
    assert (y.shape, rows.shape) == ((1, 20 + 5 + 3), (3, 4))
    assert_agrees(model_of(text), {"x": draw(5, 4)})
    assert_agrees(model_of(text), {"x": draw(2, 4)})


def test_a_state_that_leaves_the_host_is_right_as_well() -> None:
    text = """states (int64[n] x, int64 m) => (int64 y) {
        three = Constant <value = int64 {3}> ()
        yes = Constant <value = bool {1}> ()
        y = Loop (three, yes, three) <
            body = step (int64 i, bool c, int64 p) => (bool d, int64 q) {
                d = Identity (c)
                total = ReduceSum <keepdims = 0> (x)
                r = Add (p, total)
                q = Add (r, m)
            }
        >
    }"""
    assert_agrees(model_of(text), {"x": np.array([1, 2]), "m": np.array(5)})


SEQUENCES: dict[str, str] = {
    "insert and look up": """(float[2] x, float[3] y, int64 i) => (float[n] a, int64 k) {
        s = SequenceConstruct (x, y)
        t = SequenceInsert (s, y, i)
        a = SequenceAt (t, i)
        k = SequenceLength (t)
    }""",
    "erase": """(float[2] x, float[2] y, int64 i) => (float[n] a) {
        s = SequenceConstruct (x, y, x, y, y)
        t = SequenceErase (s, i)
        u = SequenceErase (t)
        a = ConcatFromSequence <axis = 0> (u)
    }""",
    "split and stack": """(float[6, 4] x, float[2] y, int64 i) => (float[a, b, c] z) {
        two = Constant <value = int64 {2}> ()
        s = SplitToSequence <axis = 1> (x, two)
        z = ConcatFromSequence <axis = 1, new_axis = 1> (s)
    }""",
    "split unevenly": """(float[6, 4] x, float[2] y, int64 i) => (float[a, b] z, int64 n) {
        sizes = Constant <value = int64[3] {1, 3, 2}> ()
        s = SplitToSequence <axis = 0> (x, sizes)
        one = Constant <value = int64 {1}> ()
        z = SequenceAt (s, one)
        n = SequenceLength (s)
    }""",
    "split by a length that leaves a rest": """(float[5, 4] x, float[2] y, int64 i)
    => (float[a, b] z) {
        two = Constant <value = int64 {2}> ()
        s = SplitToSequence (x, two)
        z = SequenceAt (s, i)
    }""",
    "split to single rows": """(float[3, 4] x, float[2] y, int64 i) => (float[a] z) {
        s = SplitToSequence <keepdims = 0> (x)
        z = SequenceAt (s, i)
    }""",
    "collected by a loop": """(float[2] x, float[2] y, int64 i) => (float[n] z) {
        e = SequenceEmpty <dtype = 1> ()
        four = Constant <value = int64 {4}> ()
        yes = Constant <value = bool {1}> ()
        s = Loop (four, yes, e) <
            body = step (int64 k, bool c, seq(float[2]) p) => (bool d, seq(float[2]) q) {
                d = Identity (c)
                f = Cast <to = 1> (k)
                v = Add (x, f)
                q = SequenceInsert (p, v)
            }
        >
        z = ConcatFromSequence <axis = 0> (s)
    }""",
    "mapped": """(float[2] x, float[3] y, int64 i) => (float[n] z) {
        s = SequenceConstruct (x, y, x)
        t = SequenceMap (s, y) <
            body = each (float[n] p, float[3] q) => (float[m] r) {
                o = ReduceSum <keepdims = 1> (q)
                r = Mul (p, o)
            }
        >
        z = ConcatFromSequence <axis = 0> (t)
    }""",
}


@pytest.mark.parametrize("position", [0, -2])
@pytest.mark.parametrize("name", SEQUENCES)
def test_a_sequence_holds_what_onnx_runtime_says(name: str, position: int) -> None:
    model = model_of(f"sequences {SEQUENCES[name]}")
    feeds: dict[str, Any] = {"i": np.array(position)}
    for formal in model.graph.input[:2]:
        shape = [dim.dim_value for dim in formal.type.tensor_type.shape.dim]
        feeds[formal.name] = draw(*shape)
    assert_agrees(model, feeds)


def test_an_optional_has_an_element_or_none() -> None:
    text = """optionals (optional(float[2]) x) => (bool has, float[2] y) {
        has = OptionalHasElement (x)
        y = If (has) <
            then_branch = yes () => (float[2] t) { t = OptionalGetElement (x) },
            else_branch = no () => (float[2] e) {
                e = Constant <value = float[2] {7.0, 8.0}> ()
            }
        >
    }"""
    module = to_torch(model_of(text, opset=18))
    has, y = module(torch.tensor([1.0, 2.0]))
    assert (bool(has), y.tolist()) == (True, [1.0, 2.0])
    has, y = module(None)
    assert (bool(has), y.tolist()) == (False, [7.0, 8.0])


def test_the_element_of_an_empty_optional_is_an_error() -> None:
    text = "optionals (optional(float[2]) x) => (float[2] y) { y = OptionalGetElement (x) }"
    with pytest.raises(ModelError, match="the optional has no element"):
        to_torch(model_of(text, opset=18))(None)

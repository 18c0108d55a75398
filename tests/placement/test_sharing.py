"""Which tensors share a scale: those between which Q and DQ move, and that share values."""

from __future__ import annotations

import numpy as np

from onnxqat.core.plan import QuantPlan
from tests.support.placement import CONV, plan_of

IMAGE = "float[1, 8, 16, 16]"


def shared(plan: QuantPlan) -> list[tuple[str, ...]]:
    """The groups of several tensors."""
    return [tensors for tensors in plan.groups.values() if len(tensors) > 1]


def test_a_shortcut_of_slice_and_zero_pad_has_the_scale_of_the_block_input() -> None:
    """ResNet-20's option A: the Q on the skip moves to where the Conv's Q is, and merges (P6)."""
    text = f"""g ({IMAGE} x) => (float[1, 16, 8, 8] y)
    <int64[2] from = {{0, 0}}, int64[2] to = {{16, 16}}, int64[2] axes = {{2, 3}},
     int64[2] steps = {{2, 2}}, int64[8] pads = {{0, 4, 0, 0, 0, 4, 0, 0}}> {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Relu (a)
        c = Conv <pads = [1,1,1,1], strides = [2,2]> (b, v)
        part = Slice (b, from, to, axes, steps)
        skip = Pad (part, pads)
        y = Add (skip, c)
    }}"""
    plan = plan_of(text, {"w": (8, 8, 3, 3), "v": (16, 8, 3, 3)})
    assert shared(plan) == [("b", "skip")]


def test_a_pad_by_another_value_does_not_share() -> None:
    text = f"""g ({IMAGE} x) => (float[1, 8, 18, 18] y)
    <int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}}, float one = {{1}}> {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Relu (a)
        c = Conv <pads = [2,2,2,2]> (b, w)
        skip = Pad (b, pads, one)
        y = Add (skip, c)
    }}"""
    assert shared(plan_of(text)) == []


def test_the_quantized_inputs_of_a_concat_have_the_scale_of_its_output() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Relu (a)
        c = Conv <pads = [1,1,1,1]> (b, w)
        d = Relu (c)
        both = Concat <axis = 1> (b, d)
        y = Conv <pads = [1,1,1,1]> (both, v)
    }}"""
    plan = plan_of(text, {**CONV, "v": (8, 16, 3, 3)})
    assert shared(plan) == [("b", "both")]


def test_a_concat_whose_inputs_nobody_quantizes_has_a_single_q_behind_it() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Conv <pads = [1,1,1,1]> (x, w)
        both = Concat <axis = 1> (a, b)
        y = Conv <pads = [1,1,1,1]> (both, v)
    }}"""
    plan = plan_of(text, {**CONV, "v": (8, 16, 3, 3)})
    assert shared(plan) == []
    assert {x.edge.tensor for x in plan.placements} == {"x", "w", "v", "both"}


def test_a_pool_and_a_concat_of_one_tensor_share_so_that_it_is_stored_once() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y, float[1, 8, 8, 8] z) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Relu (a)
        p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (b)
        z = Conv <pads = [1,1,1,1]> (p, w)
        both = Concat <axis = 1> (b, a)
        y = Conv <pads = [1,1,1,1]> (both, v)
    }}"""
    plan = plan_of(text, {**CONV, "v": (8, 16, 3, 3)})
    assert shared(plan) == [("a", "b", "both", "p")]


def test_query_and_key_that_one_matmul_computes_keep_scales_of_their_own() -> None:
    text = """g (float[1, 4, 8] x) => (float[1, 4, 4] y) {
        both = MatMul (x, w)
        q, k = Split <axis = 2> (both, sizes)
        t = Transpose <perm = [0, 2, 1]> (k)
        y = MatMul (q, t)
    }"""
    plan = plan_of(text, {"w": (8, 8)}, sizes=np.array([4, 4], np.int64))
    assert shared(plan) == []
    assert {"q", "t"} <= {x.edge.tensor for x in plan.placements}


def test_the_leader_of_a_group_is_the_tensor_nearest_to_the_inputs() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y) {{
        z = Conv <pads = [1,1,1,1]> (x, w)
        a = Transpose <perm = [0, 1, 3, 2]> (z)
        b = Conv <pads = [1,1,1,1]> (a, w)
        c = Conv <pads = [1,1,1,1]> (z, w)
        y = Add (b, c)
    }}"""
    plan = plan_of(text)
    assert [leader.tensor for leader, tensors in plan.groups.items() if len(tensors) > 1] == ["z"]

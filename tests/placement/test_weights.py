"""Formats of weights; the compiler confirms the axes in test_compiled.py."""

from __future__ import annotations

import pytest

from onnxqat.placement import PlacementConfig
from tests.support.placement import placed, plan_of

W4A8 = PlacementConfig(format="w4a8")


@pytest.mark.parametrize(
    ("node", "x", "w", "expected"),
    [
        ("Conv (x, w)", "1,8,9", (6, 8, 3), "w -> n[1]: int8 per channel 0"),
        ("Conv <group = 8> (x, w)", "1,8,9,9", (8, 1, 3, 3), "w -> n[1]: int8 per channel 0"),
        ("ConvTranspose (x, w)", "1,8,9,9", (8, 6, 3, 3), "w -> n[1]: int8 per channel 1"),
        ("Gemm (x, w)", "5,8", (8, 6), "w -> n[1]: int8 per channel 1"),
        ("Gemm <transB = 1> (x, w)", "5,8", (6, 8), "w -> n[1]: int8 per channel 0"),
        ("Gemm <transA = 1> (x, w)", "8,5", (8, 6), "w -> n[1]: int8 per channel 1"),
        ("Gemm (w, x)", "8,5", (6, 8), "w -> n[0]: int8 per channel 0"),
        ("Gemm <transA = 1> (w, x)", "8,5", (8, 6), "w -> n[0]: int8 per channel 1"),
        ("MatMul (x, w)", "2,5,8", (8, 6), "w -> n[1]: int8 per channel 1"),
        ("MatMul (x, w)", "2,5,8", (2, 8, 6), "w -> n[1]: int8 per channel 2"),
        ("MatMul (w, x)", "8,5", (6, 8), "w -> n[0]: int8 per channel 0"),
        ("MatMul (w, x)", "2,8,5", (2, 6, 8), "w -> n[0]: int8 per channel 1"),
        ("MatMul (x, w)", "5,8", (8,), "w -> n[1]: int8 per tensor"),
        ("MatMul (w, x)", "8,5", (8,), "w -> n[0]: int8 per tensor"),
    ],
)
def test_weights_have_one_scale_an_output_channel(
    node: str, x: str, w: tuple[int, ...], expected: str
) -> None:
    rank = 1 if len(w) == 1 else x.count(",") + 1
    shape = ", ".join("abcde"[:rank])
    plan = plan_of(f"g (float[{x}] x) => (float[{shape}] y) {{ [n] y = {node} }}", {"w": w})
    assert expected in placed(plan)


TIED = """g (float[4, 8] x) => (float[4, 8] y) {
    a = MatMul (x, w)
    y = Gemm <transB = 1> (a, w)
}"""


def test_weights_read_along_two_axes_have_one_scale_for_all() -> None:
    edges = placed(plan_of(TIED, {"w": (8, 8)}))
    assert {
        "w -> MatMul_a[1]: int8 per tensor",
        "w -> Gemm_y[1]: int8 per tensor",
    } <= edges


EMBEDDING = """g (int64[4] ids) => (float[4, 16] y) {
    x = Gather (w, ids)
    a = Relu (x)
    y = Gemm <transB = 1> (a, w)
}"""


def test_weights_that_are_also_read_in_float_are_not_stored_as_four_bit_codes() -> None:
    edges = placed(plan_of(EMBEDDING, {"w": (16, 8)}, W4A8), "Gemm_y")
    assert edges == {"a -> Gemm_y[0]: int8 per tensor", "w -> Gemm_y[1]: int8 per channel 0"}


def test_weights_that_two_convs_read_alike_keep_their_format() -> None:
    text = """g (float[1, 8, 9, 9] x) => (float[1, 8, 5, 5] y) {
        a = Conv (x, w)
        y = Conv (a, w)
    }"""
    edges = placed(plan_of(text, config=W4A8))
    assert "w -> Conv_a[1]: int4_in_int8 per channel 0" in edges
    assert "w -> Conv_y[1]: int4_in_int8 per channel 0" in edges

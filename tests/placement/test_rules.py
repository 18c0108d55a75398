"""Each rule on a graph that it is for, and on one that it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxqat.placement import PlacementConfig
from tests.support.placement import placed, plan_of, why_float

IMAGE = "float[1, 8, 16, 16]"


def describes_conv(source: str, node: str, weights: str = "w") -> set[str]:
    """The two edges that every quantized Conv has."""
    return {
        f"{source} -> {node}[0]: int8 per tensor",
        f"{weights} -> {node}[1]: int8 per channel 0",
    }


def test_a_conv_reads_data_per_tensor_and_weights_per_output_channel() -> None:
    plan = plan_of(f"g ({IMAGE} x) => ({IMAGE} y) {{ y = Conv <pads = [1,1,1,1]> (x, w) }}")
    assert placed(plan) == describes_conv("x", "Conv_y")


def test_a_bias_stays_in_float() -> None:
    text = f"g ({IMAGE} x) => ({IMAGE} y) {{ y = Conv <pads = [1,1,1,1]> (x, w, b) }}"
    plan = plan_of(text, {"w": (8, 8, 3, 3), "b": (8,)})
    assert "bias" in why_float(plan, "b", "Conv_y", 2)


def test_a_conv_whose_weights_are_computed_stays_in_float_on_both_sides() -> None:
    text = f"""g ({IMAGE} x, float[8, 8, 3, 3] v) => ({IMAGE} y) {{
        u = Tanh (v)
        y = Conv <pads = [1,1,1,1]> (x, u)
    }}"""
    plan = plan_of(text, {})
    assert not plan.placements
    assert "computed" in why_float(plan, "x", "Conv_y")
    assert "computed" in why_float(plan, "u", "Conv_y", 1)


def test_a_float16_conv_stays_in_float_because_scales_are_float32() -> None:
    text = """g (float16[1, 8, 16, 16] x) => (float16[1, 8, 16, 16] y) {
        y = Conv <pads = [1,1,1,1]> (x, w)
    }"""
    plan = plan_of(text, {}, w=np.zeros((8, 8, 3, 3), np.float16))
    assert not plan.placements
    assert "float32" in why_float(plan, "x", "Conv_y")


@pytest.mark.parametrize(("profile", "count"), [("tensorrt", 2), ("rtx", 0)])
def test_the_profile_decides_about_a_transposed_conv(profile: str, count: int) -> None:
    text = f"g ({IMAGE} x) => (float[1, 4, 18, 18] y) {{ y = ConvTranspose (x, w) }}"
    plan = plan_of(text, {"w": (8, 4, 3, 3)}, PlacementConfig(profile=profile))
    assert len(plan.placements) == count


def test_a_grouped_transposed_conv_stays_in_float() -> None:
    text = f"g ({IMAGE} x) => (float[1, 8, 18, 18] y) {{ y = ConvTranspose <group = 2> (x, w) }}"
    plan = plan_of(text, {"w": (8, 4, 3, 3)})
    assert "grouped" in why_float(plan, "x", "ConvTranspose_y")


def test_w4a8_gives_weights_four_bits_and_activations_eight() -> None:
    text = f"g ({IMAGE} x) => ({IMAGE} y) {{ y = Conv <pads = [1,1,1,1]> (x, w) }}"
    assert placed(plan_of(text, config=PlacementConfig(format="w4a8"))) == {
        "x -> Conv_y[0]: int8 per tensor",
        "w -> Conv_y[1]: int4_in_int8 per channel 0",
    }


def test_fp8_is_for_weights_and_activations_alike() -> None:
    text = f"g ({IMAGE} x) => ({IMAGE} y) {{ y = Conv <pads = [1,1,1,1]> (x, w) }}"
    plan = plan_of(text, config=PlacementConfig(format="fp8"))
    assert placed(plan) == {"x -> Conv_y[0]: fp8 per tensor", "w -> Conv_y[1]: fp8 per channel 0"}
    assert all("in FP8" in x.reason for x in plan.placements)


def test_w4a4_says_that_it_is_a_simulation() -> None:
    text = f"g ({IMAGE} x) => ({IMAGE} y) {{ y = Conv <pads = [1,1,1,1]> (x, w) }}"
    plan = plan_of(text, config=PlacementConfig(format="w4a4"))
    assert placed(plan) == {
        "x -> Conv_y[0]: int4 per tensor",
        "w -> Conv_y[1]: int4_in_int8 per channel 0",
    }
    data = next(x for x in plan.placements if x.edge.tensor == "x")
    assert "a simulation that no TensorRT kernel computes" in data.reason


WIDE_CONV = "g (float[1, 8, 40, 40] x) => (float[n, c, h, w] y) { y = Conv (x, w) }"


@pytest.mark.parametrize(("taps", "count"), [((4, 8), 2), ((3, 11), 0)])
def test_fp8_leaves_convs_of_more_than_32_taps_in_float(taps: tuple[int, int], count: int) -> None:
    weights = {"w": (8, 8, *taps)}
    fp8 = plan_of(WIDE_CONV, weights, PlacementConfig(format="fp8"))
    assert len(fp8.placements) == count
    assert len(plan_of(WIDE_CONV, weights).placements) == 2
    assert count or "33 taps" in why_float(fp8, "x", "Conv_y")


AVERAGED = """g (float[1, 8, 16, 16] x) => (float[1, 8, 8, 8] y, float[1, 8, 16, 16] z) {{
    a = Conv <pads = [1,1,1,1]> (x, w)
    p = AveragePool <kernel_shape = [2,2], strides = [2,2]> (a)
    y = Conv <pads = [1,1,1,1]> (p, w)
    z = {other} (a{rest})
}}"""


def test_fp8_quantizes_what_a_pool_reads_only_where_others_do() -> None:
    config = PlacementConfig(format="fp8")
    alone = plan_of(AVERAGED.format(other="Relu", rest=""), config=config)
    assert "a -> AveragePool_p[0]: fp8 per tensor" not in placed(alone)
    both = plan_of(AVERAGED.format(other="Conv <pads = [1,1,1,1]>", rest=", w"), config=config)
    assert "a -> AveragePool_p[0]: fp8 per tensor" in placed(both)


ATTENTION = """
g (float[1, {heads}, 49, 32] q, float[1, {heads}, 32, 49] k, float[1, {heads}, 49, 32] v)
=> (float[1, {heads}, 49, 32] y) {{
    scores = MatMul (q, k)
    scaled = Mul (scores, scale)
    weights = Softmax <axis = -1> (scaled)
    y = MatMul (weights, v)
}}"""


def test_both_products_of_attention_read_int8_on_both_sides() -> None:
    plan = plan_of(ATTENTION.format(heads=2), {}, scale=np.float32(0.2))
    assert placed(plan) == {
        "q -> MatMul_scores[0]: int8 per tensor",
        "k -> MatMul_scores[1]: int8 per tensor",
        "weights -> MatMul_y[0]: int8 per tensor",
        "v -> MatMul_y[1]: int8 per tensor",
    }


def test_the_scale_of_attention_and_its_softmax_are_not_quantized() -> None:
    plan = plan_of(ATTENTION.format(heads=2), {}, scale=np.float32(0.2))
    assert "pointwise" in why_float(plan, "scores", "Mul_scaled")
    assert "exponentials" in why_float(plan, "scaled", "Softmax_weights")


def test_the_scores_of_a_single_head_are_stored_in_int8() -> None:
    plan = plan_of(ATTENTION.format(heads=1), {}, scale=np.float32(0.2))
    assert placed(plan, "Mul_scaled") == {"scores -> Mul_scaled[0]: int8 per tensor"}


@pytest.mark.parametrize(
    ("tokens", "size", "is_stored"),
    [(512, 64, False), (513, 64, True), (98, 32, False), (98, 80, True), (98, 128, True)],
)
def test_the_scores_of_long_sequences_and_of_heads_of_other_sizes_are_stored_in_int8(
    tokens: int, size: int, is_stored: bool
) -> None:
    text = ATTENTION.replace("49", str(tokens)).replace("32", str(size)).format(heads=2)
    plan = plan_of(text, {}, scale=np.float32(0.2))
    assert bool(placed(plan, "Mul_scaled")) == is_stored


@pytest.mark.parametrize(("heads", "wanted"), [(1, False), (2, True)])
def test_the_user_may_decide_about_attention_scores(heads: int, wanted: bool) -> None:
    config = PlacementConfig(attention_scores=wanted)
    plan = plan_of(ATTENTION.format(heads=heads), {}, config, scale=np.float32(0.2))
    assert bool(placed(plan, "Mul_scaled")) == wanted


def test_a_product_of_integers_is_left_alone() -> None:
    text = "g (int32[4, 4] a, int32[4, 4] b) => (int32[4, 4] y) { y = MatMul (a, b) }"
    plan = plan_of(text, {})
    assert not plan.placements
    assert "not float32" in why_float(plan, "a", "MatMul_y")


BLOCK = f"""g ({IMAGE} x) => ({IMAGE} y) {{
    a = Conv <pads = [1,1,1,1]> (x, w)
    b = Relu (a)
    c = Conv <pads = [1,1,1,1]> (b, w)
    d = Relu (c)
    e = Conv <pads = [1,1,1,1]> (d, w)
    s = Add (b, e)
    y = Relu (s)
}}"""


def test_the_skip_of_a_residual_is_read_in_int8_and_the_conv_branch_stays_bare() -> None:
    plan = plan_of(BLOCK)
    assert placed(plan, "Add_s") == {"b -> Add_s[0]: int8 per tensor"}
    assert "fuses" in why_float(plan, "e", "Add_s", 1)


def test_of_two_conv_branches_the_one_computed_last_stays_bare() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y) {{
        short = Conv <pads = [1,1,1,1]> (x, w)
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Relu (a)
        long = Conv <pads = [1,1,1,1]> (b, w)
        s = Add (long, short)
        y = Relu (s)
    }}"""
    plan = plan_of(text)
    assert placed(plan, "Add_s") == {"short -> Add_s[1]: int8 per tensor"}
    assert "fuses" in why_float(plan, "long", "Add_s", 0)


def test_a_conv_that_others_read_too_is_no_bare_branch() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y, {IMAGE} e) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Relu (a)
        e = Conv <pads = [1,1,1,1]> (b, w)
        y = Add (b, e)
    }}"""
    assert placed(plan_of(text), "Add_y") == {
        "b -> Add_y[0]: int8 per tensor",
        "e -> Add_y[1]: int8 per tensor",
    }


RTX = PlacementConfig(profile="rtx")

SILU_BRANCH = f"""g ({IMAGE} x) => ({IMAGE} y) {{
    a = Conv <pads = [1,1,1,1]> (x, w)
    b = Relu (a)
    c = Conv <pads = [1,1,1,1]> (b, w)
    gate = Sigmoid (c)
    d = Mul (c, gate)
    y = Add (b, d)
}}"""


@pytest.mark.parametrize(("profile", "branches"), [("tensorrt", {"b", "d"}), ("rtx", {"b"})])
def test_rtx_fuses_an_add_into_its_conv_over_an_activation_function(
    profile: str, branches: set[str]
) -> None:
    plan = plan_of(SILU_BRANCH, config=PlacementConfig(profile=profile))
    assert {x.edge.tensor for x in plan.placements if x.edge.node == "Add_y"} == branches


def test_an_activation_function_that_others_read_too_ends_the_kernel() -> None:
    text = SILU_BRANCH.replace(f"=> ({IMAGE} y)", f"=> ({IMAGE} y, {IMAGE} gate)")
    assert "d -> Add_y[1]: int8 per tensor" not in placed(plan_of(text, config=RTX), "Add_y")
    assert "no node reads this branch" in why_float(plan_of(text, config=RTX), "d", "Add_y", 1)


def test_rtx_stores_a_skip_in_int8_only_where_a_kernel_reads_it_so() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y, {IMAGE} z) {{
        short = Conv <pads = [1,1,1,1]> (x, w)
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Relu (a)
        long = Conv <pads = [1,1,1,1]> (b, w)
        s = Add (short, long)
        t = Relu (s)
        c = Conv <pads = [1,1,1,1]> (t, w)
        y = Add (t, c)
        z = Neg (y)
    }}"""
    plan = plan_of(text, config=RTX)
    assert not placed(plan, "Add_s")
    assert placed(plan, "Add_y") == {"t -> Add_y[0]: int8 per tensor"}
    assert "no node reads this branch" in why_float(plan, "short", "Add_s")


def test_rtx_stores_a_skip_that_is_moved_from_what_a_kernel_reads() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Relu (a)
        skip = Transpose <perm = [0, 1, 3, 2]> (b)
        c = Conv <pads = [1,1,1,1]> (b, w)
        y = Add (skip, c)
    }}"""
    assert "skip -> Add_y[0]" in str(placed(plan_of(text, config=RTX), "Add_y"))


def test_asking_for_the_shape_of_a_tensor_is_not_reading_it() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y, int64[4] n) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Relu (a)
        e = Conv <pads = [1,1,1,1]> (b, w)
        n = Shape (e)
        y = Add (b, e)
    }}"""
    plan = plan_of(text)
    assert placed(plan, "Add_y") == {"b -> Add_y[0]: int8 per tensor"}
    assert all(x.edge.node != "Shape_n" for x in (*plan.placements, *plan.skips))


def test_a_conv_that_a_subgraph_reads_is_no_bare_branch() -> None:
    text = f"""g (bool c, {IMAGE} x) => ({IMAGE} y, {IMAGE} z) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Relu (a)
        e = Conv <pads = [1,1,1,1]> (b, w)
        y = Add (b, e)
        z = If (c) <
            then_branch = t () => ({IMAGE} u) {{ u = Relu (e) }},
            else_branch = f () => ({IMAGE} u) {{ u = Neg (e) }}
        >
    }}"""
    assert "e -> Add_y[1]: int8 per tensor" in placed(plan_of(text), "Add_y")


def test_without_a_conv_branch_all_inputs_are_read_in_int8() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Relu (a)
        c = Conv <pads = [1,1,1,1]> (b, w)
        d = Relu (c)
        y = Add (b, d)
    }}"""
    assert placed(plan_of(text), "Add_y") == {
        "b -> Add_y[0]: int8 per tensor",
        "d -> Add_y[1]: int8 per tensor",
    }


def test_a_sum_with_a_constant_is_no_residual() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        y = Add (a, c)
    }}"""
    plan = plan_of(text, {"w": (8, 8, 3, 3), "c": (8, 1, 1)})
    assert not placed(plan, "Add_y")
    assert "no residual" in why_float(plan, "a", "Add_y")


def test_the_sum_inside_gelu_is_no_residual() -> None:
    text = """g (float[4, 8] x) => (float[4, 8] y) {
        a = MatMul (x, w)
        square = Mul (a, a)
        cube = Mul (square, a)
        s = Add (a, cube)
        y = Tanh (s)
    }"""
    assert not placed(plan_of(text, {"w": (8, 8)}), "Add_s")


def test_the_mask_of_attention_is_no_residual() -> None:
    text = """g (float[1, 2, 9, 8] q, float[1, 2, 8, 9] k, float[1, 2, 9, 8] m)
    => (float[1, 2, 9, 9] y) {
        scores = MatMul (q, k)
        bias = MatMul (m, w)
        masked = Add (scores, bias)
        y = Softmax <axis = -1> (masked)
    }"""
    assert not placed(plan_of(text, {"w": (8, 9)}), "Add_masked")


def test_a_residual_of_convs_in_float_stays_in_float() -> None:
    plan = plan_of(BLOCK, config=PlacementConfig(exclude_ops=("Conv",)))
    assert not plan.placements


NORM = {"w": (8, 8), "scale": (8,), "bias": (8,)}


def test_a_post_norm_transformer_stores_its_stream_once_in_int8() -> None:
    text = """g (float[4, 8] x) => (float[4, 8] y) {
        a = MatMul (x, w)
        n = LayerNormalization (a, scale, bias)
        b = MatMul (n, w)
        s = Add (n, b)
        y = LayerNormalization (s, scale, bias)
    }"""
    assert placed(plan_of(text, NORM), "Add_s") == {"n -> Add_s[0]: int8 per tensor"}


def test_the_stream_behind_an_embedding_is_read_in_int8_where_a_product_reads_it_so() -> None:
    text = """g (float[4, 8] x) => (float[4, 8] y) {
        n = LayerNormalization (x, scale, bias)
        b = MatMul (n, w)
        s = Add (b, n)
        y = LayerNormalization (s, scale, bias)
    }"""
    assert placed(plan_of(text, NORM), "Add_s") == {"n -> Add_s[1]: int8 per tensor"}


def test_a_pre_norm_transformer_keeps_its_stream_in_float() -> None:
    text = """g (float[4, 8] x) => (float[4, 8] y) {
        a = MatMul (x, w)
        n = LayerNormalization (a, scale, bias)
        b = MatMul (n, w)
        y = Add (a, b)
    }"""
    plan = plan_of(text, NORM)
    assert not placed(plan, "Add_y")
    assert "stream between MatMuls" in why_float(plan, "a", "Add_y")


def test_an_average_pool_between_convs_reads_and_writes_int8() -> None:
    text = f"""g ({IMAGE} x) => (float[1, 64] y) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Relu (a)
        p = AveragePool <kernel_shape = [8,8], strides = [8,8]> (b)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, v)
    }}"""
    plan = plan_of(text, {"w": (8, 8, 3, 3), "v": (64, 32)})
    assert placed(plan, "AveragePool_p") == {"b -> AveragePool_p[0]: int8 per tensor"}
    assert placed(plan, "Flatten_f") == {"p -> Flatten_f[0]: int8 per tensor"}


def test_a_pool_that_no_int8_kernel_reads_stays_in_float() -> None:
    text = f"""g ({IMAGE} x) => (float[1, 8, 2, 2] y) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        p = AveragePool <kernel_shape = [8,8], strides = [8,8]> (a)
        y = Sigmoid (p)
    }}"""
    plan = plan_of(text)
    assert not placed(plan, "AveragePool_p")
    assert "gains nothing" in why_float(plan, "a", "AveragePool_p")


def test_a_pool_at_a_graph_output_stays_in_float() -> None:
    text = f"""g ({IMAGE} x) => (float[1, 8, 2, 2] y, float[1, 8, 2, 2] p) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        p = AveragePool <kernel_shape = [8,8], strides = [8,8]> (a)
        y = Conv <pads = [1,1,1,1]> (p, w)
    }}"""
    assert not placed(plan_of(text), "AveragePool_p")


NORMED = {"w": (8, 8, 3, 3), "s": (8,), "b": (8,), "m": (8,), "v": (8,)}


def test_a_norm_before_its_conv_reads_int8() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        r = Relu (a)
        n = BatchNormalization (r, s, b, m, v)
        y = Conv <pads = [1,1,1,1]> (n, w)
    }}"""
    plan = plan_of(text, NORMED)
    assert placed(plan, "BatchNormalization_n") == {"r -> BatchNormalization_n[0]: int8 per tensor"}


@pytest.mark.parametrize(("profile", "count"), [("tensorrt", 1), ("rtx", 0)])
def test_rtx_has_a_norm_read_int8_behind_a_concat_alone(profile: str, count: int) -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        r = Relu (a)
        n = BatchNormalization (r, s, b, m, v)
        y = Conv <pads = [1,1,1,1]> (n, w)
    }}"""
    config = PlacementConfig(profile=profile)
    assert len(placed(plan_of(text, NORMED, config), "BatchNormalization_n")) == count


def test_rtx_has_a_norm_behind_a_concat_read_int8() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y) {{
        a = Conv <pads = [1,1,1,1]> (x, half)
        r = Relu (a)
        both = Concat <axis = 1> (r, r)
        n = BatchNormalization (both, s, b, m, v)
        y = Conv <pads = [1,1,1,1]> (n, w)
    }}"""
    weights = {**NORMED, "half": (4, 8, 3, 3)}
    assert placed(plan_of(text, weights, RTX), "BatchNormalization_n") == {
        "both -> BatchNormalization_n[0]: int8 per tensor, the scale of 'r'"
    }


SQUEEZE = f"""g ({IMAGE} x) => ({IMAGE} y) {{
    a = Conv <pads = [1,1,1,1]> (x, w)
    b = Relu (a)
    mean = GlobalAveragePool (b)
    small = Conv (mean, p)
    large = Conv (small, p)
    gate = Sigmoid (large)
    scaled = Mul (b, gate)
    y = Conv <pads = [1,1,1,1]> (scaled, w)
}}"""
SQUEEZE_WEIGHTS = {"w": (8, 8, 3, 3), "p": (8, 8, 1, 1)}


def test_both_factors_and_the_mean_of_a_squeeze_and_excitation_block_read_int8() -> None:
    plan = plan_of(SQUEEZE, SQUEEZE_WEIGHTS)
    rules = {str(x.edge) for x in plan.placements if x.rule == "squeeze_excitation"}
    assert rules == {
        "b -> GlobalAveragePool_mean[0]",
        "b -> Mul_scaled[0]",
        "gate -> Mul_scaled[1]",
    }


def test_rtx_leaves_a_squeeze_and_excitation_block_in_float() -> None:
    assert not placed(plan_of(SQUEEZE, SQUEEZE_WEIGHTS, RTX), "Mul_scaled")


def test_a_gate_that_is_no_mean_of_the_other_factor_stays_in_float() -> None:
    text = SQUEEZE.replace("GlobalAveragePool (b)", "GlobalAveragePool (x)")
    assert not placed(plan_of(text, SQUEEZE_WEIGHTS), "Mul_scaled")


POOLED = f"""g ({IMAGE} x) => ({IMAGE} y) {{
    a = Conv <pads = [1,1,1,1]> (x, w)
    p = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (a)
    both = Concat <axis = 1> (a, p)
    y = Conv <pads = [1,1,1,1]> (both, wide)
}}"""


def test_a_tensor_of_two_readers_is_read_in_int8_before_and_behind_each_move() -> None:
    plan = plan_of(POOLED, {"w": (8, 8, 3, 3), "wide": (8, 16, 3, 3)})
    moves = {x.edge for x in plan.placements if x.edge.node in ("MaxPool_p", "Concat_both")}
    assert {str(edge) for edge in moves} == {
        "a -> MaxPool_p[0]",
        "a -> Concat_both[0]",
        "p -> Concat_both[1]",
    }
    assert plan.groups[plan.leader_of(min(moves))] == ("a", "both", "p")


def test_a_tensor_of_one_reader_has_a_single_q_behind_its_moves() -> None:
    text = POOLED.replace("(a, p)", "(p, p)")
    plan = plan_of(text, {"w": (8, 8, 3, 3), "wide": (8, 16, 3, 3)})
    assert not placed(plan, "MaxPool_p")


def test_what_only_a_part_of_goes_on_keeps_its_scales_apart() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y, {IMAGE} z) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        p = Gather <axis = 1> (a, first)
        q = Gather <axis = 1> (a, last)
        y = Conv <pads = [1,1,1,1]> (p, half)
        z = Conv <pads = [1,1,1,1]> (q, half)
    }}"""
    halves = {"first": np.arange(4), "last": np.arange(4, 8)}
    plan = plan_of(text, {"w": (8, 8, 3, 3), "half": (8, 4, 3, 3)}, **halves)
    assert not placed(plan, "Gather_p")
    assert all(len(tensors) == 1 for tensors in plan.groups.values())


def test_a_norm_behind_its_conv_reads_the_conv_as_it_is() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        n = BatchNormalization (a, s, b, m, v)
        y = Conv <pads = [1,1,1,1]> (n, w)
    }}"""
    plan = plan_of(text, NORMED)
    assert "P13" in why_float(plan, "a", "BatchNormalization_n")
    assert not placed(plan, "BatchNormalization_n")


def test_an_activation_function_is_not_cut_off_from_its_conv() -> None:
    text = f"""g ({IMAGE} x) => ({IMAGE} y) {{
        a = Conv <pads = [1,1,1,1]> (x, w)
        g = Sigmoid (a)
        silu = Mul (a, g)
        y = Conv <pads = [1,1,1,1]> (silu, w)
    }}"""
    assert placed(plan_of(text)) == describes_conv("x", "Conv_a") | describes_conv("silu", "Conv_y")


def test_graph_outputs_carry_no_qdq() -> None:
    plan = plan_of(BLOCK)
    assert all(x.edge.tensor != "y" for x in plan.placements)


def test_a_recurrence_stays_in_float_with_a_reason() -> None:
    text = """g (float[5, 1, 4] x) => (float[5, 1, 1, 3] y) {
        y = LSTM <hidden_size = 3> (x, w, r)
    }"""
    plan = plan_of(text, {"w": (1, 12, 4), "r": (1, 12, 3)})
    assert why_float(plan, "x", "LSTM_y").startswith("recurrence: LSTM: TensorRT has no INT8")


UNIT = f"""g ({IMAGE} x) => (float[1, 16, 16, 16] y)
    <int64[5] five = {{1, 2, 8, 16, 16}}, int64[4] four = {{1, 16, 16, 16}},
     int64[2] half = {{8, 8}}> {{
    a = Conv <pads = [1,1,1,1]> (x, w)
    b = Relu (a)
    c = Sigmoid (a)
    whole = Concat <axis = 1> (b, c)
    d = Reshape (whole, five)
    e = Transpose <perm = [0, 2, 1, 3, 4]> (d)
    shuffled = Reshape (e, four)
    by, into = Split <axis = 1> (shuffled, half)
    f = Conv <pads = [1,1,1,1]> (into, w)
    g = Relu (f)
    joined = Concat <axis = 1> (by, g)
    y = Conv <pads = [1,1,1,1]> (joined, v)
}}"""
UNIT_WEIGHTS = {"w": (8, 8, 3, 3), "v": (16, 16, 3, 3)}


def test_what_is_joined_and_then_parts_ways_is_stored_whole() -> None:
    plan = plan_of(UNIT, UNIT_WEIGHTS)
    assert "whole -> Reshape_d[0]: int8 per tensor" in placed(plan)
    # the part that is read has its scale; the next whole, which has half of its values, its own
    groups = [tensors for tensors in plan.groups.values() if len(tensors) > 1]
    assert groups == [("into", "whole")]


def test_parts_that_are_all_read_in_int8_have_their_own_scales() -> None:
    text = UNIT.replace("Concat <axis = 1> (by, g)", "Concat <axis = 1> (h, g)").replace(
        "g = Relu (f)", "g = Relu (f)  h = Conv <pads = [1,1,1,1]> (by, w)"
    )
    plan = plan_of(text, UNIT_WEIGHTS)
    assert not any(x.edge.tensor == "whole" for x in plan.placements)


CELL = """g (float[4, 8, 1, 5] x) => (float[5, 1, 4, 3] y) {
    a = Conv (x, k)
    b = Relu (a)
    c = Squeeze (b, two)
    d = Transpose <perm = [2, 0, 1]> (c)
    y = LSTM <hidden_size = 3> (d, w, r)
}"""
CELL_WEIGHTS = {"k": (8, 8, 1, 1), "w": (1, 12, 8), "r": (1, 12, 3)}


@pytest.mark.parametrize(("profile", "is_stored"), [("rtx", True), ("tensorrt", False)])
def test_what_an_int8_kernel_hands_to_a_recurrence_is_stored_in_int8_where_that_saves_bytes(
    profile: str, is_stored: bool
) -> None:
    plan = plan_of(CELL, CELL_WEIGHTS, PlacementConfig(profile=profile), two=np.array([2]))
    rnn = {x.edge.index for x in plan.placements if x.edge.node == "LSTM_y"}
    assert rnn == ({0} if is_stored else set())


NARROW = """g (float[1, 3, 8, 8] x, float[1, 32] v) => (float[1, 8, 8, 8] y, float[1, 32] z) {
    [first] a = Conv <pads = [1,1,1,1]> (x, k)
    [grouped] b = Conv <group = 16> (a, g)
    [few] y = Conv (b, p)
    [vector] z = Gemm <transB = 1> (v, w)
}"""
NARROW_WEIGHTS = {"k": (32, 3, 3, 3), "g": (32, 2, 1, 1), "p": (8, 32, 1, 1), "w": (32, 32)}


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        ({}, {"first", "grouped", "few", "vector"}),
        ({"narrow_convs": "float"}, {"grouped", "vector"}),
        ({"narrow_products": "float"}, {"first", "grouped", "few"}),
    ],
)
def test_narrow_layers_stay_in_float_if_wanted(choice: dict[str, Any], left: set[str]) -> None:
    plan = plan_of(NARROW, NARROW_WEIGHTS, PlacementConfig(**choice))
    assert {x.edge.node for x in plan.placements} == left


@pytest.mark.parametrize(
    ("product", "left", "why"),
    [
        ("MatMul (rows, w)", (32, 8), "has 8 columns, fewer than 16"),
        ("MatMul (w, columns)", (8, 32), "has 8 rows, fewer than 16"),
        ("MatMul (rows, w)", (32,), "multiplies a vector"),
        ("Gemm <transB = 1> (rows, w)", (8, 32), "has 8 columns, fewer than 16"),
        ("Gemm <transA = 1> (few, w)", (4, 32), "has 4 inputs, fewer than 16"),
    ],
)
def test_a_product_with_a_short_side_says_which(
    product: str, left: tuple[int, ...], why: str
) -> None:
    output = "a" if len(left) == 1 else "a, b"
    inputs = "float[20, 32] rows, float[32, 20] columns, float[4, 20] few"
    text = f"g ({inputs}) => (float[{output}] y) {{ y = {product} }}"
    config = PlacementConfig(narrow_products="float")
    node = f"{product.split(maxsplit=1)[0]}_y"
    plan = plan_of(text, {"w": left}, config)
    assert not plan.placements
    assert any(why in skip.reason for skip in plan.skips if skip.edge.node == node)


def test_a_size_that_the_file_leaves_open_is_taken_for_a_large_one() -> None:
    text = "g (float[n, 32] x) => (float[n, 32] y) { y = Gemm (x, w) }"
    plan = plan_of(text, {"w": (32, 32)}, PlacementConfig(narrow_products="float"))
    assert len(plan.placements) == 2


def test_a_node_with_subgraphs_stays_in_float_and_says_what_is_in_it() -> None:
    text = f"""g (bool c, {IMAGE} x) => ({IMAGE} y) {{
        y = If (c) <
            then_branch = t () => ({IMAGE} u) {{ u = Conv <pads = [1,1,1,1]> (x, w) }},
            else_branch = e () => ({IMAGE} u) {{ u = Relu (x) }}
        >
    }}"""
    plan = plan_of(text)
    assert not plan.placements
    assert "1 Conv" in why_float(plan, "c", "If_y")

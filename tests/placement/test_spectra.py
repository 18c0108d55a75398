"""Convs that compute spectra stay in float, and nothing else does for their sake."""

from __future__ import annotations

import numpy as np

from tests.support.placement import placed, plan_of, why_float

FILTERS = {"real": (8, 1, 16), "imaginary": (8, 1, 16), "w": (8, 8, 3)}
TWO = np.float32(2)

STFT = """g (float[1, 1, 64] x) => (float[1, 8, 47] y) {{
    re = Conv (x, real)
    im = Conv (x, imaginary)
    re2 = Pow (re, two)
    im2 = Mul (im, im)
    power = Add (re2, im2)
    magnitude = {compress} (power)
    y = Conv (magnitude, w)
}}"""


def test_the_filters_of_a_spectrum_stay_in_float() -> None:
    plan = plan_of(STFT.format(compress="Log"), FILTERS, two=TWO)
    assert "spectrum" in why_float(plan, "x", "Conv_re")
    assert "spectrum" in why_float(plan, "x", "Conv_im")


def test_behind_a_logarithm_convs_are_quantized() -> None:
    plan = plan_of(STFT.format(compress="Log"), FILTERS, two=TWO)
    assert placed(plan, "Conv_y") == {
        "magnitude -> Conv_y[0]: int8 per tensor",
        "w -> Conv_y[1]: int8 per channel 0",
    }


def test_a_conv_that_reads_plain_magnitudes_stays_in_float() -> None:
    plan = plan_of(STFT.format(compress="Sqrt"), FILTERS, two=TWO)
    assert "magnitudes" in why_float(plan, "magnitude", "Conv_y")
    assert not plan.placements


def test_a_filter_before_the_filters_stays_in_float_too() -> None:
    text = """g (float[1, 1, 80] x) => (float[1, 8, 1] y) {
        low = Conv (x, halve)
        re = Conv (low, real)
        y = ReduceL2 <axes = [2]> (re)
    }"""
    plan = plan_of(text, {"halve": (1, 1, 17), "real": (8, 1, 16)})
    assert "spectrum" in why_float(plan, "x", "Conv_low")


def test_a_squared_activation_function_is_no_spectrum() -> None:
    text = """g (float[4, 8] x) => (float[4, 8] y) {
        a = MatMul (x, w)
        r = Relu (a)
        square = Mul (r, r)
        y = MatMul (square, w)
    }"""
    assert len(plan_of(text, {"w": (8, 8)}).placements) == 4


def test_a_norm_that_divides_what_it_squares_is_no_spectrum() -> None:
    text = """g (float[4, 8] x) => (float[4, 8] y) {
        a = MatMul (x, w)
        square = Mul (a, a)
        power = ReduceMean <axes = [1]> (square)
        root = Sqrt (power)
        y = Div (a, root)
    }"""
    assert len(plan_of(text, {"w": (8, 8)}).placements) == 2


def test_an_embedding_that_is_normalized_to_length_one_is_no_spectrum() -> None:
    text = """g (float[4, 8] x) => (float[4, 8] y) {
        a = MatMul (x, w)
        length = ReduceL2 <axes = [1]> (a)
        y = Div (a, length)
    }"""
    assert len(plan_of(text, {"w": (8, 8)}).placements) == 2


def test_a_product_of_activations_is_no_filter_even_where_it_is_squared() -> None:
    text = """g (float[4, 4] x) => (float[4, 4] y) {
        a = MatMul (x, x)
        square = Mul (a, a)
        y = Sqrt (square)
    }"""
    assert len(plan_of(text, {}).placements) == 2


def test_filters_on_the_left_are_known_too() -> None:
    text = """g (float[64, 5] x) => (float[8, 5] y) {
        re = MatMul (real, x)
        square = Mul (re, re)
        magnitude = Sqrt (square)
        y = MatMul (mel, magnitude)
    }"""
    plan = plan_of(text, {"real": (16, 64), "mel": (8, 16)})
    assert "computes a spectrum" in why_float(plan, "x", "MatMul_re", 1)
    assert "magnitudes" in why_float(plan, "magnitude", "MatMul_y", 1)

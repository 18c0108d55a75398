"""The pictures of weights: whose they are, what is counted, what is left out."""

from __future__ import annotations

import re

import numpy as np
import pytest

from onnxqat.graph import Graph, as_graph
from onnxqat.report.html import Report, View, render
from onnxqat.report.html.weights import noisiest_weights
from tests.support.qdq_text import conv


def graph(weights: list[float], scale: float) -> Graph:
    """A Conv of 8 × 8 weights, whose channel i repeats `weights` times i + 1, and so its scale."""
    values = np.outer(np.arange(1, 9), weights)
    scales = ", ".join(f"{scale * (i + 1):.8f}" for i in range(8))
    return as_graph(
        conv(
            weights=f"float[8, 8, 1, 1] W = {{{', '.join(f'{v:.8f}' for v in values.ravel())}}}",
            weight_scale=f"float[8] ws = {{{scales}}}",
        )
    )


def test_each_weight_counts_in_units_of_its_channel_s_clip_point() -> None:
    (found,) = noisiest_weights(graph([0, 0.127, -0.127, 0.254, 0, 0, 0, 0], 0.002), 3)
    assert found.shown.tensor == "W"
    assert found.channels == 8
    assert found.clip_points == pytest.approx((0.254, 8 * 0.254), rel=1e-5)
    assert (found.shown.minimum, found.shown.maximum) == pytest.approx((-0.5, 1.0), rel=1e-4)
    counts = np.array(found.shown.counts)
    assert counts.sum() == 64
    assert [counts[0], counts[-1]] == [40, 8]  # of each channel five are 0, one is the largest
    assert found.shown.clipped == 0


def test_what_is_beyond_the_clip_point_is_counted() -> None:
    (found,) = noisiest_weights(graph([0, 0, 0, 0, 0, 0, 0.127, 0.254], 0.001), 3)
    assert found.shown.clipped == 1 / 8
    assert found.shown.extent == pytest.approx(2.0, rel=1e-4)
    # of the power 1² + 2² remains an error of (2 - 1)²
    assert found.shown.sqnr_db == pytest.approx(10 * np.log10(5), abs=0.01)


def test_the_noisiest_come_first_and_codes_alone_are_left_out() -> None:
    codes = conv(
        weights=f"int8[8, 8, 1, 1] W = {{{', '.join(str(i) for i in range(64))}}}",
        weight_pair="[W_DQ] wd = DequantizeLinear <axis = 0> (W, ws, wz)",
    )
    assert noisiest_weights(as_graph(codes), 3) == ()


@pytest.mark.parametrize("scale", ["0", "-1", "nan"])
def test_a_scale_that_makes_no_sense_draws_nothing(scale: str) -> None:
    scales = ", ".join(["0.01"] * 7 + [scale])
    spoiled = conv(weight_scale=f"float[8] ws = {{{scales}}}") if scale != "nan" else None
    subject = as_graph(spoiled) if spoiled is not None else graph([np.inf] + [0.1] * 7, 0.1)
    assert noisiest_weights(subject, 3) == ()


def test_a_page_of_a_file_alone_shows_its_weights() -> None:
    page = render(Report(title="net", subject=View("as it is", as_graph(conv()))))
    assert '<h3 id="weights">' in page
    assert re.search(r"magnitude / clip point", page)
    assert 'href="#quantizers"' in page

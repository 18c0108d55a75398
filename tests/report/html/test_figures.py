"""Figures are small SVGs in the page's own colours, the same each time."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from onnxqat.core.plan import QuantPlan
from onnxqat.report.html.figures import can_draw, histogram, loss_curve, mix_curve, sqnr_curve
from tests.support.reports import distribution, history, mix

pytestmark = pytest.mark.skipif(not can_draw(), reason="matplotlib is not installed")


def test_all_colours_are_the_pages_own():
    for svg in (histogram(distribution("t"), key="a"), loss_curve(history(), key="b")):
        assert "var(--first)" in svg
        assert re.findall(r"(?:fill|stroke): #\w+", svg) == []


def test_a_figure_is_the_same_each_time_and_small():
    first, second = (histogram(distribution("t"), key="a") for _ in range(2))
    assert first == second
    assert len(first) < 20_000


def test_ids_begin_with_the_key_and_lead_somewhere():
    svg = sqnr_curve(history(), key="k7")
    ids = set(re.findall(r' id="([^"]+)"', svg))
    assert ids
    assert all(name.startswith("k7-") for name in ids)
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)
    assert {"".join(pair) for pair in references} == ids


def test_a_histogram_of_a_tensor_that_is_never_clipped_is_drawn_too():
    wide = replace(distribution("t"), amax=8.0, clipped=0.0)
    assert "<svg" in histogram(wide, key="a")


def test_a_loss_that_is_no_number_is_left_out():
    broken = (*history(), replace(history()[-1], step=7, loss=float("nan"), validation=None))
    assert "nan" not in loss_curve(broken, key="a")


def test_steps_without_any_validation_are_drawn():
    bare = tuple(replace(record, validation=None) for record in history())
    assert "<svg" in loss_curve(bare, key="a")
    assert "<svg" in sqnr_curve(bare, key="b")


def test_plans_without_any_error_are_left_out_of_the_curve():
    found = mix(QuantPlan(), "node")
    svg = mix_curve(found, key="m")
    assert "SQNR, dB" in svg
    assert "inf" not in svg
    only = replace(found, points=found.points[:1], chosen=found.points[0])
    assert "<svg" in mix_curve(only, key="m")


def test_text_is_in_the_page_s_type():
    for svg in (histogram(distribution("t"), key="a"), loss_curve(history(), key="b")):
        assert "<text" in svg
        assert "font-family" not in svg

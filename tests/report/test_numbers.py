"""Numbers as people read them."""

from __future__ import annotations

from math import inf

import pytest

from onnxqat.report.numbers import NOTHING, decibel, megabytes, percent, share


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.9154), "91.5 %"),
        (megabytes(1_991_000), "1.991 MB"),
        (decibel(29.84), "29.8 dB"),
        (decibel(-0.4), "−0.4 dB"),
        (decibel(inf), "∞ dB"),
        (share(19, 20), "19 / 20"),
    ],
)
def test_a_number_comes_with_its_unit(text, expected):
    assert text == expected


@pytest.mark.parametrize("shown", [percent, megabytes, decibel, lambda value: share(value, 20)])
def test_what_was_not_measured_is_a_dash(shown):
    assert shown(None) == NOTHING

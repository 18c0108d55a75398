from math import comb

import pytest

from onnxqat.core.interval import paired_change, wilson


@pytest.mark.parametrize(
    ("right", "samples", "low", "high"),
    [
        # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_the_one_in_newcombes_table(right, samples, low, high) -> None:
    found = wilson(right / samples, samples)
    assert found == pytest.approx((low, high), abs=5e-5)


def test_what_was_not_counted_has_none() -> None:
    assert wilson(None, 10) is None
    assert wilson(0.5, 0) is None


def test_the_interval_of_a_change_is_agresti_and_mins_by_hand() -> None:
    """10 of 1000 lost, 6 gained: (6 - 10) / 1002 ± 1.96 · √((17 / 1002 - 0.003992²) / 1002)."""
    assert paired_change(10, 6, 1000) == pytest.approx((-0.012053, 0.004069), abs=2e-6)
    assert paired_change(None, 6, 1000) is None
    assert paired_change(0, 0, 0) is None


@pytest.mark.parametrize(("lost", "gained"), [(0.1, 0.05), (0.02, 0.02), (0.3, 0.1)])
def test_it_holds_the_true_change_in_nearly_95_of_100_samples(lost: float, gained: float) -> None:
    """Over all outcomes of 40 samples, each with its probability."""
    count, held = 40, 0.0
    for a in range(count + 1):
        for b in range(count + 1 - a):
            same = (1 - lost - gained) ** (count - a - b)
            chance = comb(count, a) * comb(count - a, b) * lost**a * gained**b * same
            low, high = paired_change(a, b, count)
            held += chance * (low <= gained - lost <= high)
    assert 0.94 < held <= 1

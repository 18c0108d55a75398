import pytest

from onnxqat.core.interval import wilson


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

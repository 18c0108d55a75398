"""How sure a share is that was counted on so many samples."""

from __future__ import annotations

import math

NORMAL_95 = 1.959963984540054
"""The normal distribution's 97.5 % quantile: for an interval that holds the truth in 95 of 100."""

Interval = tuple[float, float]


def wilson(share: float | None, samples: int, *, z: float = NORMAL_95) -> Interval | None:
    """The interval of a share (0 to 1), 95 % sure; None where nothing was counted.

    Wilson's score interval (1927, doi:10.1080/01621459.1927.10502953), which unlike the normal one
    stays within 0 and 1 and is not empty at either.
    """
    if share is None or samples < 1:
        return None
    weight = z * z / samples
    middle = (share + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * math.sqrt(share * (1 - share) / samples + weight / (4 * samples))
    return max(0.0, middle - reach), min(1.0, middle + reach)

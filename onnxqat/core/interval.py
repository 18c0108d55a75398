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


def paired_change(lost: int | None, gained: int | None, samples: int) -> Interval | None:
    """The interval of the change of a share, 95 % sure, of two answers to the same samples; None
    where they were not counted.

    Far narrower than the intervals of the two shares, since most samples answer alike. Agresti and
    Min's adjusted interval (2005, doi:10.1002/sim.1781): half a sample more in each cell.

    Args:
        lost: Samples that only the first answered right.
        gained: Samples that only the second answered right.
        samples: All of them.
    """
    if lost is None or gained is None or samples < 1:
        return None
    count = samples + 2
    change = (gained - lost) / count
    reach = NORMAL_95 * math.sqrt((gained + lost + 1) / count - change**2) / math.sqrt(count)
    return max(-1.0, change - reach), min(1.0, change + reach)

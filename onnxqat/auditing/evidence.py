"""What was measured of a model, for the rules that look at more than the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.core.comparison import Comparison
from onnxqat.core.engine_plan import EnginePlan


@dataclass(frozen=True, eq=False)
class Observed:
    """The values of one activation, on data."""

    statistics: TensorStatistics
    channel_amax: NDArray[np.float32]
    """The largest magnitude of each channel: dimension 1 of images and sequences, else the last."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """None, or empty, where a thing was not measured: the rules that need it then are silent."""

    engine: EnginePlan | None = None
    """What the compiler made of the file."""
    refusal: str | None = None
    """What the compiler said when it refused the file."""
    refused_node: str | None = None
    """The node that it refused, where it said which."""
    comparison: Comparison | None = None
    """The file against its float reference, on data."""
    observed: Mapping[str, Observed] = field(default_factory=dict)
    """The values of quantized activations, on data, by tensor name."""


NOTHING = Evidence()
"""No measurement: the file alone."""

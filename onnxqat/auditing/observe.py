"""What the quantized activations of a Q/DQ model are on data: histograms, and channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnxqat.auditing.audit import Model
from onnxqat.auditing.evidence import Observed
from onnxqat.auditing.subject import Subject
from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.calibration.runtime import TensorReader
from onnxqat.core.errors import DataError
from onnxqat.data import Dataset
from onnxqat.graph import as_graph

SAMPLES = 64
"""Enough for ranges: an audit shows what is far off, calibration finds what is best."""


def observe(
    model: Model, data: Dataset, *, samples: int = SAMPLES, batch_size: int = 8
) -> Mapping[str, Observed]:
    """The values that each QuantizeLinear of activations reads, by tensor name.

    Args:
        model: The Q/DQ model, which is run as it is.
        data: Samples; memory does not depend on their number.
        samples: How many are used.
        batch_size: How many are run at a time.

    Raises:
        DataError: The data does not fit the model, or makes an activation NaN or infinite.
        ModelError: ONNX Runtime cannot run the model.
    """
    graph = as_graph(model)
    own = {id(tensor) for node in graph.nodes for tensor in (*node.outputs, *graph.inputs)}
    quantized = [node.inputs[0] for node, _ in Subject(graph).activations]
    names = tuple(dict.fromkeys(t.name for t in quantized if id(t) in own))
    reader = TensorReader(graph, names)
    seen: dict[str, Observed] = {}
    for batch in data.batches(batch_size, samples=samples):
        for name, values in reader(batch.inputs).items():
            seen[name] = _with(seen.get(name), name, values)
    return seen


def _with(before: Observed | None, name: str, values: NDArray[np.float32]) -> Observed:
    amax = _channel_amax(values)
    known = before or Observed(TensorStatistics(), amax)
    if not known.statistics.observe(values):
        raise DataError(
            "an activation is NaN or infinite", tensor=name, fix="leave such samples out"
        )
    if known.channel_amax.shape != amax.shape:
        return known  # a dimension that is not the channel after all
    return replace(known, channel_amax=np.maximum(known.channel_amax, amax))


def _channel_amax(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if values.ndim < 2:
        return np.asarray([np.abs(values).max(initial=0)], np.float32)
    axis = 1 if values.ndim > 3 else values.ndim - 1
    over = tuple(i for i in range(values.ndim) if i != axis)
    amax: NDArray[np.float32] = np.abs(values).max(axis=over, initial=0)
    return amax

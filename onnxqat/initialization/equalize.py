"""Equalization: channels of like range in what is quantized with one scale.

An activation has one scale for all its channels, so a channel of small values keeps few codes where
another is large. Dividing the channels by factors, which the layers behind multiply back, changes
nothing that the network computes, and everything about its rounding errors: those of the activation
shrink, and those of the weights behind grow, whose scales are one an output channel.

- `equalize`: from layer to layer (cross-layer equalization, Nagel et al. 2019, arXiv:1906.04721,
  section 4.1; it looks at weights alone, which here have a scale a channel, and at activations).
- `smooth`: from a normalization to the layers behind (SmoothQuant, Xiao et al. 2022,
  arXiv:2211.10438, section 4).

Both take SmoothQuant's factors, amax(x)^a / amax(W)^(1-a); of several strengths a, and no change at
all, each place gets the one with the least error in the products of quantized rows with quantized
weights.

An upper limit between two layers, as of ReLU6, ends a link: it would have to become a limit a
channel, which is one more node, for 0.4 dB on MobileNet v1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.calibration.receptive import Rows, sample_rows
from onnxqat.calibration.runtime import TensorReader
from onnxqat.calibration.weights import weight_amax
from onnxqat.core.calibration import amax_to_scale
from onnxqat.core.qdq import fake_quantize
from onnxqat.core.spec import FORMATS, PerChannel, QuantFormat, QuantSpec
from onnxqat.data import Batch, Dataset
from onnxqat.graph import Change, Graph
from onnxqat.graph.names import Names
from onnxqat.graph.rescale import (
    NORMS,
    Link,
    Reader,
    Refusal,
    largest_weights,
    links,
    output_matrix,
    rescale,
)
from onnxqat.initialization.config import FLOAT_STAGES
from onnxqat.initialization.context import ignore

Doubles = NDArray[np.float64]

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""How much of the differences goes from the activation into the weights behind: 1 is all."""
ENOUGH_GAIN = 0.95
"""Channels are rescaled where that brings the error below this share of before."""
ROWS = 256
"""Of each layer's input, to measure errors on."""
SMALLEST = 1e-3
"""Share of the largest range below which a channel counts as one of this range."""


def equalize(
    graph: Graph,
    data: Dataset,
    *,
    stages: Sequence[str] = FLOAT_STAGES,
    quant_format: QuantFormat = FORMATS["int8"],
    samples: int = 64,
    on_change: Callable[[Change], None] = ignore,
) -> Graph:
    """A graph that computes the same up to float32's rounding, easier to quantize.

    Args:
        graph: A prepared FP32 graph; it is not changed.
        data: Samples, of which the first ones show the ranges.
        stages: `equalize`, `smooth` or both.
        quant_format: What activations and weights will be quantized to.
        samples: How many samples.
        on_change: Called with each place that was rescaled, or could not be, and why.

    Raises:
        DataError: The data does not fit the model.
        ModelError: ONNX Runtime cannot run the model.
    """
    result: Graph = graph.copy()
    found = []
    for link in links(result):
        if isinstance(link, Refusal):
            on_change(Change("channels kept", link.node, link.reason))
        elif _stage_of(link) in stages:
            found.append(link)
    seen = _observe(result, found, list(data.batches(16, samples=samples)))
    names = Names(result)
    for link in found:
        on_change(_improve(link, seen, quant_format, names))
    return result


def _stage_of(link: Link) -> str:
    return "smooth" if link.producer.op in NORMS else "equalize"


@dataclass(eq=False)
class _Seen:
    """What a layer reads."""

    amax: Doubles
    """Of each input channel."""
    rows: list[Rows]


def _observe(graph: Graph, found: Sequence[Link], batches: Sequence[Batch]) -> Mapping[str, _Seen]:
    """By the names of the layers that read."""
    readers = [(link, reader) for link in found for reader in link.readers]
    seen: dict[str, _Seen] = {}
    if not readers:
        return seen
    read = TensorReader(graph, sorted({reader.tensor for _, reader in readers}))
    generator = np.random.default_rng(0)
    for batch in batches:
        values = read(batch.inputs)
        for link, reader in readers:
            x = values[reader.tensor]
            entry = seen.setdefault(reader.node.name, _Seen(np.zeros(1), []))
            entry.amax = np.maximum(entry.amax, _channel_amax(x, link, reader))
            entry.rows.append(_rows(reader.node, x, -(-ROWS // len(batches)), generator))
    return seen


def _channel_amax(x: NDArray[np.float32], link: Link, reader: Reader) -> Doubles:
    """Of the producer's channels, in what a reader reads."""
    axis = 1 if reader.node.op in ("Conv", "ConvTranspose", "Gemm") else -1
    largest = np.abs(np.moveaxis(x, axis, -1)).reshape(-1, x.shape[axis]).max(axis=0, initial=0)
    found: Doubles = largest.reshape(link.channels, -1).max(axis=1).astype(np.float64)
    return found


def _rows(
    node: gs.Node, x: NDArray[np.float32], count: int, generator: np.random.Generator
) -> Rows:
    """[rows, groups, values of a row]; for a ConvTranspose, the channels of single pixels."""
    if node.op != "ConvTranspose":
        return sample_rows(node, x, count, generator)
    group = int(node.attrs.get("group", 1))
    pixels = np.moveaxis(x, 1, -1).reshape(-1, group, x.shape[1] // group)
    return pixels[generator.integers(0, len(pixels), count)]


def _improve(
    link: Link, seen: Mapping[str, _Seen], quant_format: QuantFormat, names: Names
) -> Change:
    """Rescale a link by the best factors, if there are any."""
    amax = _floored(np.max([seen[reader.node.name].amax for reader in link.readers], axis=0))
    largest = _floored(np.max([largest_weights(r, link.channels) for r in link.readers], axis=0))
    trials = [
        _Trial(reader, seen[reader.node.name], quant_format, link.channels)
        for reader in link.readers
    ]
    before = _total(trials, np.ones_like(amax))
    every = [_factors(amax, largest, strength) for strength in STRENGTHS]
    errors = [_total(trials, factors) for factors in every]
    best = int(np.argmin(errors))
    if not errors[best] < ENOUGH_GAIN * before:
        return Change("channels kept", link.producer.name, "no factors make a smaller error")
    rescale(link, every[best], names)
    readers = ", ".join(f"'{reader.node.name}'" for reader in link.readers)
    return Change(
        _stage_of(link),
        link.producer.name,
        f"ranges moved into {readers} with strength {STRENGTHS[best]}: {errors[best] / before:.0%} "
        "of the quantization error in their products is left",
    )


def _floored(amax: Doubles) -> Doubles:
    """Without channels that are (nearly) dead, whose factors would be without measure."""
    floored: Doubles = np.maximum(amax, max(SMALLEST * float(amax.max()), 1e-30))
    return floored


def _factors(amax: Doubles, largest: Doubles, strength: float) -> Doubles:
    """What channels are divided by; the largest range stays."""
    factors: Doubles = amax**strength / largest ** (1 - strength)
    return factors * float((amax / factors).max() / amax.max())


def _total(trials: Sequence[_Trial], factors: Doubles) -> float:
    return sum(trial(factors) for trial in trials)


class _Trial:
    """The relative squared error in a layer's products when both sides are quantized."""

    def __init__(
        self, reader: Reader, seen: _Seen, quant_format: QuantFormat, channels: int
    ) -> None:
        self._rows = np.concatenate(seen.rows).transpose(1, 0, 2)  # [groups, rows, values]
        self._amax, self._format = seen.amax, quant_format
        self._matrix = output_matrix(reader.node)
        groups, _, values = self._rows.shape
        self._spread = groups * values // channels
        self._wanted = self._product(self._rows, self._matrix)
        self._energy = float(np.square(self._wanted, dtype=np.float64).sum()) or 1.0

    def __call__(self, factors: Doubles) -> float:
        """With the input channels divided by factors [channels]."""
        groups, _, values = self._rows.shape
        divided = np.repeat(factors, self._spread).reshape(groups, 1, values).astype(np.float32)
        activation, weight = self._format.activation, self._format.weight
        scale = amax_to_scale(np.array((self._amax / factors).max()), activation)
        rows = fake_quantize(self._rows / divided, np.asarray(scale), dtype=activation)
        matrix = self._matrix.reshape(groups, -1, values) * divided
        matrix = matrix.reshape(self._matrix.shape)
        amax, _ = weight_amax(matrix, QuantSpec(weight, PerChannel(0)))
        scales = amax_to_scale(np.maximum(amax, 1e-30), weight)
        matrix = fake_quantize(matrix, scales, dtype=weight, axis=0)
        error = self._product(rows, matrix) - self._wanted
        return float(np.square(error, dtype=np.float64).sum()) / self._energy

    def _product(self, rows: Rows, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """[groups, rows, outputs of a group]."""
        split = matrix.reshape(len(rows), -1, rows.shape[2])
        product: NDArray[np.float32] = rows @ split.transpose(0, 2, 1)
        return product

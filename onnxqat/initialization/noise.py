"""What rounding to codes does to a network's outputs, by first order.

Rounding adds to each value of a tensor an error that is nearly uniform and independent of all
others, of variance scale² / 12 (Bennett 1948). What the outputs see of it is that times the square
of their derivative. The derivatives of all outputs with respect to all tensors come from a few
backward passes of random combinations of the outputs: the mean square of a random combination's
derivative is the sum of the outputs' squared ones (Hutchinson's estimator).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxqat.bridge import to_torch
from onnxqat.data import Batch
from onnxqat.graph import Graph
from onnxqat.training.names import parameters_by_name
from onnxqat.training.run import run_module

UNIFORM = 1 / 12
"""Variance of a uniform error, in squared steps."""
SHARES = torch.exp2(torch.arange(-63, 1) / 8).double()
"""Of a limit, [64]: where the gain of what lies below is told apart, eight to an octave."""


NO_LIMITS: Mapping[str, float] = MappingProxyType({})


@dataclass(eq=False)
class Exposed:
    """A tensor, and how the outputs react to errors in it."""

    amax: Tensor
    """Largest magnitude: of each channel of an activation, [C]; of each value of a weight."""
    gain: Tensor
    """What an error of variance 1 in each value adds to the outputs' squared error over their
    variance, in the mean over samples; shaped as `amax`. A value of 0 is rounded without error."""
    spread: Tensor | None = None
    """Of a limited activation, [C, 64]: the gain of the values up to each of `SHARES`."""

    def take(self, other: Exposed) -> None:
        """Add what another batch shows."""
        self.amax = torch.maximum(self.amax, other.amax)
        self.gain = self.gain + other.gain
        if self.spread is not None and other.spread is not None:
            self.spread = self.spread + other.spread

    def mean(self, samples: int) -> Exposed:
        """In float64, with the gain of one sample."""
        spread = None if self.spread is None else self.spread / samples
        return Exposed(self.amax.double(), self.gain.double() / samples, spread)


def observe(
    graph: Graph,
    axes: Mapping[str, int],
    weights: Sequence[str],
    batches: Iterable[Batch],
    *,
    limits: Mapping[str, float] = NO_LIMITS,
) -> dict[str, Exposed]:
    """The named activations and weights, by name, in float64.

    Without what computes no gradient, as whatever is before an operator that torch does not know.

    Args:
        graph: A float graph.
        axes: Activation -> the axis of its channels.
        weights: Initializers.
        batches: What the graph is run on; many small ones tell more than few large ones.
        limits: Activation -> the magnitude that none of its values exceeds.

    Raises:
        ModelError: The graph computes no tensor of such a name.
    """
    observer = _Observer(graph, axes, weights, limits)
    found: dict[str, Exposed] = {}
    samples = 0
    for batch in batches:
        samples += len(batch)
        for name, seen in observer.look(batch):
            if name in found:
                found[name].take(seen)
            else:
                found[name] = seen
    return {name: exposed.mean(samples) for name, exposed in found.items()}


class _Observer:
    """A graph in torch, with a gradient in everything that is observed."""

    def __init__(
        self,
        graph: Graph,
        axes: Mapping[str, int],
        weights: Sequence[str],
        limits: Mapping[str, float],
    ) -> None:
        module = to_torch(graph, fallback="onnxruntime")
        parameters = parameters_by_name(module)
        self._weights = {name: parameters[name] for name in weights if name in parameters}
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        for weight in self._weights.values():
            weight.requires_grad_(True)
        self._inputs, self._outputs = module.input_names, module.output_names
        self._axes, self._limits = axes, limits
        known = {*self._inputs, *self._outputs}
        self._module = module.with_outputs([name for name in axes if name not in known])
        self._generator = torch.Generator().manual_seed(0)

    def look(self, batch: Batch) -> Iterator[tuple[str, Exposed]]:
        """What one batch shows of each."""
        inputs = tuple(_with_gradient(batch.inputs[name]) for name in self._inputs)
        values = run_module(self._module, inputs) | dict(zip(self._inputs, inputs, strict=True))
        seen: dict[str, Tensor] = {**self._weights}
        seen |= {name: values[name] for name in self._axes if _has_gradient(values[name])}
        if not seen:  # of a plan that quantizes nothing of it
            return
        gradients = torch.autograd.grad(
            self._probe(values, len(batch)), tuple(seen.values()), allow_unused=True
        )
        for (name, value), gradient in zip(seen.items(), gradients, strict=True):
            if gradient is not None:
                yield name, self._exposed(name, value.detach().abs(), gradient.square())

    def _exposed(self, name: str, magnitude: Tensor, square: Tensor) -> Exposed:
        """From its magnitudes and its squared derivatives."""
        if name not in self._axes:
            return Exposed(magnitude, square)
        magnitude, square = (
            values.movedim(self._axes[name], 0).flatten(1) for values in (magnitude, square)
        )
        square = square * (magnitude != 0)
        spread = None
        if name in self._limits:
            spread = _spread(magnitude / self._limits[name], square)
        return Exposed(magnitude.amax(1), square.sum(1), spread)

    def _probe(self, values: Mapping[str, Tensor], samples: int) -> Tensor:
        """A random combination of all outputs, each by its own deviation."""
        total = torch.zeros((), requires_grad=True)
        for name in self._outputs:
            value = values[name]
            if _has_gradient(value):
                draw = torch.randn(value.shape, generator=self._generator)
                spread = value.detach().std(correction=0)
                spread = torch.where(spread > 0, spread, 1.0)  # of one value, or of constants
                total = total + (value * draw).sum() / (spread * (value.numel() / samples) ** 0.5)
        return total


def _spread(shares: Tensor, square: Tensor) -> Tensor:
    """Sums of [C, n] squares by the share of the limit that each value has, [C, 64]."""
    bins = torch.bucketize(shares, SHARES.float()).clamp_max(len(SHARES) - 1)
    sums = torch.zeros(len(shares), len(SHARES), dtype=torch.float64)
    return sums.scatter_add_(1, bins, square.double())


def _with_gradient(array: NDArray[Any]) -> Tensor:
    tensor = torch.from_numpy(array.copy())
    return tensor.requires_grad_(tensor.is_floating_point())


def _has_gradient(value: object) -> bool:
    """Not so of sequences, which are lists."""
    return isinstance(value, Tensor) and value.requires_grad

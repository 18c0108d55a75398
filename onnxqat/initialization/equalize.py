"""The stages of the FP32 model. Equalization: channels of like importance in what has one scale.

An activation has one scale for all its channels, so a channel of small values keeps few codes where
another is large. Dividing the channels by factors, which the layers behind multiply back, changes
nothing that the network computes, and everything about its rounding errors: those of the activation
shrink, and those of the weights behind grow, whose scales are one an output channel.

- `align` is another matter, in a file of its own: whole numbers of the input's values.
- `equalize`: from layer to layer (cross-layer equalization, Nagel et al. 2019, arXiv:1906.04721,
  section 4.1), through residual sums and Concats too, whose channels are divided alike all over.
- `smooth`: from a normalization to the layers behind (SmoothQuant, Xiao et al. 2022,
  arXiv:2211.10438, section 4).

Both papers have formulas for the factors, from ranges alone. Here they are the ones by which
rounding does the least to the network's outputs, by first order (see `noise`): a range that the
outputs hardly look at may stay wide.

A limit between two layers, as of ReLU6, stays where it is, so that what is multiplied may be cut. A
channel is multiplied as far as what is cut off, too, does less to the outputs than its rounding
did; the samples have to show how far it reaches. Outputs of other samples change by that: on
MobileNet v1 by 37 dB, where INT8 changes them by 19.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxqat.core.errors import ConfigError
from onnxqat.core.plan import QuantPlan
from onnxqat.core.spec import Edge, PerChannel, QuantDtype
from onnxqat.data import Dataset
from onnxqat.graph import Change, Graph
from onnxqat.graph.channel_groups import Group, Layer, Refusal, groups
from onnxqat.graph.names import Names
from onnxqat.graph.rescale import as_matrix, input_matrix, rescale
from onnxqat.initialization.align import align
from onnxqat.initialization.config import FLOAT_STAGES
from onnxqat.initialization.context import KEPT, ignore
from onnxqat.initialization.noise import SHARES, UNIFORM, Exposed, observe
from onnxqat.training.setting import on_threads

Doubles = NDArray[np.float64]

_BY_FACTORS = frozenset({"equalize", "smooth"})
ENOUGH_GAIN = 0.95
"""Channels are rescaled where that brings the error below this share of before."""
SAMPLES_READ = 32
"""At a time, where only values are looked at."""
SAMPLES_A_PASS = 4
"""Each backward pass combines the outputs anew: small batches make many of them."""
STEPS = 300
"""Of the search for factors."""
STEP = 0.1
"""Of the factors' logarithms, falling to 0."""
WIDEST = math.log(1000.0)
"""Limit of the factors' logarithms."""
ALIKE = 16.0
"""How much worse than rounding, for its size, it is to cut: all its errors point the same way. On
MobileNet v1 any number from 4 to 100 gains about as much."""
ROWS = 256
"""Output channels of a layer whose weights are looked at; they stand for the others."""


def equalize(
    graph: Graph,
    plan: QuantPlan,
    data: Dataset,
    *,
    stages: Sequence[str] = FLOAT_STAGES,
    samples: int = 1024,
    threads: int | None = None,
    on_change: Callable[[Change], None] = ignore,
) -> Graph:
    """A graph that computes the same up to float32's rounding, and to what a ReLU6 or the like now
    cuts (see above), easier to quantize.

    Args:
        graph: A prepared FP32 graph; it is not changed.
        plan: Where it will be quantized, and to what. Tensors keep their names, so that the plan
            holds for the result as well.
        data: Samples, of which the first ones show ranges and gradients.
        stages: Some of `align` (see there), `equalize` and `smooth`.
        samples: How many samples. Few show too small ranges: on ResNet-20 256 cost 0.4 dB.
        threads: Of torch on the CPU; None: torch's choice, every core.
        on_change: Called with each place that was rescaled, or could not be, and why.

    Raises:
        ConfigError: A stage is none of these.
        DataError: The data does not fit the model.
        ModelError: The model cannot be run.
    """
    _require_float(stages)
    result: Graph = graph.copy()
    if "align" in stages:
        batches = data.batches(SAMPLES_READ, samples=samples)
        align(result, plan, batches, threads=threads, on_change=on_change)
    found = []
    for group in groups(result) if _BY_FACTORS & set(stages) else ():
        if isinstance(group, Refusal):
            on_change(Change(KEPT, group.node, group.reason))
        elif _stage_of(group) in stages:
            found.append(group)
    if not found:
        return result
    axes = {tied.name: tied.axis for group in found for tied in group.tensors}
    limits = {limit.tensor: limit.magnitude for group in found for limit in group.limits}
    edges = {_weight_edge(reader) for group in found for reader in group.readers}
    scales = _shared_scales(plan)
    with on_threads(threads):
        seen = observe(
            result,
            {name: axis for name, axis in axes.items() if name in scales or name in limits},
            sorted({edge.tensor for edge in edges if edge in plan.by_edge}),
            data.batches(SAMPLES_A_PASS, samples=samples),
            limits=limits,
        )
        errors = [_Error(group, plan, scales, seen) for group in found]
        names = Names(result)
        for group, error in zip(found, errors, strict=True):  # built before a weight changes
            on_change(_improve(group, error, names))
    return result


def _require_float(stages: Sequence[str]) -> None:
    for stage in stages:
        if stage not in FLOAT_STAGES:
            raise ConfigError(
                f"'{stage}' is no stage of the FP32 model",
                fix=f"choose among: {', '.join(FLOAT_STAGES)}",
            )


def _stage_of(group: Group) -> str:
    return "smooth" if group.is_behind_norms else "equalize"


def _weight_edge(reader: Layer) -> Edge:
    return Edge(reader.node.inputs[1].name, reader.node.name, 1)


@dataclass(frozen=True)
class _Scale:
    """What tensors of one scale have in common."""

    leader: Edge
    dtype: QuantDtype


def _shared_scales(plan: QuantPlan) -> Mapping[str, _Scale]:
    """By the tensors that are quantized."""
    found = {}
    for leader, tensors in plan.groups.items():
        scale = _Scale(leader, plan.spec_of(leader).dtype)
        found.update(dict.fromkeys(tensors, scale))
    return found


def _improve(group: Group, error: _Error, names: Names) -> Change:
    """Rescale a group by the best factors, if there are any."""
    factors, left = error.minimize()
    if not left < ENOUGH_GAIN:
        return Change(KEPT, group.name, "no factors make the error at the outputs much smaller")
    rescale(group, factors, names)
    readers = ", ".join(f"'{reader.node.name}'" for reader in group.readers)
    cut = "; what reaches farther than in the samples may be cut" if group.limits else ""
    return Change(
        _stage_of(group),
        group.name,
        f"ranges moved into {readers} by factors of {factors.min():.2g} to {factors.max():.2g}: "
        f"{left:.0%} of what rounding them does to the outputs is left{cut}",
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """Numbers that are rounded alike."""

    amax: Tensor
    """[rows, values of a row]; a row has one scale."""
    gain: Tensor
    channels: Tensor
    """Of the group, [rows, values of a row] or [1, values of a row]."""
    qmax: int
    is_weight: bool
    """Weights are multiplied by what activations are divided by."""
    limit: Tensor | float = math.inf
    """Of the values' magnitudes, broadcasts against them."""

    def __call__(self, logarithms: Tensor) -> Tensor:
        """The outputs' error, with the factors' logarithms [size]."""
        factors = logarithms[self.channels].exp()
        times = factors if self.is_weight else 1 / factors
        largest = (self.amax * times).clamp_max(self.limit).max(1)
        gain = self.gain / times**2
        total = gain.sum(1)
        if self.is_weight:  # a row's largest weight is its last code, without error
            total = total - gain.gather(1, largest.indices[:, None])[:, 0]
        return UNIFORM * ((largest.values / self.qmax) ** 2 * total).sum()


@dataclass(frozen=True, eq=False)
class _Cut:
    """Values that a limit cuts."""

    spread: Tensor
    """[C, 64], see `Exposed`."""
    magnitude: float
    channels: Tensor
    """Of the group, [C]."""

    def __call__(self, logarithms: Tensor) -> Tensor:
        """The outputs' error, with the factors' logarithms [size]."""
        over = (SHARES - logarithms[self.channels].exp()[:, None]).clamp_min(0) * self.magnitude
        return ALIKE * (self.spread * over**2).sum()


class _Error:
    """What rounding a group's activations, and the weights that read them, does to the outputs."""

    def __init__(
        self,
        group: Group,
        plan: QuantPlan,
        scales: Mapping[str, _Scale],
        seen: Mapping[str, Exposed],
    ) -> None:
        self._size = group.size
        activations = list(_activations(group, scales, seen))
        weights, cuts = _weights(group, plan, seen), _cuts(group, seen)
        self._parts: list[Callable[[Tensor], Tensor]] = [*activations, *weights, *cuts]
        self._is_known = bool(activations) and all(x.tensor in seen for x in group.limits)
        self._highest = torch.full((group.size,), WIDEST, dtype=torch.float64)
        for limit in group.limits:
            self._highest[torch.from_numpy(limit.channels)] = 0.0
        self._has_limits = bool(group.limits)

    def minimize(self) -> tuple[Doubles, float]:
        """The best factors, and what share of the error they leave. Without a limit only their
        ratios count: their geometric mean is 1.
        """
        if not self._is_known:
            return np.ones(self._size), 1.0
        logarithms = torch.zeros(self._size, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([logarithms])
        best, first, least = logarithms.detach().clone(), 0.0, math.inf
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = STEP * (1 - step / STEPS)
            optimizer.zero_grad()
            error = self(logarithms)
            value = float(error.detach())
            if not 0 < value < math.inf:
                break
            first = first or value
            if value < least:
                best, least = logarithms.detach().clone(), value
            error.log().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            with torch.no_grad():
                logarithms.copy_(logarithms.clamp_min(-WIDEST).minimum(self._highest))
        if not first:
            return np.ones(self._size), 1.0
        mean = 0.0 if self._has_limits else best.mean()
        return (best - mean).exp().numpy(), least / first

    def __call__(self, logarithms: Tensor) -> Tensor:
        """The error with factors."""
        return torch.stack([part(logarithms) for part in self._parts]).sum()


def _activations(
    group: Group, scales: Mapping[str, _Scale], seen: Mapping[str, Exposed]
) -> Iterator[_Part]:
    """One part for each scale; FP8's errors follow the values, whatever the scale."""
    by_scale: dict[Edge, list[tuple[Exposed, Tensor, float]]] = {}
    limits = {limit.tensor: limit.magnitude for limit in group.limits}
    qmax = {}
    for tied in group.tensors:
        scale = scales.get(tied.name)
        if scale is None or scale.dtype.is_float or tied.name not in seen:
            continue
        limit = limits.get(tied.name, math.inf)
        entry = (seen[tied.name], torch.from_numpy(tied.channels), limit)
        by_scale.setdefault(scale.leader, []).append(entry)
        qmax[scale.leader] = scale.dtype.qmax
    for leader, entries in by_scale.items():
        yield _Part(
            torch.cat([exposed.amax for exposed, _, _ in entries])[None],
            torch.cat([exposed.gain for exposed, _, _ in entries])[None],
            torch.cat([channels for _, channels, _ in entries])[None],
            qmax[leader],
            is_weight=False,
            limit=torch.cat([torch.full_like(x.amax, limit) for x, _, limit in entries])[None],
        )


def _cuts(group: Group, seen: Mapping[str, Exposed]) -> Iterator[_Cut]:
    """One part for each limit."""
    for limit in group.limits:
        if limit.tensor in seen and (spread := seen[limit.tensor].spread) is not None:
            yield _Cut(spread, limit.magnitude, torch.from_numpy(limit.channels))


def _weights(group: Group, plan: QuantPlan, seen: Mapping[str, Exposed]) -> Iterator[_Part]:
    """One part for each layer that reads the group."""
    for reader in group.readers:
        edge = _weight_edge(reader)
        if edge not in plan.by_edge or edge.tensor not in seen:
            continue
        spec = plan.spec_of(edge)
        if spec.dtype.is_float:
            continue
        weights, channels = input_matrix(reader)
        gain = as_matrix(reader.node, seen[edge.tensor].gain.numpy())
        parts: list[NDArray[Any]] = [np.abs(weights).astype(np.float64), gain, channels]
        is_by_row = isinstance(spec.granularity, PerChannel)
        if is_by_row:
            rows = np.linspace(0, len(gain) - 1, min(len(gain), ROWS)).astype(int)
            parts = [part[rows] for part in parts]
            parts[1] = parts[1] * (len(gain) / len(rows))
        else:
            parts = [part.reshape(1, -1) for part in parts]
        amax, gains, index = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
        yield _Part(amax, gains, index, spec.dtype.qmax, is_weight=True)

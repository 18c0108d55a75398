"""What a network and its quantized form compute up to a cut, kept for the parts behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onnxqat.bridge import OnnxModule, to_torch
from onnxqat.graph.cuts import section
from onnxqat.training.names import parameters_by_name

Values = dict[str, Tensor]
"""Tensors by name, of one batch."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Batches on their way through both networks, side by side."""

    start: str | None
    """The cut that they have reached; None: they have not begun."""
    student: tuple[Values, ...]
    """For each batch, the graph's inputs, which any part may need, and the tensor at the cut."""
    teacher: tuple[Values, ...]

    def at(self, cut: str | None, student: OnnxModule, teacher: OnnxModule) -> Stream:
        """These batches one cut further; what lay at the cut before is not kept."""
        if cut == self.start:
            return self
        ours, theirs = self.without_cut(self.student), self.without_cut(self.teacher)
        if cut is None:
            return Stream(None, ours, theirs)
        ends = (cut,)
        quantized = compute(part_of(student, self.start, ends), self.student)
        wanted = compute(part_of(teacher, self.start, ends), self.teacher)
        return Stream(cut, _joined(ours, quantized), _joined(theirs, wanted))

    def without_cut(self, batches: Sequence[Values]) -> tuple[Values, ...]:
        """The graph's inputs alone."""
        return tuple({k: v for k, v in values.items() if k != self.start} for values in batches)

    def first(self, count: int) -> Stream:
        """The first batches."""
        return Stream(self.start, self.student[:count], self.teacher[:count])


def part_of(module: OnnxModule, start: str | None, ends: Sequence[str]) -> OnnxModule:
    """A module of the nodes between two cuts, with the values that the whole has now."""
    part = to_torch(section(module.graph, start, ends), fallback=module.fallback)
    copy_values(module, part)
    return part.to(next(module.parameters()).device)


@torch.no_grad()
def copy_values(source: OnnxModule, target: OnnxModule) -> None:
    """Give each parameter that both have the source's value."""
    values = parameters_by_name(source)
    for name, parameter in parameters_by_name(target).items():
        parameter.copy_(values[name]) if name in values else None


def feed(module: OnnxModule, values: Values) -> Values:
    """The module's outputs by name, for the inputs among these values."""
    outputs = module(*(values[name] for name in module.input_names))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return dict(zip(module.output_names, outputs, strict=True))


@torch.no_grad()
def compute(module: OnnxModule, batches: Sequence[Values]) -> list[Values]:
    """The outputs for each batch."""
    return [feed(module, values) for values in batches]


def _joined(batches: Sequence[Values], more: Sequence[Values]) -> tuple[Values, ...]:
    return tuple({**ours, **theirs} for ours, theirs in zip(batches, more, strict=True))

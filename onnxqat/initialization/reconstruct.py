"""Rebuild a network part after part: each learns to answer as the FP32 part does, from the inputs
that the quantized parts before it give.

What a part has to learn is near at hand. So it takes few samples and few, short steps, and gets
there where the gradient through a whole network of coarse weights does not.

  adaround     layer after layer, by rounding up or down (Nagel et al. 2020, arXiv:2004.10568)
  brecq        block after block, by rounding and by the activations' scales (Li et al. 2021,
               arXiv:2102.05426)
  reconstruct  block after block, by all that fine-tuning trains: weights through the
               straight-through estimator, biases and scales
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from onnxqat.bridge import OnnxModule
from onnxqat.graph import Graph
from onnxqat.initialization.blocks import Part, blocks, layers
from onnxqat.initialization.context import Context
from onnxqat.initialization.soft_rounding import SoftRounding
from onnxqat.initialization.stream import Stream, Values, compute, copy_values, feed, part_of
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.losses import Loss, mse, observe_outputs
from onnxqat.training.names import parameters_by_name
from onnxqat.training.optimizer import Rates, make_optimizer, set_rates
from onnxqat.training.parameters import Coordinates, Kind
from onnxqat.training.schedule import rate_factor
from onnxqat.training.start import start_from_teacher
from onnxqat.training.targets import Targets, choose_targets

CACHE_BYTES = 2**30
"""Of activations that are kept between two parts; further batches are left out. In layers so wide,
each sample has thousands of positions to learn from."""
COPIES = 3
"""Of the activations at a cut: both networks', and what the part is to answer."""
WARMUP = 0.05
"""Share of the steps in which the rates rise."""

RATES = Rates(weight=1e-2, bias=1e-3, scale=5e-3, weight_scale=5e-4)
"""Few steps for each part want longer ones; scales that move far spoil small parts."""

Example = tuple[Values, Values]
"""What a part is given, and what it is to answer."""


def adaround(context: Context) -> None:
    """Learn layer after layer which weights to round up."""
    _Reconstruction(context, by_layer=True, rounds=True, scales=False).run()


def brecq(context: Context) -> None:
    """Learn block after block which weights to round up, with the activations' scales."""
    _Reconstruction(context, by_layer=False, rounds=True, scales=True).run()


def reconstruct(context: Context) -> None:
    """Fine-tune block after block."""
    _Reconstruction(context, by_layer=False, rounds=False, scales=True).run()


@dataclass(frozen=True, eq=False)
class _Reconstruction:
    """One pass over the network, from the inputs on."""

    context: Context
    by_layer: bool
    rounds: bool
    """Only the rounding of weights is learned; else weights and biases move freely."""
    scales: bool
    """Whether activation scales are learned."""
    settled: set[str] = field(default_factory=set)
    """Initializers of earlier parts: where later parts share one, it stays as it is."""

    def run(self) -> None:
        """Rebuild each part."""
        student, teacher = self.context.student, self.context.teacher
        start_from_teacher(student, teacher)
        known = tensor_names(student.graph)
        parts = blocks(teacher.graph, known)
        stream = _begin(self.context, parts)
        for block in parts:
            for part in layers(teacher.graph, block, known) if self.by_layer else (block,):
                self._rebuild(part, stream.at(part.start, student, teacher))
            if block is not parts[-1]:
                stream = stream.at(block.ends[0], student, teacher)

    def _rebuild(self, part: Part, stream: Stream) -> None:
        """Train one part, and keep what came out if it is better."""
        student = part_of(self.context.student, part.start, part.ends)
        wanted = compute(part_of(self.context.teacher, part.start, part.ends), stream.teacher)
        facts = observe_outputs(wanted)
        if not facts:
            return
        loss = mse(facts)
        examples = list(zip(stream.student, wanted, strict=True))
        before = _error(student, examples, loss)
        self._train(student, examples, loss, error=before)
        if _error(student, examples, loss) < before:
            copy_values(student, self.context.student)
        self.settled.update(parameters_by_name(student))

    def _train(
        self, student: OnnxModule, examples: Sequence[Example], loss: Loss, *, error: float
    ) -> None:
        config = FinetuneConfig(
            scales="auto" if self.scales else "frozen",
            weight_scales="frozen" if self.rounds else "auto",
        )
        targets = self._unsettled(choose_targets(student, config), student)
        rounding = _rounding(student, targets, error) if self.rounds else None
        entries = [e for e in targets.trained if not self.rounds or e.kind is Kind.SCALE]
        coordinates = Coordinates(entries)
        optimizer = make_optimizer(config, coordinates, RATES) if entries else None
        steps = self.context.config.iterations
        for step, (given, wanted) in enumerate(self._drawn(examples, steps), start=1):
            value = loss(feed(student, given), wanted, None)
            if rounding is not None:
                value = value + rounding.penalty(step / steps)
            value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            if rounding is not None:
                rounding.step()
            if optimizer is not None:
                coordinates.take_gradients()
                set_rates(optimizer, rate_factor(step, steps=steps, warmup=WARMUP))
                optimizer.step()
                coordinates.write()
                targets.follow()
        if rounding is not None:
            rounding.end()

    def _unsettled(self, targets: Targets, student: OnnxModule) -> Targets:
        """Without what an earlier part has in common with this one."""
        settled = {id(p) for n, p in parameters_by_name(student).items() if n in self.settled}
        return Targets(
            tuple(entry for entry in targets.trained if id(entry.parameter) not in settled),
            tuple(entry for entry in targets.followers if id(entry.scale) not in settled),
        )

    def _drawn(self, examples: Sequence[Example], count: int) -> Iterator[Example]:
        """So many of the examples: each once, then anew, every time in another order."""
        generator = torch.Generator().manual_seed(self.context.config.seed)
        while count > 0:
            for index in torch.randperm(len(examples), generator=generator)[:count].tolist():
                yield examples[index]
            count -= len(examples)


def tensor_names(graph: Graph) -> frozenset[str]:
    """Of everything that nodes compute."""
    return frozenset(tensor.name for node in graph.nodes for tensor in node.outputs)


def _rounding(student: OnnxModule, targets: Targets, error: float) -> SoftRounding | None:
    weights = {
        entry.name: entry.parameter
        for entry in targets.trained
        if entry.kind is Kind.WEIGHT and entry.name in student.quantizers
    }
    return SoftRounding(weights, student.quantizers, error=error) if weights else None


def _begin(context: Context, parts: Sequence[Part]) -> Stream:
    """As many batches as the activations at the widest cut have room for, at least two."""
    batches = tuple(
        dict(zip(context.student.input_names, batch.inputs, strict=True))
        for batch in context.batches
    )
    stream = Stream(None, batches, batches)
    first, widest = stream.first(1), 0
    for part in parts[:-1]:
        first = first.at(part.ends[0], context.student, context.teacher)
        widest = max(widest, first.teacher[0][part.ends[0]].nbytes)
    return stream.first(max(2, CACHE_BYTES // max(COPIES * widest, 1)))


@torch.no_grad()
def _error(student: OnnxModule, examples: Sequence[Example], loss: Loss) -> float:
    """The mean loss over some examples."""
    return sum(float(loss(feed(student, x), y, None)) for x, y in examples) / len(examples)

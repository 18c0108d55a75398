"""An ONNX graph as a torch module."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn

from onnxqat.bridge.fake_quant import FakeQuantize, Rectified
from onnxqat.bridge.fallback import Fallback
from onnxqat.bridge.lowering import Lowered, lower
from onnxqat.bridge.quantizers import Codes
from onnxqat.bridge.recompute import Recomputation
from onnxqat.bridge.sources import Source
from onnxqat.core.errors import ModelError
from onnxqat.graph import Graph, as_graph

_LOG = logging.getLogger("onnxqat.bridge")
NUMBERS = "biufc"
"""NumPy's kinds of types that torch has; strings stay arrays."""


def to_torch(
    model: str | Path | onnx.ModelProto | gs.Graph, *, fallback: Fallback | None = None
) -> OnnxModule:
    """A torch module that computes what the ONNX model computes, ready for training.

    Args:
        model: A path, a proto or a graph; it is not changed.
        fallback: "onnxruntime" lets ONNX Runtime compute, on the CPU, the nodes that torch has no
            function for. No gradient passes them; `OnnxModule.findings` names them.

    Raises:
        UnsupportedOpError: Names every operator at once that has no torch implementation, or that
            the fallback has none of either.
        ModelError: The file or graph cannot be used.
        ConfigError: The fallback is unknown or not installed.
    """
    module = OnnxModule(as_graph(model), fallback=fallback)
    for finding in module.findings:
        _LOG.warning("%s: %s", finding.node, finding.message)
    return module


class OnnxModule(nn.Module):
    """The torch form of an ONNX graph; tensors keep their ONNX names.

    Call it with the graph inputs in order; it returns one tensor for one output, else a tuple in
    graph order. Parameters are the trainable float initializers and the scales of the fake
    quantizers (which require no gradient until `learn_scale` is set), under `torch_name(name)`.
    Other float initializers are buffers of the state; integer ones are constants.

    Attributes:
        input_names: Graph inputs, in the order in which `forward` takes them.
        output_names: Graph outputs, in the order in which `forward` returns them.
        fallback: What computes the nodes that torch has no function for.
        saves_memory: Whether the backward pass computes again what fake quantizers gave, to the
            bit, instead of keeping it: half the memory of a step for some 6 % of its time. Not for
            use within `torch.func` and `torch.compile`, which do not allow it.
        notes: What stages did, by key: `write_back` adds it to the file's metadata.
        findings: Nodes that do not run or learn as one would expect: frozen ones, and Q/DQ pairs
            that are no fake quantizers.
    """

    def __init__(self, graph: Graph, *, fallback: Fallback | None = None) -> None:
        super().__init__()
        self._graph = _Shared(graph.copy())
        self.fallback = fallback
        self.notes: dict[str, str] = {}
        self.input_names = tuple(tensor.name for tensor in self.graph.inputs)
        self.output_names = tuple(tensor.name for tensor in self.graph.outputs)
        lowered = lower(self.graph, fallback)
        self._fallback = fallback
        self.saves_memory = False
        self._recomputation = Recomputation()
        self.findings = lowered.findings
        self._program = lowered.program
        self._order = lowered.order
        self._register(lowered)

    def _register(self, lowered: Lowered) -> None:
        for name, parameter in lowered.tensors.parameters.items():
            self.register_parameter(name, parameter)
        for name, buffer in lowered.tensors.buffers.items():
            self.register_buffer(name, buffer, persistent=name in lowered.tensors.saved)
        # A plain dict: state and parameters list each scale once, under its initializer's name
        self._quantizers = lowered.quantizers.modules
        self._scales = lowered.quantizers.scales
        self._codes = lowered.quantizers.codes
        for quantizer in self._quantizers.values():
            quantizer.recomputation = self._recomputation
        self._sources = _Shared(lowered.sources)

    @property
    def graph(self) -> Graph:
        """The graph that the module was made of, with the values it had then; read only."""
        graph: Graph = self._graph.value
        return graph

    @property
    def quantizers(self) -> Mapping[str, FakeQuantize]:
        """The fake quantizers by the name of what they quantize: Q's input, or the codes."""
        return MappingProxyType(self._quantizers)

    @property
    def sources(self) -> Mapping[str, tuple[Source, ...]]:
        """Torch name of a parameter or saved buffer -> the constants that it was made of.

        There are several where Q and DQ have scales of their own with one value.
        """
        sources: dict[str, tuple[Source, ...]] = self._sources.value
        return MappingProxyType(sources)

    @property
    def codes(self) -> Mapping[str, Codes]:
        """Torch name of a weight that the file stores as codes -> how it is stored."""
        return MappingProxyType(self._codes)

    def with_outputs(self, names: Sequence[str]) -> OnnxModule:
        """A module that also returns these inner tensors, after the outputs, in this order.

        Its parameters, scales and buffers are this module's own: what trains one trains both. A
        Relu whose output is returned is no longer one with the quantizer behind it.

        Raises:
            ModelError: The graph computes no tensor of that name.
        """
        graph = self.graph.copy()
        made = {tensor.name: tensor for node in graph.nodes for tensor in node.outputs}
        missing = [name for name in names if name not in made]
        if missing:
            raise ModelError(
                "the graph computes no such tensor", tensor=missing[0], fix="check the name"
            )
        graph.outputs = [*graph.outputs, *(made[name] for name in names)]
        other = OnnxModule(graph, fallback=self._fallback)
        other._parameters, other._buffers = self._parameters, self._buffers
        other._tie_scales()
        for name, quantizer in self._quantizers.items():
            other._quantizers[name].enabled = quantizer.enabled
        other.saves_memory = self.saves_memory
        return other.train(self.training)

    def onnx_name(self, torch_name: str) -> str:
        """The initializer's name of a parameter or saved buffer."""
        return self.sources[torch_name][0].name

    def get_tensor(self, torch_name: str) -> Tensor:
        """A parameter or buffer."""
        found = self._parameters.get(torch_name)
        tensor = self._buffers[torch_name] if found is None else found
        assert tensor is not None
        return tensor

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The graph outputs for the graph inputs.

        Raises:
            ModelError: An input is an array of numbers, or an operator failed; the error names its
                node and its input shapes.
        """
        if len(inputs) != len(self.input_names):
            raise ModelError(
                f"the model has {len(self.input_names)} inputs, and {len(inputs)} were given",
                fix=f"pass, in this order: {', '.join(self.input_names)}",
            )
        given: tuple[Any, ...] = inputs
        for name, value in zip(self.input_names, given, strict=True):
            if isinstance(value, np.ndarray) and value.dtype.kind in NUMBERS:
                raise ModelError(
                    f"input '{name}' is a NumPy array", fix="pass torch.from_numpy(array)"
                )
        with self._recomputation.during() if self.saves_memory else nullcontext():
            outputs = self._program.run(self._device(inputs), inputs, self._captured())
        return outputs[0] if len(outputs) == 1 else outputs

    @torch.no_grad()
    def walk(self, *inputs: Tensor) -> Iterator[tuple[str, str, Any]]:
        """Node, tensor and value of everything that `forward` computes, in its order.

        Fused nodes show what the last of them computes.
        """
        steps = self._program.walk(self._device(inputs), inputs, self._captured())
        for place, results in steps:
            for name, value in zip(place.outputs, results, strict=False):
                yield place.node, name, value

    @torch.no_grad()
    def switched(
        self, inputs: tuple[Tensor, ...], groups: Sequence[Collection[str]]
    ) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """For each group of quantizers its number, and the outputs with these alone switched over:
        off where they are on, on where they are off. In the order in which the graph has them.

        What the graph computes before a group's first quantizer is computed once for all groups, so
        that one group after the other takes half the time of as many whole runs.

        Args:
            inputs: The graph inputs, in order.
            groups: Names of quantizers.
        """
        first_of = self._first_steps()
        starts: dict[int, list[int]] = {}
        for number, group in enumerate(groups):
            starts.setdefault(min(first_of[name] for name in group), []).append(number)
        run = self._program.branches(self._device(inputs), inputs, self._captured(), starts)
        for step, finish in run:
            for number in starts[step]:
                with self._switched_over(groups[number]):
                    outputs = finish()
                yield number, outputs

    def _first_steps(self) -> dict[str, int]:
        """Quantizer -> the first step that it takes part in."""
        found: dict[int, int] = {}
        for step, function in enumerate(self._program.functions):
            quantizer = function.quantizer if isinstance(function, Rectified) else function
            found.setdefault(id(quantizer), step)
        return {name: found[id(quantizer)] for name, quantizer in self._quantizers.items()}

    @contextmanager
    def _switched_over(self, names: Collection[str]) -> Iterator[None]:
        before = {name: self._quantizers[name].enabled for name in names}
        for name, enabled in before.items():
            self._quantizers[name].enabled = not enabled
        try:
            yield
        finally:
            for name, enabled in before.items():
                self._quantizers[name].enabled = enabled

    def _captured(self) -> list[Tensor | None]:
        parameters, buffers = self._parameters, self._buffers
        return [parameters[n] if n in parameters else buffers[n] for n in self._order]

    def _device(self, inputs: tuple[Tensor, ...]) -> torch.device:
        first = next(_tensors(inputs), None)
        if first is None:
            first = next(self.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> OnnxModule:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._tie_scales()
        return self

    def _tie_scales(self) -> None:
        """Let each quantizer use the scale that the module holds under its ONNX name."""
        for name, scale in self._scales.items():
            self._quantizers[name]._parameters["scale"] = self._parameters[scale]

    def train(self, mode: bool = True) -> OnnxModule:
        """As torch's; the quantizers follow."""
        super().train(mode)
        for quantizer in self._quantizers.values():
            quantizer.train(mode)
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's, with shared scales still shared afterwards."""
        result = super().load_state_dict(*args, **kwargs)
        self._tie_scales()
        return result

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}({', '.join(self.input_names)})"]
        lines += [f"  {place}" for place in self._program.places]
        lines.append(f"  return {', '.join(self.output_names)}")
        return "\n".join(lines)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among some values and the sequences among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list):
            yield from _tensors(value)


class _Shared:
    """A value that copies of a module share: it is never changed."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self

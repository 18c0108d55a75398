"""From an ONNX graph to a `Program`: every decision that can be made once is made here."""

from __future__ import annotations

from dataclasses import dataclass

from onnxqat.bridge.context import Context
from onnxqat.bridge.coverage import refuse_both, refuse_unknown, unknown_nodes
from onnxqat.bridge.fallback import (
    Fallback,
    check_fallback,
)
from onnxqat.bridge.fuse import fuse
from onnxqat.bridge.program import (
    Program,
)
from onnxqat.bridge.quantizers import FakeQuantizers
from onnxqat.bridge.scope import TENSOR, Scope
from onnxqat.bridge.sources import Source, as_lowered
from onnxqat.bridge.tensors import ModuleTensors
from onnxqat.core.finding import Finding
from onnxqat.graph import Graph
from onnxqat.graph.infer import infer_shapes


@dataclass(frozen=True)
class Lowered:
    """What a module is made of."""

    program: Program
    tensors: ModuleTensors
    order: tuple[str, ...]
    """Torch names of the tensors that the program wants handed in."""
    quantizers: FakeQuantizers
    sources: dict[str, tuple[Source, ...]]
    """Torch name -> where the source graph keeps the value."""
    findings: tuple[Finding, ...]
    """What does not run or learn as one would expect."""


def lower(graph: Graph, fallback: Fallback | None = None) -> Lowered:
    """The program of a graph, and the tensors and quantizers that it needs.

    Raises:
        UnsupportedOpError: Lists every operator that has no torch function, nor runs in the
            fallback.
        ModelError: The graph is wrong; the error names the node.
        ConfigError: The fallback is unknown or not installed.
    """
    check_fallback(fallback)
    inlined = as_lowered(graph)
    if fallback is None:
        refuse_unknown(inlined.graph)
    if unknown_nodes(inlined.graph):
        infer_shapes(inlined.graph)  # ONNX Runtime wants to know the types
    fuse(inlined.graph)
    context = Context(inlined)
    scope = Scope(context)
    program = scope.program(inlined.graph)
    refuse_both(inlined.graph, context.refused)
    order = tuple(name for kind, name in scope.captures if kind == TENSOR)
    sources = {
        name: tuple(inlined.sources[id(constant)] for constant in constants)
        for name, constants in context.tensors.constants.items()
        if name in context.tensors.parameters or name in context.tensors.saved
    }
    findings = (*context.findings, *context.quantizers.findings)
    return Lowered(program, context.tensors, order, context.quantizers, sources, findings)

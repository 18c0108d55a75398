"""What all scopes of a graph that is being lowered share."""

from __future__ import annotations

from functools import partial

import onnx_graphsurgeon as gs

from onnxqat.bridge.calls import place_of
from onnxqat.bridge.coverage import opset_of, unknown_nodes
from onnxqat.bridge.fake_quant import FakeQuantize
from onnxqat.bridge.fallback import (
    FrozenNode,
    learning_nodes,
)
from onnxqat.bridge.ops.registry import Op, find
from onnxqat.bridge.quantizers import FakeQuantizers, Quantizer
from onnxqat.bridge.sources import Inlined
from onnxqat.bridge.tensors import ModuleTensors
from onnxqat.bridge.trainable import trainable
from onnxqat.core.finding import Finding
from onnxqat.core.module_findings import frozen_operator


class Context:
    """What all scopes share."""

    def __init__(self, inlined: Inlined) -> None:
        self.graph = inlined.graph
        stored = inlined.sources.keys()
        frozen = unknown_nodes(self.graph)
        self.trainable = trainable(self.graph, frozen) & stored
        self._learning = learning_nodes(self.graph, frozen)
        self.tensors = ModuleTensors(stored)
        self.quantizers = FakeQuantizers(self.graph, stored)
        self.findings: list[Finding] = []
        self.refused: list[tuple[gs.Node, str]] = []
        """Nodes that neither torch nor ONNX Runtime has, with the latter's words."""

    def op(self, node: gs.Node) -> Op | None:
        """The torch function of a node; None for one that runs in the fallback."""
        domain = node.domain or ""
        return find(node.op, domain=domain, opset=opset_of(self.graph, domain))

    def frozen(self, node: gs.Node, known: dict[str, gs.Constant]) -> FrozenNode:
        """A node as ONNX Runtime runs it; noted, as is why it does not."""
        function = FrozenNode(node, self.graph, known)
        reason = function.why_refused()
        if reason is not None:
            self.refused.append((node, reason))
        self.findings.append(frozen_operator(place_of(node).node, node.op))
        return function

    def quantizer(self, dq: gs.Node, entry: Quantizer) -> tuple[FakeQuantize, str | None]:
        """The module of a Q/DQ pair, and the parameter that stands for stored codes."""
        if entry.twin_scale is not None:
            self.tensors.tie(entry.scale, entry.twin_scale)
        scale = self.tensors.parameter(entry.scale, train=False)
        module = self.quantizers.build(entry, scale, self.tensors.parameters[scale])
        module.is_reached = id(dq) in self._learning
        if not entry.holds_codes:
            return module, None
        weight = partial(entry.weight, module.scale)
        name = self.tensors.parameter(entry.source, weight, train=module.is_reached)
        self.quantizers.note_codes(entry, name, module)
        return module, name

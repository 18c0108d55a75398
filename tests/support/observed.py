"""Small graphs and datasets for calibration, whose activations a reader can work out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx.numpy_helper
import onnx.parser
from numpy.typing import NDArray

from onnxqat.core.plan import Placement, QuantPlan
from onnxqat.core.spec import Edge, PerChannel, PerTensor, QuantDtype, QuantSpec, SharedSpec
from onnxqat.data import Batch
from onnxqat.graph import Graph, as_graph

INT8 = QuantSpec(QuantDtype.INT8, PerTensor())


@dataclass
class ListData:
    """A dataset of arrays in memory: one entry an input, samples along axis 0."""

    arrays: dict[str, NDArray[Any]]
    has_labels: bool = False
    reads: list[int] = field(default_factory=list)
    """The number of samples of each batch that was read."""

    @property
    def size(self) -> int | None:
        return len(next(iter(self.arrays.values())))

    def batches(
        self, batch_size: int, *, samples: int | None = None, seed: int | None = None
    ) -> Iterator[Batch]:
        stop = min(self.size or 0, self.size if samples is None else samples or 0)
        for start in range(0, stop, batch_size):
            part = slice(start, min(start + batch_size, stop))
            self.reads.append(part.stop - start)
            inputs = {name: array[part] for name, array in self.arrays.items()}
            yield Batch(inputs, None, part.stop - start)


def parsed(text: str, **constants: NDArray[Any]) -> Graph:
    """The graph of a model in ONNX text syntax, with the values of its declared initializers."""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(values, name) for name, values in constants.items()
    )
    return as_graph(model)


def two_layers(*, weight: NDArray[np.float32] | None = None, rows: str = "") -> Graph:
    """x [n, 4], or [n, rows, 4] -> first MatMul -> h -> Relu -> a -> second MatMul -> y [n, 3]."""
    generator = np.random.default_rng(0)
    first = generator.normal(size=(4, 8)).astype(np.float32) if weight is None else weight
    second = generator.normal(size=(8, 3)).astype(np.float32)
    shape = f"n, {rows}," if rows else "n,"
    return parsed(
        f"""
        <ir_version: 9, opset_import: ["" : 17]>
        net (float[{shape} 4] x) => (float[{shape} 3] y) <float[4, 8] w1, float[8, 3] w2>
        {{
            [first] h = MatMul(x, w1)
            [rectify] a = Relu(h)
            [second] y = MatMul(a, w2)
        }}
        """,
        w1=first,
        w2=second,
    )


def plan_of(*edges: tuple[str, str, int], follow: dict[str, Edge] | None = None) -> QuantPlan:
    """A plan that quantizes these edges to INT8: `w…` per channel of axis 1, others per tensor."""
    shared = follow or {}
    placements = [
        Placement(Edge(*edge), SharedSpec(shared[edge[0]]), "test", "")
        if edge[0] in shared
        else Placement(Edge(*edge), weight_spec() if edge[0][0] == "w" else INT8, "test", "")
        for edge in edges
    ]
    return QuantPlan(tuple(sorted(placements, key=lambda placement: placement.edge)))


def weight_spec(dtype: QuantDtype = QuantDtype.INT8) -> QuantSpec:
    """Per output channel of a MatMul weight [K, N]."""
    return QuantSpec(dtype, PerChannel(1))


TWO_LAYERS_PLAN = plan_of(
    ("x", "first", 0), ("w1", "first", 1), ("a", "second", 0), ("w2", "second", 1)
)
"""Everything that `two_layers` can have quantized."""

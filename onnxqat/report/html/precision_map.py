"""The strip of compiled kernels: in what precision each works, what it moves, how far off it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnxqat.core.comparison import LayerError
from onnxqat.core.engine_plan import EngineLayer, Passage, Precision, TensorView
from onnxqat.core.precision import HEAVY_OPS
from onnxqat.report.html.contents import Report
from onnxqat.report.html.layers import (
    FLOAT,
    LayerRow,
    errors_by_tensor,
    told_precisions,
    work_nodes,
    written,
)

MOST_COLUMNS = 480
"""Of a larger network, neighbours share a column: narrower ones could not be told apart."""
TOP_DB = 60.0
"""The upper end of the noise axis; 8 bits reach about 50 dB."""

_LEAST_QUANTIZED_FIRST = tuple(reversed(Precision))


@dataclass(frozen=True)
class Column:
    """One kernel, or neighbouring ones that share a column."""

    label: str
    """A sentence for tooltips and screen readers."""
    precision: Precision
    is_heavy: bool
    """Whether it multiplies matrices."""
    bytes: int
    sqnr_db: float | None
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class PrecisionMap:
    """The whole strip."""

    columns: tuple[Column, ...]
    counts: tuple[tuple[Precision, int], ...]
    """Kernels (or nodes) that multiply, by precision."""
    is_compiled: bool
    """False: nothing was compiled, and the strip shows what the file asks for."""
    items: int
    """Kernels (or nodes) in all."""
    passages: tuple[tuple[Passage, int], ...] = ()
    """How the activations with Q/DQ get to the nodes that read them, by kind."""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that occur, for the legend."""
        found = {column.precision for column in self.columns}
        return tuple(precision for precision in Precision if precision in found)

    @property
    def most_bytes(self) -> int:
        """The tallest bar."""
        return max((column.bytes for column in self.columns), default=0)

    @property
    def has_errors(self) -> bool:
        """Whether any column has an error."""
        return any(column.sqnr_db is not None for column in self.columns)


def precision_map(report: Report, rows: Sequence[LayerRow]) -> PrecisionMap:
    """The strip, from the compiled plan; without one, from what the file asks for."""
    kernels = _compiled(report) if report.engine is not None else _asked(rows)
    heavy = Counter(column.precision for column in kernels if column.is_heavy)
    return PrecisionMap(
        columns=_shared(kernels),
        counts=tuple((precision, heavy[precision]) for precision in Precision if heavy[precision]),
        is_compiled=report.engine is not None,
        items=len(kernels),
        passages=_passages(report),
    )


def _passages(report: Report) -> tuple[tuple[Passage, int], ...]:
    found = Counter(edge.passage for edge in report.engine.qdq) if report.engine else Counter()
    return tuple((passage, found[passage]) for passage in Passage if found[passage])


def _compiled(report: Report) -> list[Column]:
    assert report.engine is not None
    products = {
        found.layer: found.precision
        for found in told_precisions(report, report.engine)
        if found.op in HEAVY_OPS
    }
    errors = _errors_by_node(report)
    return [_kernel(layer, products.get(layer.name), errors) for layer in report.engine.kernels]


def _kernel(
    layer: EngineLayer, product: Precision | None, errors: Mapping[str, LayerError]
) -> Column:
    precision = written(layer) if product is None else product
    nodes = tuple(name for name in layer.onnx_nodes if name in errors) or layer.onnx_nodes
    sqnr = min((errors[name].sqnr_db for name in nodes if name in errors), default=None)
    work = f"multiplies in {precision.value}" if product else f"writes {precision.value}"
    return Column(
        label="; ".join(_parts(layer, work, sqnr)),
        precision=precision,
        is_heavy=product is not None,
        bytes=layer.activation_bytes,
        sqnr_db=sqnr,
        nodes=nodes,
    )


def _parts(layer: EngineLayer, work: str, sqnr: float | None) -> Iterable[str]:
    yield f"{layer.name} ({layer.kind}) {work}"
    yield f"reads {_types(layer.inputs)}, writes {_types(layer.outputs)}"
    yield f"{layer.activation_bytes:,} bytes of activations"
    if sqnr is not None:
        yield f"SQNR {sqnr:.1f} dB"


def _types(views: Iterable[TensorView]) -> str:
    return ", ".join(f"{view.dtype}{list(view.shape)}" for view in views) or "nothing"


def _errors_by_node(report: Report) -> dict[str, LayerError]:
    """Node -> its worst output's error, of the model that the report is about."""
    last = list(report.inner_errors.values())[-1:]
    errors = errors_by_tensor(last[0]) if last else {}
    found: dict[str, LayerError] = {}
    for node in work_nodes(report):
        known = [errors[t.name] for t in node.outputs if t.name in errors]
        if known:
            found[node.name] = min(known, key=lambda error: error.sqnr_db)
    return found


def _asked(rows: Sequence[LayerRow]) -> list[Column]:
    return [
        Column(
            label=f"{row.node} ({row.op}): the file asks for {row.asked}",
            precision=Precision.FP32 if row.asked == FLOAT else Precision.INT8,
            is_heavy=row.op in HEAVY_OPS,
            bytes=0,
            sqnr_db=row.errors[-1].sqnr_db if row.errors and row.errors[-1] else None,
            nodes=(row.node,),
        )
        for row in rows
    ]


def _shared(columns: Sequence[Column]) -> tuple[Column, ...]:
    """At most `MOST_COLUMNS`; a column of several shows the least quantized of them."""
    each = -(-len(columns) // MOST_COLUMNS) or 1
    if each == 1:
        return tuple(columns)
    return tuple(_joined(columns[i : i + each], first=i + 1) for i in range(0, len(columns), each))


def _joined(columns: Sequence[Column], *, first: int) -> Column:
    heavy = [column for column in columns if column.is_heavy]
    worst = min(heavy or columns, key=lambda column: _LEAST_QUANTIZED_FIRST.index(column.precision))
    known = [column.sqnr_db for column in columns if column.sqnr_db is not None]
    precisions = ", ".join(sorted({column.precision.value for column in columns}))
    return Column(
        label=f"{first} to {first + len(columns) - 1}: {precisions}; the least quantized is "
        f"{worst.label}",
        precision=worst.precision,
        is_heavy=bool(heavy),
        bytes=sum(column.bytes for column in columns),
        sqnr_db=min(known, default=None),
        nodes=worst.nodes,
    )


def height_of(sqnr_db: float) -> float:
    """Where a ratio lies on the noise axis, 0 to 100; an infinite one at its end."""
    return round(100 * min(max(sqnr_db / TOP_DB, 0.0), 1.0), 1)

"""Results as tables for a terminal. Nothing here prints: the command line does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnxqat.core.comparison import Comparison, LayerError
from onnxqat.core.engine_plan import EnginePlan, Passage, TensorView
from onnxqat.core.finding import Finding, Severity
from onnxqat.core.mixed_precision import Mix, MixPoint
from onnxqat.core.operators import Operator, OperatorUse
from onnxqat.core.plan import QuantPlan
from onnxqat.core.precision import HEAVY_OPS, Precision, count_in
from onnxqat.core.sensitivity import Sensitivity
from onnxqat.core.stage_gain import StageGain
from onnxqat.core.summary import Gain, ModelRow, Summary
from onnxqat.graph import Change
from onnxqat.placement.explain import Explanation
from onnxqat.report.numbers import (
    NOTHING,
    decibel,
    megabytes,
    percent,
    percent_within,
    points,
    points_within,
    share,
    stage_line,
)

_COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


def summary_table(summary: Summary) -> RenderableType:
    """The table that a run ends with: one column a model, then the times and what to know."""
    table = _table(
        "", *(row.name for row in summary.rows), title=f"{summary.model} ({summary.format})"
    )
    for label, cell in _SUMMARY_LINES:
        table.add_row(
            label.format(metric=summary.metric or "metric"), *(cell(row) for row in summary.rows)
        )
    times = "  ".join(f"{time.stage} {time.seconds:.1f} s" for time in summary.times)
    gains = [
        Text(f"gain of {gain.model} over {gain.start}: {_gained(gain)}") for gain in summary.gains
    ]
    stages = [Text(stage_line(gain)) for gain in summary.initialization]
    notes = [Text(f"• {note}") for note in summary.notes]
    return Group(table, *stages, *gains, Text(f"times: {times}", style="dim"), *notes)


def _gained(gain: Gain) -> str:
    told = [] if gain.metric is None else [points(gain.metric)]
    if gain.sqnr_db is not None:
        told.append(f"{gain.sqnr_db:+.1f} dB".replace("-", "−"))
    return ", ".join(told) or "not measured"


def changes_table(changes: Sequence[Change]) -> RenderableType:
    """One line a change, and how many there are."""
    lines = (Text(f"{change.kind} {change.node}: {change.detail}") for change in changes)
    return Group(*lines, Text(f"{len(changes)} changed"))


def stages_table(gains: Sequence[StageGain]) -> RenderableType:
    """What each initialization stage did."""
    return Group(*(Text(stage_line(gain)) for gain in gains))


def _int8_share(row: ModelRow) -> str:
    return share(row.int8_nodes, row.heavy_nodes)


_SUMMARY_LINES = (
    ("{metric}", lambda row: percent_within(row.metric, row.metric_interval)),
    (
        "{metric} against FP32",
        lambda row: points_within(row.metric_change, row.metric_change_interval),
    ),
    ("agreement with FP32", lambda row: percent_within(row.agreement, row.agreement_interval)),
    ("SQNR against FP32", lambda row: decibel(row.sqnr_db)),
    ("Conv/Gemm/MatMul in INT8 or FP8", _int8_share),
    ("activations, compiled", lambda row: megabytes(row.activation_bytes)),
    ("file", lambda row: megabytes(row.file_bytes)),
)


def plan_table(plan: QuantPlan) -> RenderableType:
    """Every placement, then every skip, with rule and reason."""
    table = _table("edge", "Q/DQ", "rule", "reason")
    for placement in plan.placements:
        spec = plan.spec_of(placement.edge)
        shared = plan.leader_of(placement.edge)
        scale = type(spec.granularity).__name__ if shared == placement.edge else f"as {shared}"
        table.add_row(
            str(placement.edge), f"{spec.dtype.value} {scale}", placement.rule, placement.reason
        )
    for skip in plan.skips:
        table.add_row(str(skip.edge), "float", skip.rule, skip.reason, style="dim")
    return table


def explanation_table(node: str, explanations: Sequence[Explanation]) -> RenderableType:
    """Each input of a node: format, rule, reason; then the sources, each once."""
    if not explanations:
        return Text(f"{node}: every input is quantized")
    table = _table("input", "tensor", "read as", "rule", "reason", title=node)
    for told in explanations:
        index, tensor = str(told.edge.index), told.edge.tensor
        table.add_row(index, tensor, told.format, told.rule, told.reason)
    sources = {told.rule: told.source for told in explanations}
    lines = [Text(f"{rule}: {source}", style="dim") for rule, source in sources.items()]
    return Group(table, *lines)


def comparison_table(comparison: Comparison) -> RenderableType:
    """Outputs first, then inner tensors, worst first; agreement and metric below."""
    table = _table("tensor", "SQNR", "largest difference")
    for error in (*comparison.outputs, *_worst_first(comparison.layers)):
        table.add_row(error.tensor, decibel(error.sqnr_db), f"{error.max_abs:.3g}")
    lines = [Text(f"samples: {comparison.samples}")]
    if comparison.agreement is not None:
        lines.append(Text(f"top-1 agreement: {percent(comparison.agreement)}"))
    if comparison.metric is not None:
        pair = f"{percent(comparison.reference_metric)} -> {percent(comparison.candidate_metric)}"
        change = points_within(comparison.metric_change, comparison.metric_change_interval)
        lines.append(Text(f"{comparison.metric}: {pair}, {change}, 95 % sure"))
    return Group(table, *lines)


def _worst_first(errors: Iterable[LayerError]) -> list[LayerError]:
    return sorted(errors, key=lambda error: (error.sqnr_db, error.tensor))


def sensitivity_table(found: Sensitivity) -> RenderableType:
    """Every quantizer, the most sensitive first; what all of them do together below."""
    metric = found.every.top1 is not None
    columns = ("quantizer", "of", "read by", "alone", "share", "without")
    table = _table(*columns, *(("top-1 alone",) if metric else ()))
    for one in found.quantizers:
        more = f" and {len(one.tensors) - 1} with its scale" if len(one.tensors) > 1 else ""
        cells = (
            f"{one.name}{more}",
            NOTHING if one.values is None else f"{one.values} weights",
            ", ".join(one.nodes),
            decibel(one.alone.sqnr_db),
            percent(one.share),
            decibel(one.without.sqnr_db if one.without is not None else None),
        )
        table.add_row(*cells, *((percent(one.alone.top1),) if metric else ()))
    sums = [f"samples: {found.samples}", f"all quantizers on: {decibel(found.every.sqnr_db)}"]
    if found.none.sqnr_db < _EXACT_DB:
        sums.append(f"all off: {decibel(found.none.sqnr_db)}, by weights that were changed")
    return Group(table, *map(Text, sums))


_EXACT_DB = 100.0
"""From here on what differs is float rounding."""


def mix_table(mix: Mix) -> RenderableType:
    """The nodes in more bits, the most sensitive first; all plans tried, and the chosen one."""
    table = _table("node", "op", "in", "share of the error", f"share of the {mix.cost}")
    for one in mix.changed:
        table.add_row(one.node, one.op, one.format, percent(one.share), percent(one.cost))
    curve = _table("quantized", "in float", "in more bits", "SQNR", "agreement", "top-1 lost", "")
    for point in mix.points:
        curve.add_row(
            percent(point.quantized),
            str(point.float_nodes),
            str(point.wider_nodes),
            decibel(point.sqnr_db),
            percent(point.agreement),
            NOTHING if point.metric_drop is None else points(point.metric_drop),
            "chosen" if point == mix.chosen else "kept" if point.is_within_budget else "missed",
        )
    chosen = f"budget {mix.budget}, on {mix.samples} samples: {mix_line(mix.chosen)}"
    return Group(*([table] if mix.changed else []), curve, Text(chosen))


def mix_line(point: MixPoint) -> str:
    """One plan in a line."""
    told = f"{percent(point.quantized)} quantized, {point.float_nodes} nodes in float"
    wider = f", {point.wider_nodes} in more bits" if point.wider_nodes else ""
    return f"{told}{wider}: {decibel(point.sqnr_db)}" + (
        "" if point.agreement is None else f", {percent(point.agreement)} agreement"
    )


def engine_table(plan: EnginePlan) -> RenderableType:
    """What was compiled: one line a kernel, one a node, and what became of Q/DQ; the sums below."""
    table = _table("kernel", "kind", "reads", "writes", "bytes", "ONNX nodes")
    for layer in plan.kernels:
        table.add_row(
            layer.name,
            layer.kind,
            _views(layer.inputs),
            _views(layer.outputs),
            str(layer.activation_bytes),
            ", ".join(layer.onnx_nodes),
        )
    nodes = _table("node", "op", "runs in", "kernels")
    for node in plan.nodes:
        nodes.add_row(node.node, node.op, node.precision.value, ", ".join(node.layers))
    return Group(table, *([nodes] if plan.nodes else []), *map(Text, _engine_sums(plan)))


def _engine_sums(plan: EnginePlan) -> Iterator[str]:
    total = f"{len(plan.kernels)} kernels, {megabytes(plan.activation_bytes)} of activations"
    yield f"{plan.backend} {plan.target}: {total}"
    heavy = [node for node in plan.nodes if node.op in HEAVY_OPS]
    if heavy:
        for precision in (Precision.INT8, Precision.FP8):
            count = count_in(precision, heavy)
            if count or precision is Precision.INT8:
                told = share(count, len(heavy))
                yield f"Conv, ConvTranspose, Gemm and MatMul nodes in {precision.value}: {told}"
    if plan.qdq:
        passages = Counter(edge.passage for edge in plan.qdq)
        told = ", ".join(f"{passages[x]} {x.value}" for x in Passage if passages[x])
        yield f"edges behind Q/DQ: {told}"
    for edge in plan.qdq:
        if edge.passage is Passage.FLOAT:
            yield f"  float in spite of Q/DQ: {edge.tensor} -> {edge.reader}"
    for name in plan.qdq_layers:
        yield f"  kernel that only quantizes or dequantizes: {name}"
    for line in plan.unread:
        yield f"  not understood: {line}"


def _views(views: Sequence[TensorView]) -> str:
    return ", ".join(f"{view.dtype}{list(view.shape)}" for view in views)


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """One block a finding: id, place, message, fix; at the end how many there are."""
    return Group(*(_finding(finding) for finding in findings), Text(_count(findings)))


def _count(findings: Sequence[Finding]) -> str:
    """`2 errors, 1 note, of which audit --fix mends 2`."""
    if not findings:
        return "no findings"
    counts = ((severity, sum(x.severity is severity for x in findings)) for severity in Severity)
    told = [f"{n} {x.value}{'' if n == 1 else 's'}" for x, n in reversed(list(counts)) if n]
    fixable = sum(finding.is_fixable for finding in findings)
    return ", ".join(told) + (f"; audit --fix mends {fixable}" if fixable else "")


def _finding(finding: Finding) -> RenderableType:
    place = finding.node or finding.tensor or "model"
    text = Text.assemble(
        (f"{finding.severity.value} {finding.rule}", _COLOURS[finding.severity]),
        printable(f" {place}: {finding.message}"),
    )
    if finding.fix is not None:
        text.append(f"\n  fix: {printable(finding.fix)}", style="dim")
    return text


def operators_table(operators: Sequence[Operator]) -> RenderableType:
    """One line an operator, and what there is in all."""
    table = _table("operator", "versions covered", "not covered")
    for operator in operators:
        missing = "; ".join(f"{_numbers(v)}: {reason}" for reason, v in operator.reasons.items())
        table.add_row(operator.full_name, _numbers(operator.covered) or NOTHING, missing)
    versions = [version for operator in operators for version in operator.versions]
    covered = sum(version.is_covered for version in versions)
    return Group(table, Text(f"{covered} of {len(versions)} operator versions are covered"))


def _numbers(versions: Sequence[int]) -> str:
    return ", ".join(map(str, versions))


def uses_table(uses: Sequence[OperatorUse]) -> RenderableType:
    """One line for each operator of a model; of those without a torch function, all nodes."""
    table = _table("operator", "since", "torch function", "nodes")
    for use in uses:
        nodes = str(len(use.nodes)) if use.is_covered else ", ".join(use.nodes)
        since = NOTHING if use.since is None else str(use.since)
        table.add_row(use.operator, since, "yes" if use.is_covered else "no", nodes)
    missing = sum(len(use.nodes) for use in uses if not use.is_covered)
    return Group(table, Text(f"nodes without a torch function: {missing}"))


def printable(text: str) -> str:
    """A text with names of a file in it, whose control characters a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", justify="left" if index == 0 else "default")
    return table

"""A report with something in every section, without training or compiling anything."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxqat.core.calibration import Calibration, TensorRange
from onnxqat.core.comparison import Comparison, LayerError
from onnxqat.core.distribution import Distribution
from onnxqat.core.engine_plan import EngineLayer, EnginePlan, NodePrecision, TensorView
from onnxqat.core.finding import Finding, Severity
from onnxqat.core.interval import paired_change, wilson
from onnxqat.core.mixed_precision import Mix, MixedNode, MixPoint
from onnxqat.core.plan import QuantPlan
from onnxqat.core.precision import TOLD_OPS, dtype_precision
from onnxqat.core.provenance import FileRecord, Provenance, Setting, Version
from onnxqat.core.summary import BudgetCheck, Gain, ModelRow, StageTime, Summary
from onnxqat.core.training_record import StepRecord, Validation
from onnxqat.graph import Graph, as_graph, insert, prepare
from onnxqat.placement import place
from onnxqat.report.html import Report, View
from tests.support.nets import residual_net

CHANNELS_OF = {"stem_w": 8, "inner_w": 8, "head_w": 4}


def quantized(model: onnx.ModelProto | None = None) -> tuple[Graph, Graph, QuantPlan]:
    """The prepared network, the same with Q/DQ, and the plan; every range is [-1, 1]."""
    fp32 = prepare(model or residual_net())
    plan = place(fp32)
    ranges = tuple(
        TensorRange(tensor, (1.0,) * CHANNELS_OF.get(tensor, 1), "max", 1)
        for tensor in sorted({edge.tensor for edge in plan.by_edge})
    )
    return fp32, insert(fp32, plan, Calibration(ranges)), plan


def view(name: str, dtype: str, nbytes: int) -> TensorView:
    return TensorView(name, (1, 8, 8, 8), dtype, nbytes)


def engine(graph: Graph, *, heavy_dtype: str = "Int8") -> EnginePlan:
    """A kernel for each node that is no Q or DQ, as if nothing were fused."""
    layers = []
    for node in graph.nodes:
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            continue
        is_heavy = node.op in ("Conv", "Gemm", "MatMul")
        dtype = heavy_dtype if is_heavy else "Int8"
        layers.append(
            EngineLayer(
                name=f"{node.name}_myl0",
                kind="correlation" if is_heavy else "kgen",
                inputs=(view("in", dtype, 512),),
                constants=(view("w", dtype, 64),) if is_heavy else (),
                outputs=(view("out", "Float" if is_heavy else "Int8", 2048),),
                onnx_nodes=(node.name,),
            )
        )
    by_node = {layer.onnx_nodes[0]: layer for layer in layers}
    works = tuple(
        NodePrecision(node.name, node.op, dtype_precision(layer.inputs[0].dtype), layer.name)
        for node in graph.nodes
        for layer in (by_node.get(node.name),)
        if node.op in TOLD_OPS and layer is not None
    )
    return EnginePlan("rtx", "SM89", tuple(layers), nodes=works)


def comparison(graph: Graph, *, best: float) -> Comparison:
    """Each node a decibel worse than the one before."""
    names = [t.name for node in graph.nodes for t in node.outputs]
    errors = tuple(LayerError(name, best - i, 0.01 * i) for i, name in enumerate(names))
    return Comparison(64, errors[-1:], 0.99, "top1", 0.915, 0.916, errors[:-1])


def history() -> tuple[StepRecord, ...]:
    """Six steps, the fourth the best."""
    records = [StepRecord(0, 6, None, 0.0, 0.0, Validation(8, 0.02, 20.0, 0.9, None), True)]
    for step in range(1, 7):
        found = Validation(8, 0.02 / step, 20.0 + step, 0.9, None) if step % 2 == 0 else None
        records.append(StepRecord(step, 6, 0.03 / step, 1e-3, 0.1, found, step == 4))
    return tuple(records)


def distribution(tensor: str, *, sqnr_db: float = 30.0) -> Distribution:
    return Distribution(
        tensor, -2.0, 4.0, 3.0, 127, 0.01, sqnr_db, tuple(2 ** (12 - i) for i in range(12))
    )


def summary() -> Summary:
    def row(name: str, metric: float, *, int8: int) -> ModelRow:
        sure = (wilson(metric, 1000), wilson(0.99, 1000))
        gained = round(1000 * metric) - 915
        known = (metric - 0.915, paired_change(9, 9 + gained, 1000)) if name != "FP32" else ()
        return ModelRow(name, metric, 0.99, 29.8, int8, 3, 1_991_000, 1_166_000, *sure, *known)

    return Summary(
        model="net.onnx",
        format="int8",
        metric="top1",
        samples=1000,
        target="rtx SM89",
        rows=(row("FP32", 0.915, int8=0), row("PTQ", 0.909, int8=3), row("QAT", 0.917, int8=3)),
        times=(StageTime("prepare", 0.4), StageTime("finetune", 45.9)),
        notes=("compiled without a GPU",),
        budget=(
            BudgetCheck("metric_drop", 0.01, -0.002, True),
            BudgetCheck("sqnr_db", 35.0, 29.8, False),
        ),
        gains=(Gain("QAT", "PTQ", 0.008, -1.5), Gain("CONTROL", "FP32", None, None)),
    )


def findings(graph: Graph) -> tuple[Finding, ...]:
    """One on a node, one on a tensor, one on the model."""
    conv = next(node for node in graph.nodes if node.op == "Conv")
    add = next(node for node in graph.nodes if node.op == "Add")
    return (
        Finding("QDQ101", Severity.ERROR, "an error on a node", node=conv.name, fix="mend it"),
        Finding("QDQ102", Severity.WARNING, "a tensor", tensor=add.outputs[0].name),
        Finding("DEP001", Severity.NOTE, "the whole model"),
    )


def full_report(model: onnx.ModelProto | None = None) -> Report:
    """Every section has something to show."""
    fp32, qdq, plan = quantized(model)
    activations = [node.outputs[0].name for node in fp32.nodes if node.op == "Relu"]
    return Report(
        title="net.onnx",
        subject=View("after: QAT", qdq),
        before=View("before: FP32", fp32),
        summary=summary(),
        plan=plan,
        engine=engine(qdq),
        inner_errors={"ptq": comparison(fp32, best=40.0), "qat": comparison(fp32, best=45.0)},
        distributions=tuple(distribution(name) for name in activations),
        mix=mix(plan, "/block/Conv"),
        history=history(),
        findings=findings(qdq),
        provenance=Provenance(
            files=(FileRecord("model", "net.onnx", 1234, "ab" * 32),),
            versions=(Version("onnxqat", "0.1.0"), Version("onnx", "1.23.2")),
            settings=(Setting("finetune.steps", "200"),),
        ),
    )


def mix(plan: QuantPlan, node: str) -> Mix:
    """A budget that left this node in float."""
    points = tuple(
        MixPoint(
            quantized=quantized,
            float_nodes=nodes,
            wider_nodes=0,
            sqnr_db=sqnr_db,
            agreement=1.0,
            metric_drop=None,
            is_within_budget=sqnr_db >= 20,
        )
        for quantized, nodes, sqnr_db in ((0.0, 3, inf), (0.875, 1, 21.5), (1.0, 0, 13.25))
    )
    return Mix(
        budget="20 dB",
        cost="bytes",
        samples=32,
        nodes=3,
        plan=plan,
        calibration=Calibration(),
        changed=(MixedNode(node, "Conv", "float", 0.4375, 0.125),),
        chosen=points[1],
        points=points,
    )


def bare_report() -> Report:
    """An FP32 model of which nothing else is known."""
    fp32, _, _ = quantized()
    return Report(title="net.onnx", subject=View("as it is", fp32))


def large_report(nodes: int) -> Report:
    """A long chain of products and activations, compiled and compared, with many findings."""
    names = [f"/model/layers.{i // 2}/{'Relu' if i % 2 else 'MatMul'}" for i in range(nodes)]
    tensors = ["x", *(f"{name}_output_0" for name in names)]
    chain = [
        helper.make_node(
            "Relu" if i % 2 else "MatMul",
            [tensors[i]] if i % 2 else [tensors[i], "w"],
            [tensors[i + 1]],
            name=name,
        )
        for i, name in enumerate(names)
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4])
        for name in (tensors[0], tensors[-1])
    ]
    weights = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    graph = helper.make_graph(chain, "large", ends[:1], ends[1:], [weights])
    subject = as_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    return Report(
        title="large.onnx",
        subject=View("as it is", subject),
        engine=engine(subject),
        inner_errors={"qat": comparison(subject, best=50.0)},
        findings=tuple(
            Finding("QDQ101", Severity.WARNING, "one of many", node=name) for name in names[::4]
        ),
    )


HOSTILE = "<script>window.pwned=1</script>\"'><img src=x onerror=window.pwned=2>{{ 7*7 }}$x_2$"
"""Breaks out of text, of attributes in either quotes, of templates, of mathematics in a figure."""


def hostile_model() -> onnx.ModelProto:
    """The network with every name of a node or tensor a hostile one; inputs and outputs too."""
    model = residual_net()
    given = {name for node in model.graph.node for name in (*node.input, *node.output)}
    given |= {value.name for value in (*model.graph.input, *model.graph.output)}
    new = {name: f"{name}{HOSTILE}" for name in given}
    for node in model.graph.node:
        node.name += HOSTILE
        for names in (node.input, node.output):
            renamed = [new[name] for name in names]
            del names[:]
            names.extend(renamed)
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = new[value.name]
    return model


def hostile_report() -> Report:
    """Every text in it that may come from outside is hostile."""
    fp32, qdq, plan = quantized_hostile()
    clean = full_report()
    assert clean.summary is not None
    assert clean.provenance is not None
    return replace(
        clean,
        title=HOSTILE,
        subject=View("after: QAT", qdq),
        before=View("before: FP32", fp32),
        plan=plan,
        mix=mix(plan, HOSTILE),
        engine=engine(qdq),
        inner_errors={"qat": comparison(fp32, best=40.0)},
        distributions=(distribution(HOSTILE),),
        summary=replace(clean.summary, model=HOSTILE, metric=HOSTILE, notes=(HOSTILE,)),
        findings=tuple(replace(finding, message=HOSTILE, fix=HOSTILE) for finding in findings(qdq)),
        provenance=Provenance(
            (FileRecord(HOSTILE, HOSTILE, 1, "00"),),
            (Version("x", HOSTILE),),
            (Setting("x", HOSTILE),),
        ),
    )


def quantized_hostile() -> tuple[Graph, Graph, QuantPlan]:
    fp32 = prepare(hostile_model())
    plan = place(fp32)
    ranges = tuple(
        TensorRange(name, (1.0,) * CHANNELS_OF.get(name.removesuffix(HOSTILE), 1), "max", 1)
        for name in sorted({edge.tensor for edge in plan.by_edge})
    )
    return fp32, insert(fp32, plan, Calibration(ranges)), plan

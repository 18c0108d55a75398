"""Each row says what was asked of a node, what it became, and how far off it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxqat.core.engine_plan import NodePrecision, Precision
from onnxqat.report.html.layers import LayerRow, layers
from tests.support.reports import bare_report, engine, full_report


@pytest.fixture(scope="module")
def rows() -> dict[str, LayerRow]:
    return {row.node: row for row in layers(full_report()).rows}


def test_there_is_a_row_for_each_node_that_is_no_q_or_dq(rows):
    assert [row.op for row in rows.values()] == [
        "Conv", "Relu", "Conv", "Add", "Relu", "GlobalAveragePool", "Flatten", "Gemm",
    ]  # fmt: skip


def test_a_quantized_node_asks_for_int8_and_one_without_q_dq_for_float(rows):
    assert rows["/stem/Conv"].asked == "INT8"
    assert rows["/stem_out/Relu"].asked == "float"


def test_a_file_without_a_plan_tells_by_its_q_dq_nodes_what_it_asks_for():
    report = replace(full_report(), plan=None)
    found = {row.node: row.asked for row in layers(report).rows}
    assert (found["/inner/Conv"], found["/stem_out/Relu"]) == ("INT8", "float")


def test_a_product_shows_the_type_it_multiplies_in_and_others_what_they_write(rows):
    assert rows["/stem/Conv"].compiled is Precision.INT8
    assert rows["/stem_out/Relu"].compiled is Precision.INT8
    assert rows["/stem/Conv"].kernel == "/stem/Conv_myl0"


def test_a_quantized_product_that_compiled_to_float_is_a_broken_promise():
    report = full_report()
    report = replace(report, engine=engine(report.subject.graph, heavy_dtype="Half"))
    broken = [row.node for row in layers(report).rows if row.is_broken_promise]
    assert broken == ["/stem/Conv", "/inner/Conv", "/logits/Gemm"]


def test_the_error_is_that_of_the_nodes_first_output_for_each_model(rows):
    first, second = rows["/inner/Conv"].errors
    assert first is not None
    assert second is not None
    assert (first.tensor, first.sqnr_db, second.sqnr_db) == ("inner", 38.0, 43.0)


def test_a_reason_is_numbered_once_however_many_nodes_it_was_given_for():
    found = layers(full_report())
    assert [reason.number for reason in found.reasons] == list(range(1, len(found.reasons) + 1))
    texts = [(reason.rule, reason.reason) for reason in found.reasons]
    assert len(texts) == len(set(texts))


def test_of_a_model_of_which_nothing_is_known_only_the_nodes_are_listed():
    found = layers(bare_report())
    assert {(row.asked, row.compiled, row.errors, row.reasons) for row in found.rows} == {
        ("float", None, (), ())
    }


def test_what_the_plan_says_of_a_node_goes_before_what_its_kernels_suggest():
    report = full_report()
    assert report.engine is not None
    told = NodePrecision("/sum/Add", "Add", Precision.FP16, "fused")
    found = layers(replace(report, engine=replace(report.engine, nodes=(told,)))).rows
    assert {row.node: (row.compiled, row.kernel) for row in found}["/sum/Add"] == (
        Precision.FP16, "fused",
    )  # fmt: skip

"""The strip has a column for each kernel, and stays readable for a large network."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxqat.core.engine_plan import EngineLayer, EnginePlan, Passage, Precision, QdqEdge
from onnxqat.report.html.contents import Report
from onnxqat.report.html.layers import layers
from onnxqat.report.html.precision_map import (
    MOST_COLUMNS,
    PrecisionMap,
    height_of,
    precision_map,
)
from tests.support.reports import engine, full_report, view


def map_of(report: Report) -> PrecisionMap:
    return precision_map(report, layers(report).rows)


def test_tall_columns_are_the_products_of_matrices():
    found = map_of(full_report())
    assert [column.is_heavy for column in found.columns] == [
        True, False, True, False, False, False, False, True,
    ]  # fmt: skip
    assert found.counts == ((Precision.INT8, 3),)


def test_without_an_engine_the_strip_shows_what_the_file_asks_for():
    found = map_of(replace(full_report(), engine=None))
    assert not found.is_compiled
    precisions = [column.precision for column in found.columns]
    assert precisions[:2] == [Precision.INT8, Precision.FP32]


def test_a_column_carries_the_error_of_the_model_that_the_page_is_about():
    report = full_report()
    first = map_of(report).columns[0]
    assert first.sqnr_db == 45.0
    assert "SQNR 45.0 dB" in first.label


def kernels(count: int, *, float_one: int) -> EnginePlan:
    def kernel(i: int) -> EngineLayer:
        tensor = view("t", "Half" if i == float_one else "Int8", 8)
        return EngineLayer(f"k{i}", "kgen", (tensor,), (), (tensor,), ())

    return EnginePlan("rtx", "SM89", tuple(kernel(i) for i in range(count)))


def test_many_kernels_share_columns_and_the_one_float_among_them_still_shows():
    report = replace(full_report(), engine=kernels(10_000, float_one=5_000))
    found = map_of(report)
    assert len(found.columns) <= MOST_COLUMNS
    assert found.items == 10_000
    floats = [column for column in found.columns if column.precision is Precision.FP16]
    assert len(floats) == 1
    assert "k5000" in floats[0].label
    assert sum(column.bytes for column in found.columns) == 10_000 * 16


@pytest.mark.parametrize(
    ("sqnr_db", "height"), [(float("inf"), 100), (60, 100), (30, 50), (0, 0), (-5, 0)]
)
def test_the_noise_axis_ends_at_60_and_0_db(sqnr_db, height):
    assert height_of(sqnr_db) == height


def test_a_float_product_is_counted_as_such():
    report = full_report()
    report = replace(report, engine=engine(report.subject.graph, heavy_dtype="Float"))
    assert map_of(report).counts == ((Precision.FP32, 3),)


def test_the_ways_of_quantized_activations_are_counted_by_kind():
    report = full_report()
    ways = (Passage.QUANTIZED, Passage.FLOAT, Passage.QUANTIZED)
    edges = tuple(QdqEdge("t", "q", "dq", "conv", way) for way in ways)
    assert report.engine is not None
    found = map_of(replace(report, engine=replace(report.engine, qdq=edges)))
    assert found.passages == ((Passage.QUANTIZED, 2), (Passage.FLOAT, 1))

"""Q/DQ pairs are read whoever wrote them."""

from __future__ import annotations

import numpy as np
import pytest

from onnxqat.core.spec import Edge
from onnxqat.graph import QdqPair, as_graph, qdq_pairs
from tests.support.onnx_text import model_of

WEIGHT = np.ones((2, 3), np.float32)
SCALES = {"s": np.float32(1), "z": np.int8(0)}
SCALES |= {"sc": np.float32([1, 2, 3]), "zc": np.int8([0, 0, 0])}


def pairs(body: str, *, opset: int = 17, **weights: np.ndarray) -> tuple[QdqPair, ...]:
    text = f"net (float[n, 2] x) => (float[n, k] y) {{ {body} }}"
    return qdq_pairs(as_graph(model_of(text, opset=opset, ir=10, **SCALES, **weights)))


def test_a_pair_on_an_activation_has_all_that_reads_it() -> None:
    (pair,) = pairs("""q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
                       a = Relu (d)  y = Add (a, d)""")

    assert pair == QdqPair(
        tensor="x",
        q_node="QuantizeLinear_q",
        dq_node="DequantizeLinear_d",
        output="d",
        scale="s",
        zero_point="z",
        axis=None,
        is_weight=False,
        consumers=(Edge("d", "Add_y", 1), Edge("d", "Relu_a", 0)),
        dtype="int8",
    )


def test_a_pair_on_a_weight_has_its_axis() -> None:
    (pair,) = pairs(
        """q = QuantizeLinear <axis = 1> (w, sc, zc)  d = DequantizeLinear <axis = 1> (q, sc, zc)
           y = MatMul (x, d)""",
        w=WEIGHT,
    )

    assert (pair.tensor, pair.axis, pair.is_weight) == ("w", 1, True)


@pytest.mark.parametrize(("axis", "expected"), [("<axis = -1>", 1), ("", 1), ("<axis = 1>", 1)])
def test_an_axis_from_the_end_or_left_out_is_counted_from_the_front(
    axis: str, expected: int
) -> None:
    (pair,) = pairs(
        f"d = DequantizeLinear {axis} (codes, sc)  y = MatMul (x, d)",
        codes=np.ones((2, 3), np.int8),
    )

    assert pair.axis == expected


def test_stored_codes_have_no_quantize_node() -> None:
    (pair,) = pairs(
        "d = DequantizeLinear (codes, s)  y = MatMul (x, d)", codes=np.ones((2, 3), np.int8)
    )

    assert (pair.tensor, pair.q_node, pair.zero_point, pair.dtype) == ("codes", None, None, "int8")


def test_without_a_zero_point_the_codes_are_uint8_as_onnx_says() -> None:
    (pair,) = pairs("q = QuantizeLinear (x, s)  d = DequantizeLinear (q, s)  y = Relu (d)")

    assert pair.dtype == "uint8"


def test_without_a_zero_point_the_output_type_may_be_stated() -> None:
    (pair,) = pairs(
        """q = QuantizeLinear <output_dtype = 3> (x, s)  d = DequantizeLinear (q, s)
           y = Relu (d)""",
        opset=21,
    )

    assert pair.dtype == "int8"


def test_one_quantize_node_may_have_several_dequantize_nodes() -> None:
    found = pairs("""q = QuantizeLinear (x, s, z)
                     d = DequantizeLinear (q, s, z)  e = DequantizeLinear (q, s, z)
                     y = Add (d, e)""")

    assert [(p.tensor, p.output) for p in found] == [("x", "d"), ("x", "e")]


def test_codes_that_the_graph_computes_are_no_pair() -> None:
    found = pairs("i = Cast <to = 3> (x)  d = DequantizeLinear (i, s, z)  y = Relu (d)")

    assert found == ()


def test_a_pair_that_only_a_graph_output_reads_has_no_consumers() -> None:
    (pair,) = pairs("q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z)")

    assert pair.consumers == ()


def test_a_scale_of_one_element_on_an_activation_is_per_tensor() -> None:
    (pair,) = pairs(
        """q = QuantizeLinear (x, one, zero)  d = DequantizeLinear (q, one, zero)
           y = Relu (d)""",
        one=np.float32([1]), zero=np.int8([0]),
    )  # fmt: skip

    assert pair.axis is None

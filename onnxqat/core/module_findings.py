"""What a torch module does otherwise than one would expect: findings, and their manual pages.

They lie here, and not in `bridge`, so that a page can be looked up without loading torch.
"""

from __future__ import annotations

from onnxqat.core.finding import Finding, Severity

PAGES = {
    "frozen_operator": """\
A node has no torch function and runs frozen, in ONNX Runtime.

Why it matters: no gradient passes the node. What comes before it learns only along other ways to
the outputs; a weight that has none keeps its value. On a GPU each step copies the node's inputs to
the CPU and its outputs back.

How to fix: nothing, if the node lies before the first weight or behind the last one. Else put
operators that `onnxqat ops` lists in its place.

Source: `to_torch(model, fallback="onnxruntime")`, `--fallback onnxruntime`, or `fallback` under
[finetune] in a recipe asked for it.""",
    "qdq_as_written": """\
A Q/DQ pair runs as the two nodes that it is, not as a fake quantizer.

Why it matters: rounding stops the gradient, so nothing before the pair learns through it, and its
scale does not learn. The values are right.

How to fix: what the message names. A fake quantizer wants a constant scale > 0, the same in Q and
DQ, one constant zero point, and codes that nothing but the DQ reads. `onnxqat.prepare` folds scales
that are computed from constants.

Source: ONNX QuantizeLinear and DequantizeLinear.""",
}
"""Rule -> its manual page."""


def frozen_operator(node: str, op: str) -> Finding:
    """A node that runs in the fallback."""
    return Finding(
        rule="frozen_operator",
        severity=Severity.WARNING,
        message=f"{op} runs frozen, in ONNX Runtime: no gradient passes it",
        node=node,
        fix="put operators in its place that torch has, see onnxqat ops, if weights before it "
        "should learn",
    )


def qdq_as_written(node: str, tensor: str, reason: str) -> Finding:
    """A pair that is no fake quantizer."""
    return Finding(
        rule="qdq_as_written",
        severity=Severity.WARNING,
        message=f"the Q/DQ pair runs as written, and no gradient passes it: {reason}",
        node=node,
        tensor=tensor,
        fix="give Q and DQ the same constant scale > 0 and one constant zero point",
    )

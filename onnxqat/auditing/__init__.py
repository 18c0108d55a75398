"""Objections to a Q/DQ model, before TensorRT makes them."""

from onnxqat.auditing import rules
from onnxqat.auditing.audit import audit
from onnxqat.auditing.registry import RULES, Rule

__all__ = ["RULES", "Rule", "audit", "rules"]

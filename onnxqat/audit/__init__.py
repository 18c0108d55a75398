"""Objections to a Q/DQ model, before TensorRT makes them."""

from onnxqat.audit import rules
from onnxqat.audit.audit import audit
from onnxqat.audit.registry import RULES, Rule

__all__ = ["RULES", "Rule", "audit", "rules"]

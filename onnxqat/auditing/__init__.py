"""Objections to a Q/DQ model, before TensorRT makes them."""

from onnxqat.auditing import rules
from onnxqat.auditing.audit import audit
from onnxqat.auditing.config import AuditConfig
from onnxqat.auditing.evidence import Evidence
from onnxqat.auditing.fix import Fixed, fix
from onnxqat.auditing.registry import RULES, Rule

__all__ = ["RULES", "AuditConfig", "Evidence", "Fixed", "Rule", "audit", "fix", "rules"]

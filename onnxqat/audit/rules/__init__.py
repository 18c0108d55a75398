"""The audit rules; importing this package enters them into the table."""

from onnxqat.audit.rules import calibration, legality, placement

__all__ = ["calibration", "legality", "placement"]

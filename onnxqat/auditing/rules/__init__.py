"""The audit rules; importing this package enters them into the table."""

from onnxqat.auditing.rules import calibration, legality, placement

__all__ = ["calibration", "legality", "placement"]

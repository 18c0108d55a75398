"""Ranges of tensors: collected from data through ONNX Runtime, chosen by a calibrator."""

from onnxqat.calibration.calibrate import calibrate
from onnxqat.calibration.collect import collect
from onnxqat.calibration.config import CalibrationConfig
from onnxqat.calibration.distribution import distributions
from onnxqat.calibration.statistics import Statistics

__all__ = [
    "CalibrationConfig",
    "Statistics",
    "calibrate",
    "collect",
    "distribution_of",
    "distributions",
]

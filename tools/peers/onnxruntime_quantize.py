"""onnxruntime.quantization with the settings that TensorRT needs, BatchNormalization folded first.

ONNX Runtime's own defaults write int32 biases behind DequantizeLinear, which TensorRT refuses.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from calibration_batches import Batches, Task, parse_task
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

METHODS = {"max": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}
TENSORRT_FRIENDLY = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "DedicatedQDQPair": True,
    "QuantizeBias": False,
}


class Reader(Batches, CalibrationDataReader):  # type: ignore[misc] # no types there
    """The batches as ONNX Runtime wants them."""


def run(task: Task) -> None:
    """Pre-process, calibrate, write."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        quant_pre_process(str(task.model), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(task.output),
            Reader(task),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[task.calibrator],
            extra_options=TENSORRT_FRIENDLY,
        )


if __name__ == "__main__":
    run(parse_task())

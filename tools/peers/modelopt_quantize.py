"""ModelOpt's ONNX quantization on the CPU, the rest left in FP32.

It rewrites the model file that it is given: give it a copy.
"""

from __future__ import annotations

from calibration_batches import Batches, Task, parse_task
from modelopt.onnx.quantization import quantize
from onnxruntime.quantization import CalibrationDataReader


class Reader(Batches, CalibrationDataReader):  # type: ignore[misc] # no types there
    """The batches as ONNX Runtime wants them."""


def run(task: Task) -> None:
    """Calibrate, write."""
    quantize(
        str(task.model),
        quantize_mode="int8",
        calibration_data_reader=Reader(task),
        calibration_method=task.calibrator,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(task.output),
    )


if __name__ == "__main__":
    run(parse_task())

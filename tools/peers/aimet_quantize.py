"""AIMET's ONNX quantization: its per-channel configuration, with the symmetric activations that
TensorRT needs.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import aimet_onnx
import onnx
from aimet_onnx import QuantizationSimModel
from calibration_batches import Batches, Task, parse_task

CONFIG = "common/quantsim_config/default_config_per_channel.json"
SCHEMES = {"max": "min_max", "entropy": "tf_enhanced"}


def run(task: Task) -> None:
    """Calibrate, write."""
    config = json.loads((Path(aimet_onnx.__file__).parent / CONFIG).read_text())
    config["defaults"]["ops"]["is_symmetric"] = "True"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.json")
        file.write_text(json.dumps(config))
        sim = QuantizationSimModel(
            onnx.load(task.model), config_file=str(file), quant_scheme=SCHEMES[task.calibrator]
        )

    def calibrate(session) -> None:  # type: ignore[no-untyped-def] # an ONNX Runtime session
        batches = Batches(task)
        while (feed := batches.get_next()) is not None:
            session.run(None, feed)

    sim.compute_encodings(calibrate)
    onnx.save(sim.to_onnx_qdq(force_activation_as="signed"), task.output)


if __name__ == "__main__":
    run(parse_task())

"""The stages by name, in the order in which one would run them all.

What sequential_mse and then bias_correction came to behind calibration by `auto`, as SQNR in dB on
test samples that chose nothing (128 samples to learn from, for MobileNet 64):

              ResNet-20      MobileNet v1    KWT-1
              int8   w4a8    int8   w4a8     int8   w4a8
    before    28.4   16.7    18.6    4.7     26.4   19.9
    behind    28.8   17.5    19.8    6.9     26.2   20.1

Where a model has nothing more to gain by them, what they keep is as good as chance: 0.1 dB less in
one place here.
"""

from __future__ import annotations

from onnxqat.initialization.batch_norm import reestimate_batch_norm
from onnxqat.initialization.bias_correction import correct_biases
from onnxqat.initialization.context import Stage
from onnxqat.initialization.reconstruct import adaround, brecq, reconstruct
from onnxqat.initialization.sequential_mse import match_outputs

STAGES: dict[str, Stage] = {
    "batch_norm": reestimate_batch_norm,
    "sequential_mse": match_outputs,
    "bias_correction": correct_biases,
    "adaround": adaround,
    "brecq": brecq,
    "reconstruct": reconstruct,
}
"""To add one: a function in a file of its own, a line here, a test."""

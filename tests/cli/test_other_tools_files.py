"""A Q/DQ file that onnxruntime.quantization made goes into `finetune`, and what TensorRT would
refuse in it is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from onnxqat.cli.main import main
from onnxqat.graph import load, structural_diff
from tests.support.nets import images, write_net


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter([{"image": images(64)}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def quantized_elsewhere(model: Path, out: Path, *, bias: bool) -> None:
    quantize_static(
        model,
        out,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": bias,
            "AddQDQPairToWeight": not bias,
        },
    )


def sqnr(capsys: pytest.CaptureFixture[str], model: Path, candidate: Path, data: Path) -> float:
    capsys.readouterr()
    arguments = ["compare", str(model), str(candidate), "--data", str(data), "--json"]
    assert main(arguments) == 0
    return float(json.loads(capsys.readouterr().out)["outputs"][0]["sqnr_db"])


@pytest.mark.parametrize("bias", [True, False], ids=["int32 bias, stored codes", "TensorRT form"])
def test_a_file_of_onnxruntime_comes_out_fine_tuned_and_otherwise_unchanged(capsys, tmp_path, bias):
    model, data = write_net(tmp_path)
    qdq, out = tmp_path / "ort.onnx", tmp_path / "qat.onnx"
    quantized_elsewhere(model, qdq, bias=bias)

    command = ["finetune", qdq, "--teacher", model, "--data", data, "-o", out]
    command += ["--steps", "40", "--batch-size", "16"]
    assert main([str(part) for part in command]) == 0

    told = capsys.readouterr().err
    assert ("QDQ012" in told) == bias, "an int32 bias is what TensorRT refuses"
    assert sqnr(capsys, model, out, data) > sqnr(capsys, model, qdq, data) + 1
    assert all("value" in line for line in structural_diff(load(qdq), load(out)))

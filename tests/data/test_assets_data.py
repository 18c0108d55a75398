"""The loaders of the pretrained models' data fit the models."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxqat.data import open_data
from onnxqat.graph import input_specs, load
from tests.support.assets import ASSETS, needs_assets

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "assets_data.py"

LOADERS = {
    "cifar10_train": "models/cifar10_resnet20.onnx",
    "cifar10_test": "models/cifar10_resnet20_bn.onnx",
    "imagenet": "models/mobilenet_v1_0.75_224_bn.onnx",
    "imagenet_first_300": "models/mobilenet_v1_0.75_224_bn.onnx",
    "imagenet_last_200": "models/mobilenet_v1_0.75_224_bn.onnx",
    "speech_commands_train": "models/kwt1_speech_commands.onnx",
    "speech_commands_test": "models/kwt1_speech_commands.onnx",
    "mnist": "wild/mnist_cntk_opset7.onnx",
    "smallcnn_train": "wild/cifar10_smallcnn_pytorch17_opset10.onnx",
    "smallcnn_test": "wild/cifar10_smallcnn_pytorch17_opset10.onnx",
    "squeezenet": "wild/squeezenet11_caffe2_opset7_fp32cast.onnx",
    "ultraface": "wild/ultraface_rfb320_pytorch12_opset9.onnx",
    "fastestdet": "wild/fastestdet_pytorch111_opset11.onnx",
    "dtln": "wild/dtln_stage1_kerasonnx_opset11.onnx",
    "silero": "wild/silero_vad_16k_pytorch23_opset15.onnx",
    "basic_pitch": "wild/basic_pitch_tf2onnx_opset15.onnx",
}


@needs_assets
@pytest.mark.parametrize("loader", LOADERS)
def test_a_loader_feeds_its_model(loader: str) -> None:
    pytest.importorskip("PIL", reason="the [vision] extra is not installed")
    data = open_data(f"{SCRIPT}:{loader}", input_specs(load(ASSETS / LOADERS[loader])))
    assert sum(len(batch) for batch in data.batches(2, samples=4)) == 4

"""Well-known architectures with random weights, written as ONNX: shapes and edges without files."""

from __future__ import annotations

from tests.support.networks.convolutional import (
    densenet,
    efficientnet,
    fpn,
    inception,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    resnet18,
    resnet_padded,
    resnet_v2,
    shufflenet,
    unet,
    yolo,
)
from tests.support.networks.sequences import audio_cnn, crnn, mlp
from tests.support.networks.transformers import bert, swin, vit, vit_classifier

__all__ = [
    "audio_cnn",
    "bert",
    "crnn",
    "densenet",
    "efficientnet",
    "fpn",
    "inception",
    "mlp",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3",
    "resnet18",
    "resnet_padded",
    "resnet_v2",
    "shufflenet",
    "swin",
    "unet",
    "vit",
    "vit_classifier",
    "yolo",
]

"""The architectures that plans are reviewed and compiled for, as small as shows what they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx

from tests.support import networks

ARCHITECTURES: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet_v1": partial(networks.resnet18, 64),
    "resnet_v1_padded": networks.resnet_padded,
    "resnet_v2": networks.resnet_v2,
    "inception": networks.inception,
    "densenet": networks.densenet,
    "mobilenet_v1": networks.mobilenet_v1,
    "mobilenet_v2": partial(networks.mobilenet_v2, 64),
    "mobilenet_v3": networks.mobilenet_v3,
    "efficientnet": networks.efficientnet,
    "shufflenet": networks.shufflenet,
    "yolo": networks.yolo,
    "fpn": networks.fpn,
    "unet_nearest": networks.unet,
    "unet_linear": partial(networks.unet, up="linear"),
    "unet_transposed": partial(networks.unet, up="transposed"),
    "vit": partial(networks.vit, blocks=2, tokens=98, heads=2),
    "vit_fused_qkv": partial(networks.vit, tokens=98, heads=2, fused=True, gelu="op"),
    "vit_classifier": networks.vit_classifier,
    "vit_long": partial(networks.vit, tokens=196, heads=3, gelu="tanh"),
    "bert": networks.bert,
    "swin": networks.swin,
    "mlp": networks.mlp,
    "audio_cnn": networks.audio_cnn,
    "crnn_lstm": networks.crnn,
    "crnn_gru": partial(networks.crnn, "GRU"),
}

"""Networks on rows and on time: a perceptron, 1-D convolutions, and recurrences."""

from __future__ import annotations

import onnx

from tests.support.networks.builder import NetworkBuilder


def mlp(batch: int = 8) -> onnx.ModelProto:
    """Four Gemms with ReLU, and a MatMul with its bias as a head."""
    net, x = NetworkBuilder(), "x"
    for sizes in ((32, 64), (64, 64), (64, 128)):
        x = net.relu(net.gemm(x, sizes))
    return net.model((batch, 32), net.linear(x, (128, 10)))


def audio_cnn(samples: int = 512) -> onnx.ModelProto:
    """1-D Convs on a waveform: a strided front end, dilated depthwise residual blocks as in a TCN
    (Bai et al. 2018), and a mean over time.
    """
    net = NetworkBuilder()
    w = net.weights(32, 1, 16, fan_in=16)
    x = net.relu(net.node("Conv", "x", w, net.filled(0, 32), strides=[8], kernel_shape=[16]))
    for dilation in (1, 2, 4):
        y = net.relu(net.conv(x, (32, 64), kernel=1, dimensions=1))
        y = net.relu(net.conv(y, (64, 64), group=64, dilation=dilation, dimensions=1))
        x = net.node("Add", x, net.conv(y, (64, 32), kernel=1, dimensions=1))
    x = net.node("MaxPool", x, kernel_shape=[2], strides=[2])
    x = net.relu(net.conv(x, (32, 64), dimensions=1))
    x = net.node("ReduceMean", x, axes=[2], keepdims=0)
    return net.model((1, 1, samples), net.gemm(x, (64, 10)))


def crnn(cell: str = "LSTM") -> onnx.ModelProto:
    """Convs, an `LSTM` or `GRU` over the columns, and a linear layer (Shi et al. 2015)."""
    net, hidden = NetworkBuilder(), 32
    x = net.max_pool(net.relu(net.conv("x", (1, 16))))
    x = net.max_pool(net.relu(net.conv(x, (16, 32))))
    x = net.reshape(net.transpose(x, 3, 0, 1, 2), 16, 1, 32 * 4)
    gates = {"LSTM": 4, "GRU": 3}[cell] * hidden
    w, r = net.weights(1, gates, 128, fan_in=128), net.weights(1, gates, hidden, fan_in=hidden)
    x = net.node(cell, x, w, r, hidden_size=hidden)
    x = net.node("Squeeze", x, net.ints(1))
    return net.model((1, 1, 16, 64), net.linear(x, (hidden, 12)))

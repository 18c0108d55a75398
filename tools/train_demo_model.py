"""Train the network that `onnxqat demo` quantizes, and write models/digits anew.

    python tools/train_demo_model.py [--output models/digits] [--seed 0]

A small residual network with depthwise convolutions on scikit-learn's handwritten digits (1,797
images of 8x8 pixels). It is exported as a deployment engineer would receive it: BatchNormalization
not folded, dynamic batch, nothing about quantization. Needs the `dev` extra; half a minute on one
core. The same seed on the same machine gives the same files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn
from torch.nn import functional

OUTPUT = Path(__file__).resolve().parents[1] / "models" / "digits"
OPSET = 17
IR_VERSION = 8
TEST_IMAGES = 597
EPOCHS = 100
BATCH = 64
LEARNING_RATE = 5e-3
DISTORTION = {"turn": 0.2, "slant": 0.2, "wide": 0.1, "high": 0.1, "right": 0.15, "down": 0.15}
"""Largest turn in radians, and largest slant, stretch and move as a part of half the image."""


@dataclass(frozen=True)
class Images:
    """Images float32 [N, 1, 8, 8] in 0 to 1, labels int64 [N]."""

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]


def load_digits(seed: int) -> tuple[Images, Images]:
    """Training and test images: disjoint, drawn at random."""
    from sklearn.datasets import load_digits as load

    pixels, labels = load(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    pixels = (pixels[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = labels[order].astype(np.int64)
    train, test = slice(TEST_IMAGES, None), slice(TEST_IMAGES)
    return Images(pixels[train], labels[train]), Images(pixels[test], labels[test])


# The network -------------------------------------------------------------------------------------


class ConvNorm(nn.Module):
    """Convolution that keeps the size (or halves it), and BatchNormalization."""

    def __init__(
        self, in_: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H / stride, W / stride]."""
        normed: Tensor = self.norm(self.conv(x))
        return normed


class Separable(nn.Module):
    """Depthwise 3x3, then pointwise, around a skip: the input, or its projection."""

    def __init__(self, in_: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = ConvNorm(in_, in_, 3, stride=stride, groups=in_)
        self.pointwise = ConvNorm(in_, out, 1)
        is_identity = in_ == out and stride == 1
        self.skip = nn.Identity() if is_identity else ConvNorm(in_, out, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H / stride, W / stride]."""
        inner = functional.relu(self.depthwise(x))
        return functional.relu(self.pointwise(inner) + self.skip(x))


class DigitsNet(nn.Module):
    """[N, 1, 8, 8] -> logits [N, 10]."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = ConvNorm(1, width, 3)
        self.block1 = Separable(width, width)
        self.block2 = Separable(width, width)
        self.block3 = Separable(width, 2 * width, stride=2)
        self.block4 = Separable(2 * width, 2 * width)
        self.block5 = Separable(2 * width, 2 * width)
        self.block6 = Separable(2 * width, 2 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(2 * width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Class scores."""
        x = functional.relu(self.stem(image))
        x = self.block3(self.block2(self.block1(x)))
        x = self.block6(self.block5(self.block4(x)))
        logits: Tensor = self.classifier(torch.flatten(self.pool(x), 1))
        return logits


# Training ----------------------------------------------------------------------------------------


def train(images: Images, seed: int) -> DigitsNet:
    """A network fitted with Adam, cosine decay on images distorted at random."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = DigitsNet()
    steps = EPOCHS * (len(images.labels) // BATCH)
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for pixels, labels in shuffled(images, generator):
            loss = functional.cross_entropy(net(distort(pixels, generator)), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return net.eval()


def shuffled(images: Images, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Full batches in random order."""
    pixels, labels = torch.from_numpy(images.pixels), torch.from_numpy(images.labels)
    order = torch.randperm(len(labels), generator=generator)
    for start in range(0, len(order) - BATCH + 1, BATCH):
        chosen = order[start : start + BATCH]
        yield pixels[chosen], labels[chosen]


def distort(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned, stretched, slanted and moved a little, as handwriting differs."""
    most = torch.tensor(list(DISTORTION.values()))[:, None]
    drawn = most * (2 * torch.rand(len(most), len(pixels), generator=generator) - 1)
    turn, slant, wide, high, right, down = drawn
    rows = [
        torch.stack([torch.cos(turn) * (1 + wide), slant - torch.sin(turn), right], 1),
        torch.stack([torch.sin(turn), torch.cos(turn) * (1 + high), down], 1),
    ]
    shape = list(pixels.shape)
    grid = functional.affine_grid(torch.stack(rows, 1), shape, align_corners=False)
    return functional.grid_sample(pixels, grid, align_corners=False)


# Export ------------------------------------------------------------------------------------------

Emitted = tuple[list[onnx.NodeProto], dict[str, Tensor]]
"""Nodes, and the initializers that they read."""


def to_onnx(net: nn.Module) -> onnx.ModelProto:
    """The network as ONNX with its module names, written node by node.

    `torch.onnx.export` would need another package, and would fold BatchNormalization.
    """
    traced = fx.symbolic_trace(net)
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, Tensor] = {}
    for step in traced.graph.nodes:
        emit = emitter(traced, step)
        if emit is not None:
            new_nodes, new_weights = emit
            nodes += new_nodes
            weights |= new_weights
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
    nodes[-1].output[0] = "logits"
    tensors = [numpy_helper.from_array(w.detach().numpy(), name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "digits", [image], [logits], tensors)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(
        graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="onnxqat-models"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def emitter(traced: fx.GraphModule, step: fx.Node) -> Emitted | None:
    """What one traced step becomes; None for the steps that are no node."""
    if step.op in ("placeholder", "output"):
        return None
    inputs = [str(argument) for argument in step.args if isinstance(argument, fx.Node)]
    if step.op == "call_module":
        path = str(step.target)
        module = traced.get_submodule(path)
        op_type, read = MODULES[type(module)]
        attributes, weights = read(module)
        named = {f"{path}.{name}": tensor for name, tensor in weights.items()}
    else:
        path, named = step.name, {}
        op_type, attributes = FUNCTIONS[str(getattr(step.target, "__name__", ""))]
    node = helper.make_node(
        op_type, [*inputs, *named], [step.name], path.replace(".", "/"), **attributes
    )
    return [node], named


Read = tuple[dict[str, Any], dict[str, Tensor]]


def read_conv(conv: nn.Conv2d) -> Read:
    """Attributes and weights of a Conv."""
    return {
        "kernel_shape": list(conv.kernel_size),
        "strides": list(conv.stride),
        "pads": [*map(int, conv.padding)] * 2,
        "group": conv.groups,
    }, {"weight": conv.weight}


def read_norm(norm: nn.BatchNorm2d) -> Read:
    """Attributes and weights of a BatchNormalization, in ONNX's order."""
    names = ("weight", "bias", "running_mean", "running_var")
    return {"epsilon": norm.eps}, {name: getattr(norm, name) for name in names}


def read_linear(linear: nn.Linear) -> Read:
    """Attributes and weights of a Gemm."""
    return {"transB": 1}, {"weight": linear.weight, "bias": linear.bias}


MODULES: dict[type[nn.Module], tuple[str, Callable[[Any], Read]]] = {
    nn.Conv2d: ("Conv", read_conv),
    nn.BatchNorm2d: ("BatchNormalization", read_norm),
    nn.Linear: ("Gemm", read_linear),
    nn.AdaptiveAvgPool2d: ("GlobalAveragePool", lambda _: ({}, {})),
    nn.Identity: ("Identity", lambda _: ({}, {})),
}
FUNCTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "add": ("Add", {}),
    "flatten": ("Flatten", {"axis": 1}),
}


# The shipped files -------------------------------------------------------------------------------


def top1(model: onnx.ModelProto, images: Images) -> float:
    """Share of images that ONNX Runtime classifies rightly."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString())
    (logits,) = session.run(None, {"image": images.pixels})
    return float((np.argmax(logits, 1) == images.labels).mean())


def save_images(path: Path, images: Images) -> None:
    """An .npz that onnxqat reads: the input by its name, and the labels."""
    np.savez_compressed(path, image=images.pixels, labels=images.labels)


def main() -> None:
    """Train, export, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order: the same weights on every run
    torch.use_deterministic_algorithms(True)

    train_images, test_images = load_digits(arguments.seed)
    model = to_onnx(train(train_images, arguments.seed))
    arguments.output.mkdir(parents=True, exist_ok=True)
    onnx.save(model, arguments.output / "model.onnx")
    save_images(arguments.output / "train.npz", train_images)
    save_images(arguments.output / "test.npz", test_images)
    measured = {"metric": "top1", "test_images": TEST_IMAGES, "fp32": top1(model, test_images)}
    (arguments.output / "expected.json").write_text(json.dumps(measured, indent=2) + "\n")
    print(f"{arguments.output}: top-1 {measured['fp32']:.2%} on {TEST_IMAGES} test images")


if __name__ == "__main__":
    main()

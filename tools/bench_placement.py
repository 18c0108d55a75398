"""What the TensorRT compiler makes of onnxqat's placement, and of other tools' on the same models.

    python tools/bench_placement.py [--cases NAME...] [--tools NAME...] [--json FILE]

The models are well-known architectures with random weights, as the tests build them, and the
pretrained ones that the tests use. Every tool quantizes each by the settings that TensorRT needs,
calibrated by the largest magnitudes of the same few random samples: scales do not change what is
compiled, as long as different ranges stay different. All files are compiled in this run, for the
same GPU generation, by TensorRT for RTX, which needs no GPU. Told is how many of the Conv,
ConvTranspose, Gemm and MatMul nodes multiply in INT8, how many kernels there are, and the bytes of
the activations and of the weights that they read and write. Other tools are installed once, each
in a virtual environment of its own under --venvs.

Exit code 1: a tool's file moves fewer bytes of activations than onnxqat's somewhere, and is no
exchange of those for more bytes of weights: a product of one row that stays in float adds its bias
in the same kernel, which saves a few bytes, and reads four times the weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import onnx
from bench_quantize import ASSETS, CACHE, PEERS, Peer, say

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from onnxqat.core.errors import OnnxqatError
from onnxqat.core.precision import Precision, count_in, node_precisions
from onnxqat.engine import build, heavy_nodes
from tests.support import networks

OURS = "onnxqat"
SAMPLES = 4
NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet18": networks.resnet18,
    "resnet_v1_padded": networks.resnet_padded,
    "resnet_v2": networks.resnet_v2,
    "inception": networks.inception,
    "densenet": networks.densenet,
    "mobilenet_v1": networks.mobilenet_v1,
    "mobilenet_v2": networks.mobilenet_v2,
    "mobilenet_v3": networks.mobilenet_v3,
    "efficientnet": networks.efficientnet,
    "shufflenet": networks.shufflenet,
    "yolo": networks.yolo,
    "fpn": networks.fpn,
    "unet_nearest": networks.unet,
    "unet_linear": partial(networks.unet, up="linear"),
    "unet_transposed": partial(networks.unet, up="transposed"),
    "vit": partial(networks.vit, blocks=2),
    "vit_fused_qkv": partial(networks.vit, fused=True, gelu="tanh"),
    "vit_classifier": networks.vit_classifier,
    "bert": partial(networks.bert, embedded=True),
    "swin": networks.swin,
    "mlp": networks.mlp,
    "audio_cnn": networks.audio_cnn,
    "crnn_lstm": networks.crnn,
    "crnn_gru": partial(networks.crnn, "GRU"),
}
PRETRAINED = {
    "resnet20": "cifar10_resnet20.onnx",
    "resnet20_bn": "cifar10_resnet20_bn.onnx",
    "mobilenet_v1_0.75": "mobilenet_v1_0.75_224_bn.onnx",
    "kwt1": "kwt1_speech_commands.onnx",
}


@dataclass(frozen=True)
class Row:
    """One file, compiled."""

    case: str
    tool: str
    int8: int = 0
    """Conv, ConvTranspose, Gemm and MatMul nodes that multiply in INT8."""
    heavy: int = 0
    """All of them."""
    kernels: int = 0
    megabytes: float | None = None
    """Activations read and written; None where there is no compiled file."""
    constants: float = 0
    """Megabytes of weights, biases and scales that the kernels read."""
    problem: str = ""


def write_case(case: str, folder: Path) -> tuple[Path, str]:
    """Write a case's FP32 model and its samples, `.npy` and `.npz`; the model and its input."""
    model, data = folder / f"{case}.onnx", folder / f"{case}.npy"
    if case in PRETRAINED:
        copyfile(ASSETS / "models" / PRETRAINED[case], model)  # a peer rewrites its input
    else:
        onnx.save(NETWORKS[case](), model)
    graph = onnx.load(model).graph
    stored = {x.name for x in graph.initializer}
    (name, shape), *others = [
        (x.name, [d.dim_value or 1 for d in x.type.tensor_type.shape.dim])
        for x in graph.input
        if x.name not in stored
    ]
    assert not others, f"{case} has several inputs"
    samples = np.random.default_rng(0).standard_normal((SAMPLES * shape[0], *shape[1:]))
    np.save(data, samples.astype(np.float32))
    arrays: dict[str, Any] = {name: samples.astype(np.float32)}
    np.savez(data.with_suffix(".npz"), **arrays)
    return model, name


def our_command(model: Path, output: Path) -> list[str]:
    """The command as a user types it, in the environment that runs this file."""
    options = ["--calibrator", "max", "--profile", "rtx"]
    files = [str(model), "--data", str(model.with_suffix(".npz")), "-o", str(output)]
    return [sys.executable, "-m", "onnxqat", "quantize", *files, *options]


def peer_command(peer: Peer, venvs: Path, model: Path, output: Path, name: str) -> list[str]:
    """The driver in the tool's environment; a fixed batch is what a sample is."""
    batch = onnx.load(model).graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    files = ["--model", str(model), "--data", str(model.with_suffix(".npy")), "--input", name]
    options = ["--samples", str(SAMPLES * batch), "--batch", str(batch), "--calibrator", "max"]
    program = [str(venvs / peer.name / "bin" / "python"), str(peer.driver)]
    return [*program, *files, "--output", str(output), *options]


def quantized(tool: str, model: Path, name: str, venvs: Path) -> Path | str:
    """The file that a tool makes, or its last words."""
    output = model.with_name(f"{model.stem}.{tool}.onnx")
    output.unlink(missing_ok=True)
    copy = model.with_name(f"{model.stem}.{tool}.fp32.onnx")
    copyfile(model, copy)
    for suffix in (".npy", ".npz"):
        copyfile(model.with_suffix(suffix), copy.with_suffix(suffix))
    if tool == OURS:
        command = our_command(copy, output)
    else:
        command = peer_command(PEERS[tool], venvs, copy, output, name)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0 and output.exists():
        return output
    return " ".join((done.stderr or done.stdout).split())[-160:] or f"exit code {done.returncode}"


def compiled(row: Row, model: Path) -> Row:
    """The row of a file."""
    try:
        plan = build(model, backend="rtx").plan
    except OnnxqatError as error:
        return replace(row, problem=f"not compiled: {error.problem[:160]}")
    nodes = node_precisions(plan, heavy_nodes(model))
    return replace(
        row,
        int8=count_in(Precision.INT8, nodes),
        heavy=len(nodes),
        kernels=len(plan.kernels),
        megabytes=plan.activation_bytes / 1e6,
        constants=plan.constant_bytes / 1e6,
    )


def rows(cases: Sequence[str], tools: Sequence[str], venvs: Path) -> Iterator[Row]:
    """Each case by each tool, and in FP32."""
    folder = CACHE / "placement"
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        model, name = write_case(case, folder)
        yield compiled(Row(case, "FP32"), model)
        for tool in tools:
            made = quantized(tool, model, name, venvs)
            row = Row(case, tool)
            yield replace(row, problem=made) if isinstance(made, str) else compiled(row, made)


def line(row: Row) -> str:
    """A row as text."""
    if row.megabytes is None:
        return f"{row.case:18} {row.tool:12} {row.problem}"
    share = f"{row.int8}/{row.heavy}"
    bytes_moved = f"{row.megabytes:9.3f} + {row.constants:.3f} MB"
    return f"{row.case:18} {row.tool:12} {share:>8} {row.kernels:4} {bytes_moved}"


def missed(found: Sequence[Row]) -> list[str]:
    """Where another tool's file moves fewer bytes of activations than ours, for nothing."""
    ours = {row.case: row for row in found if row.tool == OURS}
    return [
        f"{row.case}: {row.tool} moves {row.megabytes:.6f} MB, onnxqat {mine.megabytes} MB"
        for row in found
        if row.tool in PEERS and row.megabytes is not None and (mine := ours.get(row.case))
        if mine.megabytes is None or (row.megabytes < mine.megabytes and not is_exchange(row, mine))
    ]


def is_exchange(row: Row, mine: Row) -> bool:
    """Whether a file runs fewer nodes in INT8 than ours, and moves more bytes in all for that."""
    assert row.megabytes is not None
    assert mine.megabytes is not None
    in_all = row.megabytes + row.constants
    return row.int8 < mine.int8 and in_all > mine.megabytes + mine.constants


def main() -> int:
    """Quantize, compile, print the table, and judge it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases, tools = [*NETWORKS, *(PRETRAINED if ASSETS.is_dir() else ())], [OURS, *PEERS]
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    parser.add_argument("--tools", nargs="+", choices=tools, default=tools)
    parser.add_argument("--venvs", type=Path, default=CACHE / "venvs")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    for tool in set(arguments.tools) & set(PEERS):
        PEERS[tool].install(arguments.venvs)
    found = []
    for row in rows(arguments.cases, arguments.tools, arguments.venvs):
        found.append(row)
        print(line(row), flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in found], indent=2))
    complaints = missed(found)
    say("\n".join(complaints or ["no tool's file moves fewer bytes than onnxqat's"]))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())

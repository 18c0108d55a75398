"""Time the torch modules of two networks against the same networks written by hand, interleaved.

    python tools/bench_bridge.py [--networks resnet20 encoder] [--rounds 12] [--threads 1]

The networks are ResNet-20 and a transformer encoder of 12 layers, whose ONNX file is made here. The
contestants take turns in each round: torch by hand (of the encoder also with torch's one kernel for
attention), the FP32 module, the Q/DQ module with frozen and with learned scales, and onnx2torch
where it can convert the file (in a process and a virtual environment of its own, with the torch of
this one). Prints the smallest CPU times, the median over the rounds of the ratios to torch by hand,
and how many numbers a step trained: who leaves weights out is faster. Then what the module adds to
each node.

Exit code 1: the FP32 module took more than 1.05 times as long as torch by hand, or more than 10 µs
a node. The models are those that the tests use, see tools/assets_data.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import parser as onnx_parser
from torch import Tensor, nn
from torch.nn import functional

TOOLS = Path(__file__).resolve().parent
sys.path.insert(0, str(TOOLS))

from bench_networks import Encoder, FusedEncoderLayer, ResNet20, Sizes, encoder_model  # noqa: E402

from onnxqat import calibrate, insert, load, place, prepare, to_torch  # noqa: E402
from onnxqat.bridge import OnnxModule, keep_freed_memory  # noqa: E402
from onnxqat.data import Batch  # noqa: E402
from onnxqat.graph import Graph  # noqa: E402

ASSETS = Path(os.environ.get("ONNXQAT_ASSETS", TOOLS.parents[1] / "shared" / "assets"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "onnxqat-bench"
MOST_RATIO = 1.05
MOST_MICROSECONDS = 10.0
BY_HAND, MODULE, PEER = "torch by hand", "FP32 module", "onnx2torch"

Times = tuple[float, float]
"""CPU seconds of the forward pass, and of the whole step."""
Stepper = Callable[[], Times]


@dataclass(frozen=True)
class Network:
    """One network, by hand and as a file, with the data of a step."""

    name: str
    model: Path
    by_hand: Mapping[str, nn.Module]
    x: Tensor
    labels: Tensor


def resnet20(_: Path) -> Network:
    """ResNet-20 at batch 128."""
    model = ASSETS / "models" / "cifar10_resnet20.onnx"
    x, y = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))
    return Network("resnet20", model, {BY_HAND: ResNet20()}, x, y)


def encoder(folder: Path) -> Network:
    """12 layers on 8 sequences of 64."""
    sizes = Sizes()
    by_hand, fused = Encoder(sizes), Encoder(sizes, FusedEncoderLayer)
    fused.load_state_dict(by_hand.state_dict())
    onnx.save(encoder_model(by_hand, sizes), folder / "encoder.onnx")
    x, y = torch.randn(8, 64, sizes.width), torch.randint(0, sizes.classes, (8,))
    nets = {BY_HAND: by_hand, "  … fused attention": fused}
    return Network("encoder", folder / "encoder.onnx", nets, x, y)


NETWORKS = {"resnet20": resnet20, "encoder": encoder}


class Noise:
    """A calibration set of two samples like this one: timing does not depend on the values."""

    has_labels, size = False, 2

    def __init__(self, name: str, x: Tensor) -> None:
        self._batch = Batch({name: x[:2].numpy()}, None, 2)

    def batches(self, batch_size: int, **_: Any) -> Iterator[Batch]:
        """The one batch."""
        yield self._batch


# Contestants -------------------------------------------------------------------------------------


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that a step changes."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def count(module: nn.Module) -> int:
    """How many numbers a step changes."""
    return sum(parameter.numel() for parameter in trained(module))


def modules(network: Network) -> dict[str, nn.Module]:
    """The contestants of this process by name."""
    fp32 = prepare(load(network.model))
    plan = place(fp32)
    quantized = insert(fp32, plan, calibrate(fp32, plan, Noise(fp32.inputs[0].name, network.x)))
    return {
        **network.by_hand,
        MODULE: to_torch(network.model),
        "Q/DQ, frozen scales": to_torch(quantized),
        "Q/DQ, learned scales": _learning(quantized),
    }


def _learning(quantized: Graph) -> OnnxModule:
    module = to_torch(quantized)
    for quantizer in module.quantizers.values():
        quantizer.learn_scale = True
    return module


def step(module: nn.Module, x: Tensor, y: Tensor) -> Times:
    """One training step."""
    parameters = trained(module)
    start = time.process_time()
    logits = module(x)
    middle = time.process_time()
    gradients = torch.autograd.grad(functional.cross_entropy(logits, y), parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(gradient, alpha=1e-6)
    return middle - start, time.process_time() - start


class Peer:
    """onnx2torch in a process of its own, which steps when it is told to."""

    def __init__(self, python: Path, network: Network, folder: Path, threads: int) -> None:
        files = [folder / f"{network.name}_{what}.npy" for what in ("x", "labels")]
        for file, tensor in zip(files, (network.x, network.labels), strict=True):
            np.save(file, tensor.numpy())
        driver = TOOLS / "peers" / "onnx2torch_step.py"
        command = [str(python), str(driver), str(network.model), *map(str, files)]
        self._process = subprocess.Popen(
            [*command, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        first = self._line()
        self.error: str | None = first.get("error")
        self.trained: int = first.get("trained", 0)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def __call__(self) -> Times:
        """One step."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        forward, whole = self._line()["times"]
        return forward, whole

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line: dict[str, Any] = json.loads(self._process.stdout.readline())
        return line


def install_peer() -> Path:
    """The Python of an environment with onnx2torch, and else with what this one has."""
    folder = CACHE / "venvs" / "onnx2torch"
    python = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        print(f"installing onnx2torch into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "onnx2torch==1.5.15"]
        subprocess.run(pip, check=True)
        (folder / ".complete").touch()
    # The same build of torch for all; and pip would fetch several GB of another one. Each time: the
    # environment that the folder was made from may be gone.
    (site,) = folder.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if path and path != str(TOOLS)]
    (site / "onnxqat_bench.pth").write_text("\n".join(ours))
    return python


# Measuring ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """One contestant's CPU seconds, and its ratios to the first contestant."""

    fastest: Times
    ratios: Times
    """Medians over the rounds: within one, all meet the same machine."""


def measure(contestants: dict[str, Stepper], rounds: int) -> dict[str, Result]:
    """What each takes, in rounds in which all take turns."""
    times: dict[str, list[Times]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, stepper in contestants.items():
            times[name].append(stepper())
    table = {name: np.array(rows[1:]) for name, rows in times.items()}  # the first one warms up
    first = next(iter(table.values()))
    return {
        name: Result(_pair(rows.min(0)), _pair(np.median(rows / first, 0)))
        for name, rows in table.items()
    }


def _pair(values: np.ndarray[Any, Any]) -> Times:
    forward, whole = values.tolist()
    return forward, whole


def node_overhead(nodes: int = 400) -> float:
    """Microseconds that the module adds to each operator of a chain, over calling it in a loop."""
    chain = "\n".join(f"x{i + 1} = Neg (x{i})" for i in range(nodes))
    model: onnx.ModelProto = onnx_parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        f"chain (float[n] x0) => (float[n] x{nodes}) {{{chain}}}"
    )
    module, x = to_torch(model), torch.zeros(4)

    def by_hand() -> None:
        y = x
        for _ in range(nodes):
            y = -y

    best = [float("inf")] * 2
    for _ in range(20):
        for i, run in enumerate((lambda: module(x), by_hand)):
            start = time.process_time()
            run()
            best[i] = min(best[i], time.process_time() - start)
    return (best[0] - best[1]) / nodes * 1e6


def race(network: Network, folder: Path, options: argparse.Namespace) -> list[str]:
    """Print the table of a network; what it misses."""
    with ExitStack() as stack:
        ours = modules(network)
        numbers = {name: count(module) for name, module in ours.items()}
        contestants: dict[str, Stepper] = {
            name: partial(step, module, network.x, network.labels) for name, module in ours.items()
        }
        note = ""
        if not options.no_peer:
            peer = stack.enter_context(Peer(install_peer(), network, folder, options.threads))
            if peer.error is None:
                contestants[PEER], numbers[PEER] = peer, peer.trained
            else:
                note = f"{PEER} cannot convert it: {peer.error}"
        results = measure(contestants, options.rounds)
    print(f"{network.name:22} {'forward':>11} {'step':>11}   x by hand: forward, step   trained")
    for name, result in results.items():
        forward, whole = result.fastest
        print(
            f"  {name:20} {forward * 1e3:8.1f} ms {whole * 1e3:8.1f} ms "
            f"{result.ratios[0]:17.3f} {result.ratios[1]:6.3f} {numbers[name]:9,}"
        )
    if note:
        print(f"  {note}")
    ratio = max(results[MODULE].ratios)
    missed = f"{network.name}: {ratio:.3f} times as long as torch by hand"
    return [missed] if ratio > MOST_RATIO else []


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-peer", action="store_true", help="leave onnx2torch out")
    options = parser.parse_args()
    if "resnet20" in options.networks and not ASSETS.is_dir():
        sys.exit(f"the models are not at {ASSETS}: set ONNXQAT_ASSETS")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keep_freed_memory()  # for all contestants; training does so, too
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            missed += race(NETWORKS[name](Path(folder)), Path(folder), options)
    overhead = node_overhead()
    print(f"host overhead per node: {overhead:.2f} µs")
    if overhead > MOST_MICROSECONDS:
        missed.append(f"{overhead:.1f} µs a node")
    print("\n".join(f"missed: {line}" for line in missed) or "within the limits everywhere")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

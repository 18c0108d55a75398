"""The peak memory of a quantized training step over that of plain training.

    python tools/bench_memory.py [--networks resnet20 mobilenet] [--steps 4]

ResNet-20 at batch 128 and MobileNet v1 at batch 16, on the CPU, one thread. Each contestant takes
its steps in a process of its own: torch by hand (of ResNet-20), the FP32 module, the Q/DQ module
with frozen and with learned scales, and both again with `saves_memory`. Printed are the bytes that
torch holds at its peak within a step (what a GPU would need), what the process grew by beyond model
and data, which takes in torch's scratch space and the allocator's gaps (they vary from run to run
by a tenth), and the peak of the whole process.

Exit code 1: with `saves_memory`, torch holds, or the process takes, more than 1.3 times as much as
with the FP32 module.
The models are those that the tests use, see tools/assets_data.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

TOOLS = Path(__file__).resolve().parent
sys.path.insert(0, str(TOOLS))

from bench_bridge import ASSETS, BY_HAND, Network, Noise, resnet20, step  # noqa: E402

from onnxqat import calibrate, insert, load, place, prepare, save, to_torch  # noqa: E402
from onnxqat.bridge import keep_freed_memory  # noqa: E402

MOST_RATIO = 1.3
SAVING = " (saves memory)"
CONTESTANTS = (
    BY_HAND, "FP32 module", "frozen scales", "learned scales",
    f"frozen scales{SAVING}", f"learned scales{SAVING}",
)  # fmt: skip


def mobilenet(_: Path) -> Network:
    """MobileNet v1 0.75 at batch 16."""
    x, y = torch.randn(16, 3, 224, 224), torch.randint(0, 1000, (16,))
    return Network("mobilenet", ASSETS / "models" / "mobilenet_v1_0.75_224_bn.onnx", {}, x, y)


NETWORKS = {"resnet20": resnet20, "mobilenet": mobilenet}


def make_files(network: Network, folder: Path) -> None:
    """The prepared and the quantized model, for the processes that step."""
    fp32 = prepare(load(network.model))
    plan = place(fp32)
    ranges = calibrate(fp32, plan, Noise(fp32.inputs[0].name, network.x))
    save(fp32, folder / f"{network.name}.fp32.onnx")
    save(insert(fp32, plan, ranges), folder / f"{network.name}.qdq.onnx")


def contestant(network: Network, name: str, folder: Path) -> nn.Module:
    """The module of this name."""
    if name == BY_HAND:
        return network.by_hand[name]
    is_quantized = "scales" in name
    module = to_torch(folder / f"{network.name}.{'qdq' if is_quantized else 'fp32'}.onnx")
    module.saves_memory = name.endswith(SAVING)
    for quantizer in module.quantizers.values():
        quantizer.learn_scale = name.startswith("learned")
    return module


def grown_by(run: Callable[[], object]) -> int:
    """By how much the process grew at most beyond where it stands, in bytes (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def held_by(run: Callable[[], object]) -> int:
    """The most bytes that torch held of what it allocated meanwhile."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    results = profile.profiler.kineto_results
    changes = [event for event in results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def measure(options: argparse.Namespace) -> None:
    """What a process of one contestant prints: its peaks, as JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()  # as training does
    network = NETWORKS[options.networks[0]](options.folder)
    module = contestant(network, options.contestant, options.folder)

    def steps(count: int) -> None:
        for _ in range(count):
            step(module, network.x, network.labels)

    grown = grown_by(lambda: steps(options.steps))
    peak = _status("VmHWM")
    print(json.dumps({"held": held_by(lambda: steps(1)), "grown": grown, "process": peak}))


def compare(name: str, folder: Path, steps: int) -> list[str]:
    """Print the table of a network; what it misses."""
    network = NETWORKS[name](folder)
    make_files(network, folder)
    print(f"{name:32} {'held by torch':>16} {'growth':>15} {'whole process':>15}")
    peaks = {
        who: _peaks_of(name, who, folder, steps)
        for who in CONTESTANTS
        if who != BY_HAND or network.by_hand
    }
    plain = peaks["FP32 module"]
    missed = []
    for who, found in peaks.items():
        ratio = {key: found[key] / plain[key] for key in found}
        columns = [f"{found[key] / 2**20:6.0f} MB x{ratio[key]:.2f}" for key in found]
        print(f"  {who:32}", "  ".join(columns))
        worst = max(ratio["held"], ratio["process"])
        if who.endswith(SAVING) and worst > MOST_RATIO:
            missed.append(f"{name}, {who}: {worst:.2f} times the memory")
    return missed


def _peaks_of(name: str, who: str, folder: Path, steps: int) -> dict[str, int]:
    command = [sys.executable, __file__, "--networks", name, "--contestant", who]
    command += ["--folder", str(folder), "--steps", str(steps)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peaks: dict[str, int] = json.loads(done.stdout)
    return peaks


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant is not None:
        measure(options)
        return 0
    if not ASSETS.is_dir():
        sys.exit(f"the models are not at {ASSETS}: set ONNXQAT_ASSETS")
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            missed += compare(name, Path(folder), options.steps)
    print("\n".join(f"missed: {line}" for line in missed) or "within the limits everywhere")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

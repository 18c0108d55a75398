"""Time and peak memory of the whole `onnxqat quantize` command, against other tools.

    python tools/bench_quantize.py [--repeats 3] [--cases NAME...] [--tools NAME...] [--batch 4]

Every tool gets the same FP32 model, the same float32 samples in a file, and the same calibrator
('max' or 'entropy'). Each run is a process of its
own, from the interpreter's start to its end. The tools take turns within each repeat, so that a
slow spell of the machine meets them all. Memory is the process's largest resident set, as the
kernel reports it. Other tools are installed once, each in a virtual environment of its own under
--venvs. The models and data are those that the tests use, see tools/assets_data.py.

Exit code 1: onnxqat was not the lowest somewhere, or its memory grew with the samples by 10 %.
"""

# This process stays small, without numpy: a child's peak starts at its parent's size at the fork.
from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

TOOLS = Path(__file__).resolve().parent
ASSETS = Path(os.environ.get("ONNXQAT_ASSETS", TOOLS.parents[1] / "shared" / "assets"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "onnxqat-bench"
BATCH = 4
"""Samples a run of the other tools, which leave the size to their user: about the one at which they
need the least memory, and hardly slower than larger ones. It must divide every case's samples, for
ONNX Runtime's histograms."""
MOST_GROWTH = 0.10
"""How much more memory ten times the samples may take."""


@dataclass(frozen=True)
class Case:
    """One job that every tool does."""

    name: str
    model: str
    loader: str
    """The function of tools/assets_data.py that yields the samples."""
    samples: int
    calibrator: str
    is_growth: bool = False
    """Measured for onnxqat only, against the case of the same calibrator with fewer samples."""


RESNET, MOBILENET = "cifar10_resnet20_bn.onnx", "mobilenet_v1_0.75_224_bn.onnx"
CASES = tuple(
    case
    for calibrator in ("max", "entropy")
    for case in (
        Case(f"resnet20-{calibrator}", RESNET, "cifar10_train", 512, calibrator),
        Case(f"resnet20-{calibrator}-x10", RESNET, "cifar10_train", 5120, calibrator, True),
        Case(f"mobilenet-{calibrator}", MOBILENET, "imagenet_first_300", 300, calibrator),
    )
)


@dataclass(frozen=True)
class Job:
    """A case with its files."""

    case: Case
    model: Path
    arrays: Path
    """The samples as .npy, for the drivers of other tools."""
    archive: Path
    """The same samples as .npz, for onnxqat."""
    output: Path
    batch: int


@dataclass(frozen=True)
class Measurement:
    """One process, from start to end."""

    case: str
    tool: str
    seconds: float
    megabytes: float


# The tools ---------------------------------------------------------------------------------------


def onnxqat_command(job: Job, _: Path) -> list[str]:
    """The command as a user types it, in the environment that runs this file."""
    case = job.case
    options = ["--calibrator", case.calibrator, "--samples", str(case.samples)]
    files = [str(job.model), "--data", str(job.archive), "-o", str(job.output)]
    return [str(Path(sys.executable).with_name("onnxqat")), "quantize", *files, *options]


@dataclass(frozen=True)
class Peer:
    """A tool in an environment of its own."""

    name: str
    packages: tuple[str, ...]

    @property
    def driver(self) -> Path:
        """The script that runs in the environment."""
        return TOOLS / "peers" / f"{self.name}_quantize.py"

    def command(self, job: Job, venvs: Path) -> list[str]:
        """The driver in the tool's environment."""
        case = job.case
        files = ["--model", str(job.model), "--data", str(job.arrays), "--output", str(job.output)]
        options = ["--input", "input", "--samples", str(case.samples), "--batch", str(job.batch)]
        program = [str(venvs / self.name / "bin" / "python"), str(self.driver)]
        return [*program, *files, *options, "--calibrator", case.calibrator]

    def install(self, venvs: Path) -> None:
        """Make the environment, unless it is there and complete."""
        folder = venvs / self.name
        done = folder / ".complete"
        if done.exists() and done.read_text() == " ".join(self.packages):
            return
        shutil.rmtree(folder, ignore_errors=True)
        say(f"installing {' '.join(self.packages)} into {folder}")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--upgrade", "pip"], check=True)
        subprocess.run([*pip, *self.packages], check=True)
        done.write_text(" ".join(self.packages))


PEERS = {
    peer.name: peer
    for peer in (
        Peer("onnxruntime", ("onnxruntime==1.31.1", "onnx==1.23.2")),
        # The torch that onnxqat pins: otherwise pip fetches another build of several GB.
        Peer("modelopt", ("nvidia-modelopt[onnx]==0.47.0", "torch==2.13.0")),
        Peer("aimet", ("aimet-onnx==2.42.0", "torch==2.13.0")),
    )
}
COMMANDS: dict[str, Callable[[Job, Path], list[str]]] = {
    "onnxqat": onnxqat_command,
    **{name: peer.command for name, peer in PEERS.items()},
}


# Measuring ---------------------------------------------------------------------------------------


def measure(job: Job, tool: str, venvs: Path) -> Measurement:
    """Run a tool once.

    Raises:
        SystemExit: The tool failed; its last words are printed.
    """
    shutil.copyfile(ASSETS / "models" / job.case.model, job.model)  # a peer rewrites its input
    job.output.unlink(missing_ok=True)
    log = job.output.with_suffix(".log")
    with log.open("w") as sink:
        start = time.perf_counter()
        process = subprocess.Popen(COMMANDS[tool](job, venvs), stdout=sink, stderr=sink)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not job.output.exists():
        sys.exit(f"{tool} failed on {job.case.name}:\n{log.read_text()[-2000:]}")
    return Measurement(job.case.name, tool, seconds, usage.ru_maxrss / 1024)


def make_inputs(job: Job) -> None:
    """Write the samples as files, in a process of its own."""
    if job.arrays.exists() and job.archive.exists():
        return
    say(f"writing {job.case.samples} samples to {job.archive}")
    subprocess.run([sys.executable, __file__, "--write-inputs", job.case.name], check=True)


def write_inputs(job: Job) -> None:
    """The samples of a case, float32, as .npy and as .npz."""
    import importlib

    import numpy as np

    sys.path.insert(0, str(TOOLS))
    loader = getattr(importlib.import_module("assets_data"), job.case.loader)
    batches = (feed[0]["input"] for feed in loader())
    kept: list[np.ndarray] = []
    while sum(map(len, kept)) < job.case.samples:
        kept.append(next(batches))
    samples = np.concatenate(kept)[: job.case.samples].astype(np.float32)
    np.save(job.arrays, samples)
    np.savez(job.archive, input=samples)


def job_of(case: Case, batch: int) -> Job:
    """A case with its places under the cache."""
    data = CACHE / "inputs" / f"{case.loader}-{case.samples}"
    runs = CACHE / "runs"
    for folder in (data.parent, runs):
        folder.mkdir(parents=True, exist_ok=True)
    return Job(
        case,
        model=runs / case.model,
        arrays=data.with_suffix(".npy"),
        archive=data.with_suffix(".npz"),
        output=runs / f"{case.name}.onnx",
        batch=batch,
    )


def run_all(
    jobs: Sequence[Job], tools: Sequence[str], repeats: int, venvs: Path
) -> list[Measurement]:
    """Every job by every tool, in turns."""
    found = []
    for turn in range(repeats):
        for job in jobs:
            for tool in tools if not job.case.is_growth else ("onnxqat",):
                found.append(measure(job, tool, venvs))
                last = found[-1]
                say(
                    f"{turn + 1}/{repeats} {last.case:22} {tool:12} "
                    f"{last.seconds:7.2f} s {last.megabytes:7.0f} MB"
                )
    return found


# Telling -----------------------------------------------------------------------------------------


def medians(measurements: Sequence[Measurement]) -> dict[tuple[str, str], Measurement]:
    """The median time and the median peak of each case and tool."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for one in measurements:
        groups.setdefault((one.case, one.tool), []).append(one)
    return {
        (case, tool): Measurement(
            case,
            tool,
            seconds=median(one.seconds for one in group),
            megabytes=median(one.megabytes for one in group),
        )
        for (case, tool), group in groups.items()
    }


def table(middle: dict[tuple[str, str], Measurement]) -> str:
    """Medians, and how many times onnxqat's each is."""
    lines = [f"{'case':22} {'tool':12} {'wall':>9} {'peak':>9}   {'x time':>6} {'x memory':>8}"]
    for (case, tool), one in middle.items():
        ours = middle.get((case, "onnxqat"), one)
        time_ratio, memory_ratio = one.seconds / ours.seconds, one.megabytes / ours.megabytes
        lines.append(
            f"{case:22} {tool:12} {one.seconds:7.2f} s {one.megabytes:6.0f} MB"
            f"   {time_ratio:6.2f} {memory_ratio:8.2f}"
        )
    return "\n".join(lines)


def missed(middle: dict[tuple[str, str], Measurement]) -> list[str]:
    """Where onnxqat is not the lowest, or its memory grows with the samples."""
    complaints = []
    for (case, tool), one in middle.items():
        ours = middle.get((case, "onnxqat"))
        if ours is None:
            continue
        if tool != "onnxqat" and one.seconds <= ours.seconds:
            complaints.append(f"{case}: slower than {tool}")
        if tool != "onnxqat" and one.megabytes <= ours.megabytes:
            complaints.append(f"{case}: more memory than {tool}")
        few = middle.get((case.removesuffix("-x10"), "onnxqat"), ours)
        growth = ours.megabytes / few.megabytes - 1
        if growth >= MOST_GROWTH:
            complaints.append(f"{case}: memory grew by {growth:.0%}")
    return complaints


def say(line: str) -> None:
    """Progress, apart from the results."""
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print the table, and judge it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in CASES])
    parser.add_argument("--tools", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--batch", type=int, default=BATCH, help="of the other tools")
    parser.add_argument("--venvs", type=Path, default=CACHE / "venvs")
    parser.add_argument("--json", type=Path, help="write every measurement here")
    parser.add_argument("--write-inputs", metavar="CASE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not ASSETS.is_dir():
        sys.exit(f"the models and data are not at {ASSETS}: set ONNXQAT_ASSETS")
    jobs = [job_of(case, arguments.batch) for case in CASES]
    if arguments.write_inputs is not None:
        write_inputs(next(job for job in jobs if job.case.name == arguments.write_inputs))
        return 0
    wanted = arguments.cases or [case.name for case in CASES]
    jobs = [job for job in jobs if job.case.name in wanted]
    for job in jobs:
        make_inputs(job)
    for tool in set(arguments.tools) & set(PEERS):
        PEERS[tool].install(arguments.venvs)
    measurements = run_all(jobs, arguments.tools, repeats=arguments.repeats, venvs=arguments.venvs)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(one) for one in measurements], indent=2))
    middle = medians(measurements)
    print(table(middle))
    complaints = missed(middle)
    print("\n".join(complaints or ["onnxqat is the lowest in time and memory everywhere"]))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
